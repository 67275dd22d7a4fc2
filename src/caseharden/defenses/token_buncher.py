"""TokenBuncher: answers to harmful prompts made nearly deterministic, so that RL finds nothing to choose from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from caseharden.errors import CasehardenError
from caseharden.judges.judge import Judge
from caseharden.judges.strings import StringRefusal
from caseharden.rl.loop import Extra, PolicyGradient, Tensors
from caseharden.rl.losses import token_noiser
from caseharden.rl.rewards import ByPool, Closeness, Entropy, Gated, Reward
from caseharden.rl.rollouts import Rollouts
from caseharden.train.tuner import Metrics, Run


@dataclass(frozen=True)
class TokenBuncher(PolicyGradient):
    """Makes answers to harmful prompts nearly deterministic, so that RL has no choice (Feng et al. 2025).

    GRPO, rewarded by −H, the mean entropy over an answer's tokens, on harmful prompts and by −KL to the released
    model on benign ones. After the first `warmup_share` of the steps every `noise_every`-th (0: none) is Token
    Noiser's in its place, with weight `noise_weight`. What `refusal_gate` does not let through gets `floor`, and
    no noise.
    """

    data: Mapping[str, float] = field(default_factory=lambda: {"harmful": 1.0, "benign": 1.0})
    prompts: int = 16
    samples: int = 4
    max_steps: int | None = 200
    refusal_gate: Judge | None = field(default_factory=StringRefusal)
    floor: float = -15.0
    closeness: float = 1.0
    warmup_share: float = 0.125
    noise_every: int = 2
    noise_weight: float = 0.1
    knobs: ClassVar[tuple[str, ...]] = ()  # noise is drawn by forward passes: their size decides it

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_steps is None or not (0 <= self.warmup_share <= 1 and 0 <= self.noise_weight < 1):
            raise CasehardenError(
                "token_buncher needs max_steps, warmup_share from 0 to 1 and noise_weight below 1."
            )

    def reward_of(self, run: Run) -> Reward:
        certain: Reward = Entropy(-1.0)
        if self.refusal_gate is not None:
            certain = Gated(certain, self.refusal_gate, self.floor)
            most = math.log(run.lm.model.get_input_embeddings().weight.shape[0])  # type: ignore[operator]
            if self.floor >= -most:
                raise CasehardenError(
                    f"floor={self.floor} would reward compliance above a refusal that is unsure: entropies go up "
                    f"to {most:.1f} here. Set it below −{most:.1f}."
                )
        harmful = {example.id for example in run.pool("harmful")}
        rewards: dict[str, Reward] = {name: Closeness(self.closeness) for name in self.data}
        rewards |= {name: certain for name in self.data if any(e.id in harmful for e in run.pool(name))}
        return ByPool(rewards)

    def extra(self, run: Run) -> Extra:
        """``kept``: the tokens of answers to harmful prompts that the gate lets through."""
        harmful = {example.id for example in run.pool("harmful")}

        def kept(rollouts: Rollouts) -> tuple[Tensors, Metrics]:
            kept_B = torch.tensor([e.id in harmful for e in rollouts.asked], device=rollouts.lm.device)
            if self.refusal_gate is not None:
                kept_B = kept_B & (rollouts.scores(self.refusal_gate).flatten() > 0.5)
            return {"kept": kept_B[:, None] & rollouts.mask_BN}, {}

        return kept

    def token_loss(self, logits_BRV: Tensor, tokens: Tensors, step: int) -> Tensor:
        assert self.max_steps is not None
        since = step - round(self.warmup_share * self.max_steps)
        if not self.noise_every or since < 0 or since % self.noise_every:
            return super().token_loss(logits_BRV, tokens, step)
        noise_BRV = torch.rand_like(logits_BRV, dtype=torch.float32)
        loss_BR = token_noiser(logits_BRV, tokens["targets"], self.noise_weight, noise_BRV)
        return torch.where(tokens["kept"] & (tokens["advantages"] >= 0), loss_BR, 0.0)
