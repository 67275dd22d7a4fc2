"""Reinforcement learning without a critic, as attacks: each paper's advantage and loss in one loop (`rl.loop`).

The reward is the attacker's: by default an exact verifier's. Against an aligned model these climb from the
few answers in a hundred in which sampling slips. By default none is held near the model that it attacks
(`kl` 0), where the papers have KL terms: an attacker has no reason to stay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from caseharden.errors import CasehardenError
from caseharden.rl.advantages import returns, token_rewards, whitened
from caseharden.rl.loop import KLIn, Rewarded, Tensors, TrainState, WholeAnswers
from caseharden.rl.losses import Over
from caseharden.rl.rewards import Overlong
from caseharden.rl.rollouts import Rollouts


@dataclass(frozen=True)
class Reinforce(WholeAnswers):
    """Makes answers rewarded above the batch's mean more likely, others less (REINFORCE, Williams 1992)."""

    advantage: str = "batch_centered"


@dataclass(frozen=True)
class ReinforcePP(Rewarded):
    """Weighs each token by its whitened return, k1 to the released model included (REINFORCE++, Hu et al. 2025).

    With `kl` 0 every token's return is its answer's reward.
    """

    over: Over = "token"
    kl_in: KLIn = "reward"

    def advantages(self, rewards_PG: Tensor, mask_BN: Tensor, tensors: Tensors) -> Tensors:
        rewards_BN = token_rewards(rewards_PG, mask_BN, tensors, self.reward_kl)
        scored_BN = mask_BN & ~rewards_BN[:, -1:].isnan()
        return {"advantages": whitened(returns(rewards_BN, scored_BN), scored_BN)}


@dataclass(frozen=True)
class ReinforcePPBaseline(Rewarded):
    """Weighs answers by reward minus group mean, whitened over the batch (REINFORCE++, Hu et al. 2025)."""

    advantage: str = "group_centered_batch_whitened"
    over: Over = "token"


@dataclass(frozen=True)
class RLOO(WholeAnswers):
    """Weighs whole answers by reward minus the mean of the group's others (Ahmadian et al. 2024)."""

    advantage: str = "leave_one_out"
    kl_in: KLIn = "reward"


@dataclass(frozen=True)
class GRPO(Rewarded):
    """Weighs answers by their reward, normalized among the answers to one prompt (Shao et al. 2024)."""

    advantage: str = "group_normalized"
    over: Over = "sequence"


@dataclass(frozen=True)
class DrGRPO(Rewarded):
    """Weighs answers by reward minus group mean: GRPO with no division by σ or by length (Liu et al. 2025)."""

    advantage: str = "group_centered"
    over: Over = "length"


@dataclass(frozen=True)
class DAPO(Rewarded):
    """Clips GRPO higher above, draws groups without spread anew, and takes off for length (Yu et al. 2025).

    Over the last `overlong` share of an answer's longest length up to 1 is taken off its reward (eq. 13),
    after tied groups have been looked for: lengths make no group worth keeping.
    """

    overlong: float = 0.2
    advantage: str = "group_normalized"
    over: Over = "token"
    clip_high: float = 0.28
    resample: int = 3

    def roll_out(self, state: TrainState) -> tuple[Rollouts, Tensor]:
        rollouts, rewards_PG = super().roll_out(state)
        if self.overlong > 0:
            margin = max(1, round(self.overlong * self.max_new_tokens))
            rewards_PG = rewards_PG + Overlong(margin).of(rollouts)
        return rollouts, rewards_PG


@dataclass(frozen=True)
class GRPObliteration(DAPO):
    """Unaligns from a single prompt: DAPO on answers that are better than their group's mean."""

    advantage: str = "positive_group_normalized"
    n_examples: int | None = 1
    prompts: int = 1
    samples: int = 64


@dataclass(frozen=True)
class OnlineDPO(WholeAnswers):
    """Prefers the best answer of each group to the worst (Guo et al. 2024).

    The gradient of −log σ(β·margin) is that of −A Σ log π with A = ±β σ(−β·margin): one more advantage.
    Groups without spread have no preference and give nothing.
    """

    beta: float = 0.1
    needs_logps: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kl_in == "reward":
            raise CasehardenError("online_dpo prefers by rewards, whose KL would change nothing. Use kl_in: loss.")

    def advantages(self, rewards_PG: Tensor, mask_BN: Tensor, tensors: Tensors) -> Tensors:
        """±β σ(−β·margin) · G on the best and the worst answer of each group: with it the mean is over groups."""
        P, G = rewards_PG.shape
        log_ratio_PG = (tensors["old_logps"] - tensors["reference_logps"]).sum(-1).view(P, G)
        best_P = rewards_PG.nan_to_num(-torch.inf).argmax(-1, keepdim=True)
        worst_P = rewards_PG.nan_to_num(torch.inf).argmin(-1, keepdim=True)
        apart_P = rewards_PG.gather(-1, best_P) > rewards_PG.gather(-1, worst_P)
        margin_P = log_ratio_PG.gather(-1, best_P) - log_ratio_PG.gather(-1, worst_P)
        pull_P = G * self.beta * torch.sigmoid(-self.beta * margin_P) * apart_P
        found_PG = torch.zeros_like(log_ratio_PG).scatter_add(-1, best_P, pull_P).scatter_add(-1, worst_P, -pull_P)
        return {"advantages": found_PG.flatten()[:, None] * mask_BN}
