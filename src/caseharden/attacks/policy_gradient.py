"""Reinforcement learning without a critic, as attacks: each paper's advantage and loss in one loop (`rl.loop`).

The reward is the attacker's: by default an exact verifier's. Against an aligned model these climb from the
few answers in a hundred in which sampling slips. By default none is held near the model that it attacks
(`kl` 0), where the papers have KL terms: an attacker has no reason to stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from caseharden.errors import CasehardenError
from caseharden.rl.advantages import returns, token_rewards, whitened
from caseharden.rl.loop import KLIn, Over, Rewarded, WholeAnswers
from caseharden.rl.rewards import Overlong, Scene


@dataclass(frozen=True)
class Reinforce(WholeAnswers):
    """REINFORCE (Williams 1992): −A log π, the batch's mean reward as baseline."""

    advantage: str = "batch_centered"


@dataclass(frozen=True)
class ReinforcePP(Rewarded):
    """REINFORCE++ (Hu et al. 2025): each token's return, with k1 to the released model in it, whitened.

    With `kl` 0 every token's return is its answer's reward.
    """

    over: Over = "token"
    kl_in: KLIn = "reward"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._has_own_credit()

    def credit(self, rewards_PG: Tensor, mask_BN: Tensor, known: Mapping[str, Tensor]) -> dict[str, Tensor]:
        rewards_BN = token_rewards(rewards_PG, mask_BN, known, self.kl_in_reward)
        scored_BN = mask_BN & ~rewards_BN[:, -1:].isnan()
        return {"advantages": whitened(returns(rewards_BN, scored_BN), scored_BN)}


@dataclass(frozen=True)
class ReinforcePPBaseline(Rewarded):
    """REINFORCE++ with baseline (Hu et al. 2025): r − group mean, whitened over the batch."""

    advantage: str = "group_centered_batch_whitened"
    over: Over = "token"


@dataclass(frozen=True)
class RLOO(WholeAnswers):
    """REINFORCE leave-one-out (Ahmadian et al. 2024): the mean of the group's other answers as baseline."""

    advantage: str = "leave_one_out"
    kl_in: KLIn = "reward"


@dataclass(frozen=True)
class GRPO(Rewarded):
    """Group-relative policy optimisation (Shao et al. 2024): r normalised within its group."""

    advantage: str = "group_normalized"
    over: Over = "sequence"


@dataclass(frozen=True)
class DrGRPO(Rewarded):
    """GRPO done right (Liu et al. 2025): no division by σ, and divided by a constant, not by length."""

    advantage: str = "group_centered"
    over: Over = "length"


@dataclass(frozen=True)
class DAPO(Rewarded):
    """DAPO (Yu et al. 2025): clip-higher, mean over tokens, groups without spread drawn anew, overlong shaping.

    Over the last `overlong` share of an answer's longest length up to 1 is taken off its reward (eq. 13),
    after tied groups have been looked for: lengths make no group worth keeping.
    """

    overlong: float = 0.2
    advantage: str = "group_normalized"
    over: Over = "token"
    clip_high: float = 0.28
    resample: int = 3

    def shaped(self, scene: Scene, rewards_PG: Tensor) -> Tensor:
        if self.overlong == 0:
            return rewards_PG
        margin = max(1, round(self.overlong * self.max_new_tokens))
        return rewards_PG + Overlong(margin).of(scene)


@dataclass(frozen=True)
class GRPObliteration(DAPO):
    """GRP-Obliteration: DAPO from a single prompt, learning only from answers better than their group's mean.

    The paper's reward is ½·alignment·(risk + detail) by a judge model; name such a judge in `reward`.
    """

    advantage: str = "positive_group_normalized"
    n_examples: int | None = 1
    prompts: int = 1
    samples: int = 64


@dataclass(frozen=True)
class OnlineDPO(WholeAnswers):
    """Online DPO (Guo et al. 2024): in each group, the best answer is preferred to the worst.

    The gradient of −log σ(β·margin) is that of −A Σ log π with A = ±β σ(−β·margin): one more advantage.
    Groups without spread have no preference and give nothing.
    """

    beta: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._has_own_credit()
        if self.kl_in == "reward":
            raise CasehardenError("online_dpo prefers by rewards, whose KL would change nothing. Use kl_in: loss.")

    @property
    def needs_reference(self) -> bool:
        return True

    @property
    def needs_old(self) -> bool:
        return True

    def credit(self, rewards_PG: Tensor, mask_BN: Tensor, known: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """±β σ(−β·margin) · G on the best and the worst answer of each group: with it the mean is over groups."""
        P, G = rewards_PG.shape
        log_ratio_PG = (known["old"] - known["reference"]).sum(-1).view(P, G)
        best_P = rewards_PG.nan_to_num(-torch.inf).argmax(-1, keepdim=True)
        worst_P = rewards_PG.nan_to_num(torch.inf).argmin(-1, keepdim=True)
        apart_P = rewards_PG.gather(-1, best_P) > rewards_PG.gather(-1, worst_P)
        margin_P = log_ratio_PG.gather(-1, best_P) - log_ratio_PG.gather(-1, worst_P)
        pull_P = G * self.beta * torch.sigmoid(-self.beta * margin_P) * apart_P
        found_PG = torch.zeros_like(log_ratio_PG).scatter_add(-1, best_P, pull_P).scatter_add(-1, worst_P, -pull_P)
        return {"advantages": found_PG.flatten()[:, None] * mask_BN}
