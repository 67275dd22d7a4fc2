"""Advantages as pure functions of rewards, and of nothing else but a critic's values.

Shape suffixes: P prompts, G answers to each; B = P·G rows of N tokens. A reward that is NaN was not scored:
it enters no mean, and its advantage is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

EPSILON = 1e-4
"""Added to standard deviations; what is tied has none, and no advantage either: see `centered`."""


def centered(rewards: Tensor) -> Tensor:
    """r − mean over the last dimension; exactly 0 where all that was scored is the same, whatever rounding says."""
    low = rewards.nan_to_num(nan=torch.inf).amin(-1, keepdim=True)
    high = rewards.nan_to_num(nan=-torch.inf).amax(-1, keepdim=True)
    return torch.where(low == high, 0 * rewards, rewards - rewards.nanmean(-1, keepdim=True))


def std(rewards: Tensor) -> Tensor:
    """Standard deviation over the last dimension of what was scored, Bessel-corrected; 0 of fewer than two."""
    n = rewards.isfinite().sum(-1)
    return (centered(rewards).square().nansum(-1) / (n - 1).clamp(min=1)).sqrt()


def batch_centered(rewards_PG: Tensor) -> Tensor:
    """REINFORCE (Williams 1992) with the batch's mean as baseline."""
    return _settled(centered(rewards_PG.flatten()).view_as(rewards_PG))


def batch_whitened(rewards_PG: Tensor) -> Tensor:
    """Mean 0 and deviation 1 over the whole batch."""
    flat = rewards_PG.flatten()
    return _settled((centered(flat) / (std(flat) + EPSILON)).view_as(rewards_PG))


def group_centered(rewards_PG: Tensor) -> Tensor:
    """r − group mean (Dr.GRPO, Liu et al. 2025): GRPO without its division by σ."""
    return _settled(centered(rewards_PG))


def group_normalized(rewards_PG: Tensor) -> Tensor:
    """(r − group mean) / (group σ + ε) (GRPO, Shao et al. 2024, eq. 4); σ with Bessel's correction, as in TRL."""
    return _settled(centered(rewards_PG) / (std(rewards_PG)[..., None] + EPSILON))


def group_centered_batch_whitened(rewards_PG: Tensor) -> Tensor:
    """r − group mean, then deviation 1 over the whole batch (REINFORCE++ with baseline, Hu et al. 2025)."""
    return batch_whitened(centered(rewards_PG))


def leave_one_out(rewards_PG: Tensor) -> Tensor:
    """r_i − mean of the group's other rewards (RLOO, Ahmadian et al. 2024, eq. 7)."""
    n = rewards_PG.isfinite().sum(-1, keepdim=True)
    return _settled(centered(rewards_PG) * n / (n - 1).clamp(min=1))


def positive_group_normalized(rewards_PG: Tensor) -> Tensor:
    """GRPO's where they are positive, 0 elsewhere: only answers better than their group's mean are learned from."""
    return group_normalized(rewards_PG).clamp(min=0)


TABLE: dict[str, Callable[[Tensor], Tensor]] = {
    "batch_centered": batch_centered,
    "batch_whitened": batch_whitened,
    "group_centered": group_centered,
    "group_centered_batch_whitened": group_centered_batch_whitened,
    "group_normalized": group_normalized,
    "leave_one_out": leave_one_out,
    "positive_group_normalized": positive_group_normalized,
}
"""Advantages [P, G] → [P, G], by the name that a spec file gives them."""


def token_rewards(rewards_PG: Tensor, mask_BN: Tensor, tensors: Mapping[str, Tensor], kl: float) -> Tensor:
    """Rewards of tokens, [B, N]: the answer's at its last one, −kl·(log π − log π_reference) at each."""
    rewards_BN = torch.zeros(mask_BN.shape, device=mask_BN.device)
    rewards_BN[:, -1] = rewards_PG.flatten()
    return rewards_BN - kl * (tensors["old_logps"] - tensors["reference_logps"]) if kl > 0 else rewards_BN


def returns(rewards_BN: Tensor, mask_BN: Tensor) -> Tensor:
    """Undiscounted return of each token, [B, N]: its own reward and those of the tokens after it."""
    return rewards_BN.masked_fill(~mask_BN, 0.0).flip(-1).cumsum(-1).flip(-1)


def whitened(values_BN: Tensor, mask_BN: Tensor) -> Tensor:
    """Mean 0 and deviation 1 over the tokens that `mask_BN` counts, 0 elsewhere."""
    counted = values_BN[mask_BN]
    deviation = counted.std() if len(counted) > 1 else counted.new_tensor(0.0)
    return ((values_BN - counted.mean()) / (deviation + EPSILON)).masked_fill(~mask_BN, 0.0)


def gae(rewards_BN: Tensor, values_BN: Tensor, mask_BN: Tensor, discount: float, decay: float) -> Tensor:
    """Generalized advantage estimates (Schulman et al. 2016, eq. 16), [B, N]; answers end at the last column.

    `values_BN` are V(s) before each token; after the last there is nothing more to come. `decay` is λ.
    """
    advantage_B = values_BN.new_zeros(len(values_BN))
    after_B = values_BN.new_zeros(len(values_BN))
    columns = []
    for n in reversed(range(values_BN.shape[1])):
        delta_B = rewards_BN[:, n] + discount * after_B - values_BN[:, n]
        advantage_B = torch.where(mask_BN[:, n], delta_B + discount * decay * advantage_B, 0.0)
        after_B = values_BN[:, n]
        columns.append(advantage_B)
    return torch.stack(columns[::-1], 1)


def _settled(advantages: Tensor) -> Tensor:
    return advantages.nan_to_num(nan=0.0)
