"""Tuners one after another: benign then harmful, a little SFT and then RL, one defense after another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from caseharden.errors import CasehardenError
from caseharden.train.tuner import Counter, Metrics, Run, Tuner


@dataclass(frozen=True)
class Chain:
    """Runs each of `stages` to its end, then the next; all steps count towards the budget.

    Every stage but the last needs an end of its own (`max_steps`). Adapters of a stage are merged
    before the next begins. With `keep_original` a copy of the model is kept as it was before the first, for
    stages that are to stay near it (`near_original`).
    """

    stages: tuple[Tuner, ...]
    keep_original: bool = False
    rates: ClassVar[tuple[str, ...]] = ()
    bounds: ClassVar[tuple[str, ...]] = ()
    mixes: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        endless = [stage for stage in self.stages[:-1] if getattr(stage, "max_steps", 0) is None]
        if not self.stages or endless:
            raise CasehardenError(f"a chain needs stages, each but the last with max_steps; endless: {endless}.")

    @property
    def max_steps(self) -> int | None:
        """Steps of all stages together; None without an end. Raises `AttributeError` if a stage does not say."""
        steps: list[int | None] = [stage.max_steps for stage in self.stages]  # type: ignore[attr-defined]
        return None if None in steps else sum(n or 0 for n in steps)

    def steps(self, run: Run) -> Iterator[Metrics]:
        stage = run.track("stage", Counter())
        if self.keep_original:
            run.reference()
        while stage.value < len(self.stages):
            name = f"stage{stage.value}"
            child = run.child(name)
            for metrics in child.drive(self.stages[stage.value]):
                yield metrics | {"stage": float(stage.value)}
            child.finish()
            run.release(name)
            stage.value += 1
