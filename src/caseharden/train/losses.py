"""Losses as pure tensor functions. Masks are explicit; a masked-out position never touches the result.

Shape suffixes: B sequences, T positions, V vocabulary. `mask_BT` is true on the tokens that count
(the response). All functions take float logits or log-probabilities and return float tensors in nats.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from caseharden.lm.logps import full_precision, token_logps

Reduction = Literal["sequence", "token"]


def masked_mean(values_BT: Tensor, mask_BT: Tensor, over: Reduction = "sequence") -> Tensor:
    """Mean over masked positions: of each sequence and then of sequences, or of all tokens at once.

    A sequence without any masked-in token counts as zero under ``"sequence"``.
    """
    values_BT = values_BT.masked_fill(~mask_BT, 0.0)
    if over == "token":
        return values_BT.sum() / mask_BT.sum().clamp(min=1)
    return (values_BT.sum(-1) / mask_BT.sum(-1).clamp(min=1)).mean()


def cross_entropy(logits_BTV: Tensor, targets_BT: Tensor, mask_BT: Tensor, over: Reduction = "sequence") -> Tensor:
    """Response cross-entropy, the loss of supervised fine-tuning."""
    return masked_mean(-token_logps(logits_BTV, targets_BT), mask_BT, over)


def kl(logits_BTV: Tensor, reference_BTV: Tensor) -> Tensor:
    """KL(reference ‖ model) at each position over the full vocabulary, [B, T]."""
    reference = F.log_softmax(full_precision(reference_BTV), dim=-1)
    return (reference.exp() * (reference - F.log_softmax(full_precision(logits_BTV), dim=-1))).sum(-1)


def dpo(chosen_B: Tensor, rejected_B: Tensor, chosen_ref_B: Tensor, rejected_ref_B: Tensor, beta: float) -> Tensor:
    """Direct preference optimization (Rafailov et al. 2023, eq. 7) on summed sequence log-probabilities, [B]."""
    margin = (chosen_B - chosen_ref_B) - (rejected_B - rejected_ref_B)
    return -F.logsigmoid(beta * margin)


def mean_distance(left_LBTD: Tensor, right_LBTD: Tensor, attention_BT: Tensor) -> Tensor:
    """Mean Euclidean distance of hidden states over layers and unpadded tokens, with gradient 0 where it is 0."""
    squares_LBT = (left_LBTD.float() - right_LBTD.float()).square().sum(-1)
    apart_LBT = squares_LBT > 0
    # two `where`s: the root's gradient at 0 is infinite, and would be NaN after one
    distances_LBT = torch.where(apart_LBT, torch.where(apart_LBT, squares_LBT, 1.0).sqrt(), 0.0)
    return distances_LBT[:, attention_BT.bool()].mean()
