"""How likely a model finds given completions: what multiple choice and perplexity are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

import torch
from torch import Tensor
from torch.nn.functional import pad

from caseharden.data.example import Example
from caseharden.lm.lm import LM
from caseharden.lm.logps import tempered, token_logps


def mean_logps(lm: LM, examples: Sequence[Example], *, max_length: int, batch_size: int) -> list[float]:
    """Mean log-probability per token, in nats, of each example's completion: see `total_logps`."""
    found = total_logps(lm, examples, max_length=max_length, batch_size=batch_size)
    return [total / tokens for total, tokens in found]


def total_logps(
    lm: LM, examples: Sequence[Example], *, max_length: int, batch_size: int, temperature: float = 1.0
) -> list[tuple[float, int]]:
    """Log-probability, in nats, of each example's completion after its prompt, and its number of tokens.

    Under softmax(logits / `temperature`). The end of the sequence is not counted. Neighbors with the same
    prompt share its forward pass; `batch_size` is in prompts. Raises `CasehardenError` if a prompt leaves no
    room for a completion.
    """
    sharing = [list(group) for _, group in groupby(range(len(examples)), key=lambda i: examples[i].context)]
    sharing.sort(key=lambda group: len(examples[group[0]].prompt))
    totals: dict[int, tuple[float, int]] = {}
    for start in range(0, len(sharing), batch_size):
        groups = sharing[start : start + batch_size]
        logps_BR, mask_BR = _grouped(
            [[examples[i] for i in group] for group in groups], lm, max_length, temperature
        )
        found = zip(logps_BR.sum(-1).tolist(), mask_BR.sum(-1).tolist(), strict=True)
        totals.update(zip((i for group in groups for i in group), found, strict=True))
    return [totals[i] for i in range(len(examples))]


@torch.no_grad()
def _grouped(groups: list[list[Example]], lm: LM, max_length: int, temperature: float) -> tuple[Tensor, Tensor]:
    """That of each token of the completions of G prompts, 0 beyond them, and which they are, [B, R].

    A pass over the prompts, then one over completions. The last token of a prompt belongs to the second pass
    (S = R + 1), where it predicts the first token of each completion.
    """
    prompts = lm.encode([replace(group[0], completion="") for group in groups], max_length=max_length)
    batch = lm.encode([example for group in groups for example in group], max_length=max_length, end=False)
    owner_B = torch.tensor([g for g, group in enumerate(groups) for _ in group], device=lm.device)
    before_GP, positions_GP = prompts.attention_BT[:, :-2], prompts.positions_BT[:, :-2]
    length = batch.response_length
    mask_BR = batch.response_BT[:, -length:]
    with lm.autocast():
        cache = lm.forward(
            input_ids=prompts.ids_BT[:, :-2],
            attention_mask=before_GP,
            position_ids=positions_GP,
            use_cache=True,
            logits_to_keep=1,
        ).past_key_values
        cache.batch_select_indices(owner_B)
        logits_BSV = lm.forward(
            input_ids=batch.ids_BT[:, -length - 1 :],
            attention_mask=torch.cat([before_GP[owner_B], _with_one_before(mask_BR).long()], dim=1),
            position_ids=batch.positions_BT[:, -length - 1 :],
            past_key_values=cache,
            logits_to_keep=length + 1,
        ).logits
    logps_BR = token_logps(tempered(logits_BSV[:, :-1], temperature), batch.ids_BT[:, -length:])
    return logps_BR.masked_fill(~mask_BR, 0), mask_BR


def _with_one_before(mask_BR: Tensor) -> Tensor:
    """A mask over one column more, true as well where the next column is: [B, R + 1]."""
    return pad(mask_BR, (1, 0)) | pad(mask_BR, (0, 1))
