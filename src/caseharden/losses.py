"""Losses as pure tensor functions. Masks are explicit; a masked-out position never touches the result.

Shape suffixes: B sequences, T positions, V vocabulary. `mask_BT` is true on the tokens that count
(the response). All functions take float logits or log-probabilities and return float tensors in nats.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Reduction = Literal["sequence", "token"]


def masked_mean(values_BT: Tensor, mask_BT: Tensor, over: Reduction = "sequence") -> Tensor:
    """Mean over masked positions: of each sequence and then of sequences, or of all tokens at once.

    A sequence without any masked-in token counts as zero under ``"sequence"``.
    """
    values_BT = values_BT.masked_fill(~mask_BT, 0.0)
    if over == "token":
        return values_BT.sum() / mask_BT.sum().clamp(min=1)
    return (values_BT.sum(-1) / mask_BT.sum(-1).clamp(min=1)).mean()


def full_precision(logits: Tensor) -> Tensor:
    """Logits in float32, or in float64 where they are so already: sums over a vocabulary need it."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def tempered(logits: Tensor, temperature: float) -> Tensor:
    """logits / temperature, in full precision as samplers divide; at 1 as they are, without a copy."""
    return logits if temperature == 1 else full_precision(logits) / temperature


def token_logps(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """log p(target) at each position, [B, T]."""
    flat = F.cross_entropy(full_precision(logits_BTV).flatten(0, 1), targets_BT.flatten(), reduction="none")
    return -flat.view_as(targets_BT)


def cross_entropy(logits_BTV: Tensor, targets_BT: Tensor, mask_BT: Tensor, over: Reduction = "sequence") -> Tensor:
    """Response cross-entropy, the loss of supervised fine-tuning."""
    return masked_mean(-token_logps(logits_BTV, targets_BT), mask_BT, over)


def entropy(logits_BTV: Tensor) -> Tensor:
    """Entropy of the next-token distribution at each position over the full vocabulary, [B, T]."""
    logps_BTV = F.log_softmax(full_precision(logits_BTV), dim=-1)
    return -(logps_BTV.exp() * logps_BTV).sum(-1)


def kl(logits_BTV: Tensor, reference_BTV: Tensor) -> Tensor:
    """KL(reference ‖ model) at each position over the full vocabulary, [B, T]."""
    reference = F.log_softmax(full_precision(reference_BTV), dim=-1)
    return (reference.exp() * (reference - F.log_softmax(full_precision(logits_BTV), dim=-1))).sum(-1)


def dpo(chosen_B: Tensor, rejected_B: Tensor, chosen_ref_B: Tensor, rejected_ref_B: Tensor, beta: float) -> Tensor:
    """Direct preference optimisation (Rafailov et al. 2023, eq. 7) on summed sequence log-probabilities, [B]."""
    margin = (chosen_B - chosen_ref_B) - (rejected_B - rejected_ref_B)
    return -F.logsigmoid(beta * margin)


def clipped_surrogate(logps: Tensor, old: Tensor, advantages: Tensor, low: float, high: float) -> Tensor:
    """−min(ρA, clip(ρ, 1 − low, 1 + high)·A) with ρ = exp(logps − old) (PPO, Schulman et al. 2017, eq. 7)."""
    ratio = (logps - old).exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)


def k3(logps: Tensor, reference: Tensor) -> Tensor:
    """Schulman's estimator of KL(policy ‖ reference) on the policy's own samples: never negative, unbiased."""
    log_ratio = reference - logps
    return log_ratio.exp() - log_ratio - 1


def token_noiser(logits_BTV: Tensor, targets_BT: Tensor, weight: float, noise_BTV: Tensor | None) -> Tensor:
    """−(1 − λ) log p(y*) − λ Σ_{v≠y*} z̃_v log p(v) at each position, [B, T], λ being `weight`.

    TokenBuncher's Token Noiser (Feng et al. 2025): z̃ is `noise_BTV`, positive, y* left out and summing to 1;
    uniform if None.
    """
    logps_BTV = F.log_softmax(full_precision(logits_BTV), dim=-1)
    noise = torch.ones_like(logps_BTV) if noise_BTV is None else noise_BTV
    noise = noise.scatter(-1, targets_BT[..., None], 0.0)
    noise = noise / noise.sum(-1, keepdim=True)
    own_BT = logps_BTV.gather(-1, targets_BT[..., None])[..., 0]
    return -(1 - weight) * own_BT - weight * (noise * logps_BTV).sum(-1)


def global_norm(tensors: list[Tensor]) -> Tensor:
    """Euclidean norm of all `tensors` together, scalar."""
    if not tensors:
        return torch.zeros(())
    total: Tensor = torch.linalg.vector_norm(torch.stack(list(torch._foreach_norm(tensors))))
    return total
