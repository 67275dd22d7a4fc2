"""What logits say of tokens: log-probabilities and entropies, as pure functions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def full_precision(logits: Tensor) -> Tensor:
    """Logits in float32, or in float64 where they are so already: sums over a vocabulary need it."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def scale_logits(logits: Tensor, temperature: float) -> Tensor:
    """logits / temperature, in full precision as samplers divide; at 1 as they are, without a copy."""
    return logits if temperature == 1 else full_precision(logits) / temperature


def token_logps(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """log p(target) at each position, [B, T]."""
    flat = F.cross_entropy(full_precision(logits_BTV).flatten(0, 1), targets_BT.flatten(), reduction="none")
    return -flat.view_as(targets_BT)


def entropy(logits_BTV: Tensor) -> Tensor:
    """Entropy of the next-token distribution at each position over the full vocabulary, [B, T]."""
    logps_BTV = F.log_softmax(full_precision(logits_BTV), dim=-1)
    return -(logps_BTV.exp() * logps_BTV).sum(-1)
