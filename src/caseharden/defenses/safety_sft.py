"""Safety fine-tuning: teach refusals, keep the rest. The defense that all others are measured against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from caseharden.attacks.sft import SFT
from caseharden.train.objectives import Imitate, Objective


@dataclass(frozen=True)
class SafetySFT(SFT):
    """Fine-tunes on refusals mixed with benign and contrast examples, optionally near the released model.

    With `kl` > 0, KL(released ‖ trained) on the tokens of examples that are no refusals is added with that
    weight; with `hidden` > 0, the mean distance of hidden states to the released model's, on all. As a stage of a
    chain that keeps the original, it can stay near that one (`near_original`).
    """

    data: Mapping[str, float] = field(default_factory=lambda: {"refusal": 3.0, "benign": 4.0, "contrast": 1.0})
    lr: float = 3e-5
    max_steps: int | None = 100
    kl: float = 0.0
    hidden: float = 0.0
    near_original: bool = False

    def objectives(self) -> Mapping[str, Objective]:
        batches = (self.data, self.batch_size, self.max_length, self.n_examples)
        return {"loss": Imitate(*batches, self.over, self.kl, self.hidden, self.near_original)}
