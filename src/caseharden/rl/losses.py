"""Losses of reinforcement learning as pure tensor functions."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from caseharden.lm.logps import full_precision

Over = Literal["sequence", "token", "sum", "length"]
"""What a loss is the mean of: each answer's mean, all tokens, each answer's sum, or that over the limit."""


def token_weights(mask_BN: Tensor, over: Over, limit: int) -> Tensor:
    """What each token's loss counts, [B, N]; `limit` is the length that an answer may have."""
    counts: dict[Over, Tensor | float] = {
        "sequence": mask_BN.sum(-1, keepdim=True) * len(mask_BN),
        "token": mask_BN.sum(),
        "sum": float(len(mask_BN)),
        "length": float(len(mask_BN) * limit),
    }
    return mask_BN / counts[over]


def clipped_surrogate(logps: Tensor, old: Tensor, advantages: Tensor, low: float, high: float) -> Tensor:
    """−min(ρA, clip(ρ, 1 − low, 1 + high)·A) with ρ = exp(logps − old) (PPO, Schulman et al. 2017, eq. 7)."""
    ratio = (logps - old).exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)


def importance(log_ratio: Tensor, cap: float) -> dict[str, Tensor]:
    """``importance``, min(p / p_engine, cap), and where it was ``truncated``; without gradient.

    What a loss under p counts where an engine has drawn the tokens from p_engine: truncated importance sampling
    (Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training").
    """
    ratio = log_ratio.detach().exp()
    return {"importance": ratio.clamp(max=cap), "truncated": (ratio > cap).float()}


def k3(logps: Tensor, reference: Tensor) -> Tensor:
    """Schulman's estimator of KL(policy ‖ reference) on the policy's own samples: never negative, unbiased."""
    log_ratio = reference - logps
    return log_ratio.exp() - log_ratio - 1


def token_noiser(logits_BTV: Tensor, targets_BT: Tensor, weight: float, noise_BTV: Tensor) -> Tensor:
    """−(1 − λ) log p(y*) − λ Σ_{v≠y*} z̃_v log p(v) at each position, [B, T], λ being `weight`.

    TokenBuncher's Token Noiser (Feng et al. 2025): z̃ is `noise_BTV`, positive, y* left out and summing to 1.
    """
    logps_BTV = F.log_softmax(full_precision(logits_BTV), dim=-1)
    noise_BTV = noise_BTV.scatter(-1, targets_BT[..., None], 0.0)
    noise_BTV = noise_BTV / noise_BTV.sum(-1, keepdim=True)
    own_BT = logps_BTV.gather(-1, targets_BT[..., None])[..., 0]
    return -(1 - weight) * own_BT - weight * (noise_BTV * logps_BTV).sum(-1)
