"""FineTune: the loop of every method that minimizes objectives at the weights as they stand."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

from caseharden.errors import CasehardenError
from caseharden.lm.frame import TemplateName
from caseharden.train.adapters import LoRA
from caseharden.train.objectives import Objective, OnBatches
from caseharden.train.optim import Descends, Descent
from caseharden.train.scopes import Scope
from caseharden.train.tuner import Metrics, Run


@dataclass(frozen=True)
class FineTune(Descends):
    """Minimize a sum of objectives, all parameters, those in a `scope` or LoRA, with one optimizer step a batch.

    `template` is what the prompts are written in: ``chat``, the model's own, ``instruction`` or ``none``.
    `forward_batch` is how many examples go through the model at a time, all of a batch if None: it decides how much
    memory a step takes, and nothing else.
    """

    lora: LoRA | None = field(default=None, kw_only=True)
    scope: Scope | None = field(default=None, kw_only=True)
    template: TemplateName = field(default="chat", kw_only=True)
    forward_batch: int | None = field(default=None, kw_only=True)
    bounds: ClassVar[tuple[str, ...]] = ("lora", "scope")
    knobs: ClassVar[tuple[str, ...]] = ("forward_batch",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lora and self.scope:
            raise CasehardenError(
                f"adapters go into all layers, so a scope ({self.scope}) has no meaning with lora."
            )
        if self.forward_batch is not None and self.lora and self.lora.dropout:
            raise CasehardenError("dropout is drawn by forward passes, so forward_batch would change results.")
        self.objectives()  # a field that one of them refuses is an error now, not when training begins

    @abstractmethod
    def objectives(self) -> Mapping[str, Objective]:
        """What is summed, by the names under which each step reports it; ``loss`` is the name of the sum."""

    def steps(self, run: Run) -> Iterator[Metrics]:
        objectives = self.objectives()
        parameters = run.trainable(self.lora, self.scope)
        with run.lm.templated(self.template):
            losses = {name: self._in_parts(one).prepare(run) for name, one in objectives.items()}
        examples = sum(objective.batch_size for objective in objectives.values())
        descent = run.track("descent", Descent(self, parameters, run.lm.memory))
        for step in run.range(self.max_steps):
            with run.lm.training(), run.lm.templated(self.template):
                found = {name: loss.backward(step) for name, loss in losses.items()}
            yield {**found, "loss": sum(found.values()), **descent.step(), "examples": examples}

    def _in_parts(self, objective: Objective) -> Objective:
        """The objective with so many examples at a time as the method says, if it says."""
        if self.forward_batch is None:
            return objective
        if not isinstance(objective, OnBatches):
            raise CasehardenError(
                f"{type(objective).__name__} cannot take a batch in parts. Leave forward_batch out, or make it an "
                "`OnBatches`."
            )
        return replace(objective, forward_batch=self.forward_batch)
