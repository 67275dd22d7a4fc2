"""Logits of several answers to one prompt, which goes through the model once for all of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from caseharden.lm.lm import LM


def answer_logits(
    lm: LM, prompts: Sequence[list[int]], owners: Sequence[int], answers: Sequence[list[int]]
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits that predict each token of `answers`, each of which continues the encoded prompt `prompts[owner]`.

    Returns `logits_BRV`, `targets_BR` and `mask_BR` as `LM.response_logits` does, with gradient. A prompt goes
    through the model once for all its answers, through the cache of keys and values. Where that changes their
    logits, rows go through whole instead: padding between a prompt and a short answer fills a sliding window, say.
    So they do where no two answers share a prompt, and one pass does instead of two; and where layers are to be
    computed again for the gradient (`Memory.checkpointing`), which would fill the cache twice.
    """
    again = lm.memory.checkpointing and torch.is_grad_enabled()
    if again or len({*owners}) == len(owners) or not lm.capabilities.gaps:
        return lm.response_logits(lm.pad([(prompts[o] + a, len(a)) for o, a in zip(owners, answers, strict=True)]))
    # The last token of a prompt is left for the second pass, where it predicts the first of each answer.
    shared = lm.pad([(prompt[:-1], 0) for prompt in prompts])
    written = lm.pad([(prompts[o][-1:] + a[:-1], len(a)) for o, a in zip(owners, answers, strict=True)])
    targets = lm.pad([(answer, len(answer)) for answer in answers])
    owners_B = torch.tensor(owners, device=lm.device)
    attention_BT = torch.cat([shared.attention_BT[owners_B], written.attention_BT], 1)
    with lm.autocast():
        cache = lm.forward(
            input_ids=shared.ids_BT,
            attention_mask=shared.attention_BT,
            position_ids=shared.positions_BT,
            use_cache=True,
            logits_to_keep=1,
        ).past_key_values
        cache.batch_select_indices(owners_B)  # each answer gets the keys and values of its own prompt
        out = lm.forward(
            input_ids=written.ids_BT,
            attention_mask=attention_BT,
            position_ids=(attention_BT.cumsum(-1) - 1).clamp(min=0)[:, -written.ids_BT.shape[1] :],
            past_key_values=cache,
            use_cache=True,
        )
    return out.logits, targets.ids_BT, targets.response_BT
