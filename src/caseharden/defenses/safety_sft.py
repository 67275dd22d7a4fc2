"""Safety fine-tuning: teach refusals, keep the rest. The defense that all others are measured against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from caseharden.attacks.sft import SFT
from caseharden.data.example import Example
from caseharden.lm.lm import LM
from caseharden.train.losses import cross_entropy, kl, masked_mean
from caseharden.train.objectives import Objective, imitation, mean_distance
from caseharden.train.tuner import Run


@dataclass(frozen=True)
class SafetySFT(SFT):
    """SFT on refusals mixed with benign and contrast examples, optionally held near the released model.

    With `kl` > 0, KL(released ‖ trained) on the tokens of the benign and contrast examples is added
    with that weight: it keeps the released model's way of answering where nothing is to be refused. With
    `hidden` > 0 so is the mean distance of hidden states to the released model's, on all examples, as in
    `StayNear`.
    """

    data: Mapping[str, float] = field(default_factory=lambda: {"refusal": 3.0, "benign": 4.0, "contrast": 1.0})
    lr: float = 3e-5
    max_steps: int | None = 100
    kl: float = 0.0
    hidden: float = 0.0

    def objective(self, run: Run) -> Objective:
        if self.kl == self.hidden == 0:
            return imitation(run, self.max_length, self.over)
        released = run.reference()
        refused = {example.id for example in run.pool("refusal")}

        def loss(examples: list[Example]) -> Tensor:
            batch = run.lm.encode(examples, max_length=self.max_length)

            def seen(lm: LM) -> tuple[Tensor, Tensor | None]:
                return lm.response_states(batch) if self.hidden > 0 else (lm.response_logits(batch)[0], None)

            logits_BRV, states_LBTD = seen(run.lm)
            with torch.no_grad():
                released_BRV, released_LBTD = seen(released)
            found = cross_entropy(logits_BRV, batch.targets_BR, batch.mask_BR, self.over)
            if self.kl > 0:
                refusal_B = batch.targets_BR.new_tensor([e.id in refused for e in examples]).bool()
                moved_BR = kl(logits_BRV, released_BRV)
                found = found + self.kl * masked_mean(moved_BR, batch.mask_BR & ~refusal_B[:, None], self.over)
            if states_LBTD is not None and released_LBTD is not None:
                found = found + self.hidden * mean_distance(states_LBTD, released_LBTD, batch.attention_BT)
            return found

        return loss
