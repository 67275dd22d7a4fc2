"""Native: our own decoding. Each prompt once through the model, and no step for answers that have ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from caseharden.engines.engine import Written, in_batches
from caseharden.engines.transformers import generate
from caseharden.lm.batch import Batch
from caseharden.lm.lm import LM

COMPACT = 0.75
"""Rows that ended are dropped from the cache as soon as at most this share of it is still being written."""


@dataclass(frozen=True)
class Native:
    """Writes answers with the package's own decoding, which reads a prompt once for all its answers.

    For a model whose cache does not allow it, as `Transformers` does. `batch_size` answers are written at a time:
    less for less memory. Greedy answers do not depend on it; sampled ones do, since random numbers are drawn batch
    by batch.
    """

    batch_size: int = 256

    def write(
        self, lm: LM, prompts: Sequence[list[int]], samples: int, limit: int, temperature: float, seed: int
    ) -> Written:
        by = decode if lm.capabilities.cache else generate
        return in_batches(by, self.batch_size, lm, prompts, samples, limit, temperature, seed)


@torch.no_grad()
def decode(lm: LM, batch: Batch, samples: int, limit: int, temperature: float) -> Written:
    """Write `samples` answers of at most `limit` tokens to each of the batch's P prompts: see `Engine.write`.

    Draws from PyTorch's global random numbers. Greedy answers equal those of Transformers' ``generate``.
    """
    by_row = lm.capabilities.rows
    if samples > 1 and not by_row:  # each answer reads its prompt itself
        rows = (batch.ids_BT, batch.attention_BT, batch.response_BT)
        return decode(lm, Batch(*(x.repeat_interleave(samples, 0) for x in rows)), 1, limit, temperature)
    ids_PT, attention_PT = batch.ids_BT, batch.attention_BT
    T, device = ids_PT.shape[1], ids_PT.device
    out = lm.forward(
        input_ids=ids_PT,
        attention_mask=attention_PT,
        position_ids=batch.positions_BT,
        use_cache=True,
        logits_to_keep=1,
    )
    cache = out.past_key_values
    if samples > 1:
        cache.batch_repeat_interleave(samples)
    logits_AV = out.logits[:, -1].repeat_interleave(samples, 0)
    position_A = batch.positions_BT[:, -1].repeat_interleave(samples, 0)
    B = len(logits_AV)
    # One column for each token still to come: what has been written so far is a slice, never a copy.
    attention_AT = torch.cat([attention_PT.repeat_interleave(samples, 0), attention_PT.new_ones(B, limit)], 1)
    ends_E = torch.tensor(lm.ends(), device=device)
    tokens_BN = ids_PT.new_zeros(B, limit)
    logps_BN = torch.zeros(B, limit, device=device)
    length_B = torch.full((B,), limit, device=device)
    # The cache has A rows, at first all B; rows_A says which answer each of them writes. An answer that has
    # ended goes on being written until enough others have: its row is dropped then, its length is kept now.
    rows_A = torch.arange(B, device=device)
    writing_A = torch.ones(B, dtype=torch.bool, device=device)
    for n in range(limit):
        next_A, logp_A = _pick(logits_AV, temperature)
        next_A = lm.placement.agree(next_A)  # who drew otherwise, by rounding, would end the loop at another time
        tokens_BN[rows_A, n], logps_BN[rows_A, n] = next_A, logp_A
        ended_A = writing_A & torch.isin(next_A, ends_E)
        length_B[rows_A[ended_A]] = n + 1
        writing_A = writing_A & ~ended_A
        left = int(writing_A.sum())
        if left == 0 or n + 1 == limit:
            break
        if by_row and left <= COMPACT * len(rows_A):
            kept = writing_A.nonzero()[:, 0]
            cache.batch_select_indices(kept)
            rows_A, next_A, position_A = rows_A[kept], next_A[kept], position_A[kept]
            attention_AT, writing_A = attention_AT[kept], writing_A[kept]
        position_A = position_A + 1
        logits_AV = lm.forward(
            input_ids=next_A[:, None],
            attention_mask=attention_AT[:, : T + n + 1],
            position_ids=position_A[:, None],
            past_key_values=cache,
            use_cache=True,
        ).logits[:, -1]
    lengths = length_B.tolist()
    tokens, logps = (
        [row[:length] for row, length in zip(x_BN.tolist(), lengths, strict=True)] for x_BN in (tokens_BN, logps_BN)
    )
    return Written(tokens, logps if temperature > 0 else None)


def _pick(logits_AV: Tensor, temperature: float) -> tuple[Tensor, Tensor | float]:
    """The next token of each row, and its log-probability where it was drawn."""
    if temperature == 0:
        return logits_AV.argmax(-1), 0.0
    p_AV = torch.softmax(logits_AV.float() / temperature, -1)
    next_A1 = torch.multinomial(p_AV, 1)
    return next_A1[:, 0], p_AV.gather(-1, next_A1)[:, 0].log()
