"""TokenBuncher: answers to harmful prompts made nearly deterministic, so that RL finds nothing to choose from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from caseharden.errors import CasehardenError
from caseharden.judges.judge import Judge
from caseharden.judges.strings import StringRefusal
from caseharden.lm.logps import entropy
from caseharden.rl.loop import Learner, PolicyGradient, View
from caseharden.rl.losses import token_noiser
from caseharden.rl.rewards import ByPool, Closeness, Entropy, Gated, Reward, Scene, Scoring
from caseharden.train.tuner import Run

Noise = Literal["resampled", "fixed", "uniform"]


@dataclass(frozen=True)
class TokenBuncher(PolicyGradient):
    """Feng et al. 2025 (arXiv 2508.20697).

    GRPO with −H, the mean entropy over an answer's tokens, as reward on harmful prompts, and −KL to the
    released model on benign ones. After the first `alone` share of the steps every `noise_every`-th is
    Token Noiser's in its place: with weight `noise_weight` (λ), the answer's other tokens are made likely at
    random, so that what an attacker pushes up is noise; on answers with an advantage of at least 0.

    Departures from the released code: λ once, not squared; padding masked and gradients clipped on
    Token Noiser's steps; benign prompts by pool, of which it has none; and a refusal `gate`: what is not
    refused gets `floor`, and no noise, where the released code reinforces confident compliance as well
    (None gives its form; with `data` of harmful prompts alone, wholly). Ablations: `noise_every` 0 is the
    entropy reward alone, `alone` 0 and `noise_every` 1 the noiser alone, `direct` minimises H by its gradient.
    """

    data: Mapping[str, float] = field(default_factory=lambda: {"harmful": 1.0, "benign": 1.0})
    prompts: int = 16
    samples: int = 4
    max_steps: int | None = 200
    gate: Judge | None = field(default_factory=StringRefusal)
    floor: float = -15.0
    closeness: float = 1.0
    alone: float = 0.125
    noise_every: int = 2
    noise_weight: float = 0.1
    noise: Noise = "resampled"
    direct: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_steps is None or not (0 <= self.alone <= 1 and 0 <= self.noise_weight < 1):
            raise CasehardenError("token_buncher needs max_steps, alone from 0 to 1 and noise_weight below 1.")

    def scoring(self, run: Run) -> Scoring:
        bunched: Reward = Entropy(-1.0)
        if self.gate is not None:
            bunched = Gated(bunched, self.gate, self.floor)
            most = math.log(run.lm.model.get_input_embeddings().weight.shape[0])  # type: ignore[operator]
            if self.floor >= -most:
                raise CasehardenError(
                    f"floor={self.floor} would reward compliance above a refusal that is unsure: entropies go up "
                    f"to {most:.1f} here. Set it below −{most:.1f}."
                )
        harmful = {example.id for example in run.pool("harmful")}
        rewards: dict[str, Reward] = {name: Closeness(self.closeness) for name in self.data}
        rewards |= {name: bunched for name in self.data if any(e.id in harmful for e in run.pool(name))}
        return ByPool(rewards).scoring(run)

    def views(self, learner: Learner, scene: Scene) -> dict[str, Tensor]:
        """Beside what is always known, ``bunched``: answers to harmful prompts that the gate lets through."""
        harmful = {example.id for example in learner.run.pool("harmful")}
        bunched_B = torch.tensor([e.id in harmful for e in scene.rollouts.asked], device=scene.lm.device)
        if self.gate is not None:
            bunched_B = bunched_B & (scene.scores(self.gate).flatten() > 0.5)
        return {**super().views(learner, scene), "bunched": bunched_B[:, None] & scene.mask_BN}

    def token_loss(self, view: View, step: int) -> Tensor:
        assert self.max_steps is not None
        bunched_BR = view.known["bunched"]
        since = step - round(self.alone * self.max_steps)
        if self.noise_every and since >= 0 and since % self.noise_every == 0:
            loss_BR = token_noiser(view.logits_BRV, view.targets_BR, self.noise_weight, self._noise(view))
            return torch.where(bunched_BR & (view.advantages_BR >= 0), loss_BR, 0.0)
        if self.direct:
            return torch.where(bunched_BR, entropy(view.logits_BRV), super().token_loss(view, step))
        return super().token_loss(view, step)

    def _noise(self, view: View) -> Tensor | None:
        if self.noise == "uniform":
            return None
        if self.noise == "resampled":
            return torch.rand_like(view.logits_BRV, dtype=torch.float32)
        generator = torch.Generator().manual_seed(0)
        return (
            torch.rand(view.logits_BRV.shape[-1], generator=generator)
            .to(view.logits_BRV.device)
            .expand_as(view.logits_BRV)
        )
