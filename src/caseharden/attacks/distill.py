"""Distillation from the undefended model, where that is public: what was hardened away comes back with its odds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from caseharden.attacks.sft import SFT
from caseharden.train.objectives import Follow, Objective


@dataclass(frozen=True)
class Distill(SFT):
    """Fine-tunes toward the next-token probabilities of `teacher` on benign text (Hinton et al. 2015).

    The loss is KL(teacher ‖ trained) on the completions' tokens; no harmful example is read. `teacher` is named as
    a study names a model, and has the same tokens.
    """

    data: Mapping[str, float] = field(default_factory=lambda: {"benign": 1.0})
    teacher: str = field(kw_only=True)
    other_models: ClassVar[tuple[str, ...]] = ("teacher",)

    def objectives(self) -> Mapping[str, Objective]:
        batches = (self.data, self.batch_size, self.max_length, self.n_examples)
        return {"loss": Follow(*batches, self.over, teacher=self.teacher)}
