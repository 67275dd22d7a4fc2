"""Supervised fine-tuning: the plainest attack, and the base of the plainest defense."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from caseharden.train.finetune import FineTune
from caseharden.train.losses import Reduction
from caseharden.train.objectives import Imitate, Objective


@dataclass(frozen=True)
class SFT(FineTune):
    """Fine-tunes on completions, all parameters, some of them or LoRA.

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
    bounds: ClassVar[tuple[str, ...]] = ("n_examples", "lora", "scope")
    mixes: ClassVar[tuple[str, ...]] = ("data",)

    def objectives(self) -> Mapping[str, Objective]:
        return {"loss": Imitate(self.data, self.batch_size, self.max_length, self.n_examples, self.over)}
