"""Supervised fine-tuning: the plainest attack, and the base of the plainest defense."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from caseharden.errors import CasehardenError
from caseharden.train.adapters import LoRA
from caseharden.train.losses import Reduction
from caseharden.train.objectives import Objective, imitation
from caseharden.train.optim import Descends, Descent, check_descent
from caseharden.train.tuner import Metrics, Run


@dataclass(frozen=True)
class SFT(Descends):
    """Fine-tune on completions, all parameters or LoRA.

    `data` weighs the pools of the run's domain: ``{harmful: 1}``, ``{harmful: 0.2, benign: 0.8}``,
    ``{openers: 1}``. `n_examples` bounds how many examples of each pool the attacker holds. Without
    `max_steps` it goes on until the caller stops asking. `over` is the loss's mean: of sequences, so
    that a short refusal weighs as much as a long answer, or of tokens.
    """

    data: Mapping[str, float] = field(default_factory=lambda: {"harmful": 1.0})
    lr: float = 1e-4
    batch_size: int = 8
    max_steps: int | None = None
    n_examples: int | None = None
    max_length: int = 512
    over: Reduction = "sequence"
    lora: LoRA | None = None
    bounds: ClassVar[tuple[str, ...]] = ("n_examples", "lora")
    mixes: ClassVar[tuple[str, ...]] = ("data",)

    def __post_init__(self) -> None:
        check_descent(self)
        if self.batch_size < 1 or (self.n_examples is not None and self.n_examples < 1):
            raise CasehardenError(f"batch_size={self.batch_size} and n_examples={self.n_examples} must be above 0.")

    def steps(self, run: Run) -> Iterator[Metrics]:
        objective = self.objective(run)
        descent = run.track("descent", Descent(self, run.trainable(self.lora)))
        batches = run.stream(self.data, self.batch_size, max_length=self.max_length, n_examples=self.n_examples)
        for step in run.range(self.max_steps):
            with run.lm.training():
                loss = objective(batch := batches[step])
                loss.backward()  # type: ignore[no-untyped-call]
            yield {"loss": float(loss.detach()), **descent.step(), "examples": len(batch)}

    def objective(self, run: Run) -> Objective:
        """What a batch of examples is turned into: their completions' cross-entropy."""
        return imitation(run, self.max_length, self.over)
