"""FineTune: the loop of every method that minimizes objectives at the weights as they stand."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from caseharden.errors import CasehardenError
from caseharden.lm.frame import TemplateName
from caseharden.train.adapters import LoRA
from caseharden.train.objectives import Objective
from caseharden.train.optim import Descends, Descent
from caseharden.train.scopes import Scope
from caseharden.train.tuner import Metrics, Run


@dataclass(frozen=True)
class FineTune(Descends):
    """Minimize a sum of objectives, all parameters, those in a `scope` or LoRA, with one optimizer step a batch.

    `template` is what the prompts are written in: ``chat``, the model's own, ``instruction`` or ``none``.
    """

    lora: LoRA | None = field(default=None, kw_only=True)
    scope: Scope | None = field(default=None, kw_only=True)
    template: TemplateName = field(default="chat", kw_only=True)
    bounds: ClassVar[tuple[str, ...]] = ("lora", "scope")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lora and self.scope:
            raise CasehardenError(
                f"adapters go into all layers, so a scope ({self.scope}) has no meaning with lora."
            )
        self.objectives()  # a field that one of them refuses is an error now, not when training begins

    @abstractmethod
    def objectives(self) -> Mapping[str, Objective]:
        """What is summed, by the names under which each step reports it; ``loss`` is the name of the sum."""

    def steps(self, run: Run) -> Iterator[Metrics]:
        objectives = self.objectives()
        with run.lm.templated(self.template):
            losses = {name: objective.prepare(run) for name, objective in objectives.items()}
        examples = sum(objective.batch_size for objective in objectives.values())
        descent = run.track("descent", Descent(self, run.trainable(self.lora, self.scope)))
        for step in run.range(self.max_steps):
            with run.lm.training(), run.lm.templated(self.template):
                found = {name: loss(step) for name, loss in losses.items()}
                total = torch.stack([*found.values()]).sum()
                total.backward()  # type: ignore[no-untyped-call]
            parts = {name: float(value.detach()) for name, value in found.items()}
            yield {**parts, "loss": float(total.detach()), **descent.step(), "examples": examples}
