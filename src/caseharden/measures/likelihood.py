"""How likely a model finds given completions: what multiple choice and perplexity are made of."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

from caseharden.data.example import Example
from caseharden.lm.lm import LM
from caseharden.lm.logps import scale_logits, token_logps
from caseharden.lm.prefix import answer_logits


def mean_logps(lm: LM, examples: Sequence[Example], *, max_length: int, batch_size: int) -> list[float]:
    """Mean log-probability per token, in nats, of each example's completion: see `total_logps`."""
    found = total_logps(lm, examples, max_length=max_length, batch_size=batch_size)
    return [total / tokens for (total,), tokens in found]


def total_logps(
    lm: LM,
    examples: Sequence[Example],
    *,
    max_length: int,
    batch_size: int,
    temperatures: Sequence[float] = (1.0,),
) -> list[tuple[list[float], int]]:
    """Log-probabilities, in nats, of each example's completion after its prompt, and its number of tokens.

    One under softmax(logits / T) for each T of `temperatures`, all from one forward pass. The end of the
    sequence is not counted. Neighbors with the same prompt share its forward pass; `batch_size` is in prompts.
    Raises `CasehardenError` if a prompt leaves no room for a completion.
    """
    sharing = [list(group) for _, group in groupby(range(len(examples)), key=lambda i: examples[i].context)]
    sharing.sort(key=lambda group: len(examples[group[0]].prompt))
    totals: dict[int, tuple[list[float], int]] = {}
    for start in range(0, len(sharing), batch_size):
        groups = sharing[start : start + batch_size]
        logps_BK, tokens_B = _grouped(
            [[examples[i] for i in group] for group in groups], lm, max_length, temperatures
        )
        found = zip(logps_BK.tolist(), tokens_B.tolist(), strict=True)
        totals.update(zip((i for group in groups for i in group), found, strict=True))
    return [totals[i] for i in range(len(examples))]


@torch.no_grad()
def _grouped(
    groups: list[list[Example]], lm: LM, max_length: int, temperatures: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the completions of G prompts at K temperatures, [B, K], and their lengths, [B]."""
    rows = lm.token_rows([example for group in groups for example in group], max_length=max_length, turn=False)
    owners = [g for g, group in enumerate(groups) for _ in group]
    prompts = {owner: ids[:-length] for owner, (ids, length) in zip(owners, rows, strict=True)}
    answers = [ids[-length:] for ids, length in rows]
    logits_BRV, targets_BR, mask_BR = answer_logits(lm, list(prompts.values()), owners, answers)
    logps_BRK = torch.stack([token_logps(scale_logits(logits_BRV, T), targets_BR) for T in temperatures], -1)
    return logps_BRK.masked_fill(~mask_BR[..., None], 0).sum(1), mask_BR.sum(-1)
