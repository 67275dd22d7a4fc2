"""Decoding: each prompt once through the model, several answers from it, no step for answers that ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from caseharden.errors import CasehardenError
from caseharden.lm.meter import Meter

COMPACT = 0.75
"""Rows that ended are dropped from the cache as soon as at most this share of it is still being written."""


@torch.no_grad()
def decode(
    model: Any,
    ids_PT: Tensor,
    attention_PT: Tensor,
    *,
    samples: int = 1,
    max_new_tokens: int,
    temperature: float = 0.0,
    ends: Sequence[int],
    meter: Meter | None = None,
) -> list[list[int]]:
    """`samples` answers to each of P prompts, padded on the left: P · `samples` rows of token ids.

    Those of one prompt stand together. An answer that ended holds its end token; one that was cut off does
    not. Greedy at `temperature` 0, else drawn from softmax(logits / temperature) over the whole vocabulary
    with PyTorch's global random numbers. Equal to Transformers' own ``generate``, but that a prompt is read
    once for all its answers, and that answers which ended cost nothing more; where a cache cannot be taken apart
    by rows, neither. `meter` counts the tokens. Raises `CasehardenError` for a model without a cache of keys
    and values.
    """
    T, device = ids_PT.shape[1], ids_PT.device
    positions_PT = (attention_PT.cumsum(-1) - 1).clamp(min=0)
    read = (meter or Meter()).through
    out = read(
        model,
        input_ids=ids_PT,
        attention_mask=attention_PT,
        position_ids=positions_PT,
        use_cache=True,
        logits_to_keep=1,
    )
    cache = getattr(out, "past_key_values", None)
    if cache is None:
        raise CasehardenError(f"{type(model).__name__} keeps no cache of keys and values, which decoding needs.")
    by_row = all(hasattr(layer, "batch_select_indices") for layer in getattr(cache, "layers", [cache]))
    if samples > 1 and not by_row:
        again = (ids_PT.repeat_interleave(samples, 0), attention_PT.repeat_interleave(samples, 0))
        return decode(model, *again, max_new_tokens=max_new_tokens, temperature=temperature, ends=ends, meter=meter)
    if samples > 1:
        cache.batch_repeat_interleave(samples)
    logits_BV = out.logits[:, -1].repeat_interleave(samples, 0)
    position_B = positions_PT[:, -1].repeat_interleave(samples, 0)
    B = len(logits_BV)
    room_BN = attention_PT.new_ones(B, max_new_tokens)
    attention_BT = torch.cat([attention_PT.repeat_interleave(samples, 0), room_BN], 1)
    ends_E = torch.tensor(ends, device=device)
    tokens_BN = ids_PT.new_zeros(B, max_new_tokens)
    length_B = torch.full((B,), max_new_tokens, device=device)
    rows_A = torch.arange(B, device=device)  # which answer each row of the cache writes; A of them
    writing_A = torch.ones(B, dtype=torch.bool, device=device)
    for n in range(max_new_tokens):
        next_A = _pick(logits_BV, temperature)
        tokens_BN[rows_A, n] = next_A
        ended_A = writing_A & torch.isin(next_A, ends_E)
        length_B[rows_A[ended_A]] = n + 1
        writing_A = writing_A & ~ended_A
        left = int(writing_A.sum())
        if left == 0 or n + 1 == max_new_tokens:
            break
        if by_row and left <= COMPACT * len(rows_A):
            kept = writing_A.nonzero()[:, 0]
            cache.batch_select_indices(kept)
            rows_A, next_A, position_B = rows_A[kept], next_A[kept], position_B[kept]
            attention_BT, writing_A = attention_BT[kept], writing_A[kept]
        position_B = position_B + 1
        logits_BV = read(
            model,
            input_ids=next_A[:, None],
            attention_mask=attention_BT[:, : T + n + 1],
            position_ids=position_B[:, None],
            past_key_values=cache,
            use_cache=True,
        ).logits[:, -1]
    return [row[:length] for row, length in zip(tokens_BN.tolist(), length_B.tolist(), strict=True)]


def _pick(logits_BV: Tensor, temperature: float) -> Tensor:
    if temperature == 0:
        return logits_BV.argmax(-1)
    return torch.multinomial(torch.softmax(logits_BV.float() / temperature, -1), 1)[:, 0]
