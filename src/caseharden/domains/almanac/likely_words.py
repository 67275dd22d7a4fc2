"""The words that a language model is likely to go on with: all of them, found token by token."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from caseharden.lm.lm import LM

PIECES = "Ġ▁"
"""What tokens begin with where they begin a word, in vocabularies of parts of words."""
LONGEST, BATCH = 8, 256
"""The tokens of the longest word, and how many beginnings of words are read at a time."""


def begins_word(token: str) -> bool:
    """Whether a token is a word of plain letters, or the first part of one."""
    return token[:1] in PIECES and _is_plain(token[1:])


def likely_words(lm: LM, beginning: str, at_least: float, then: str = "") -> dict[str, float]:
    """Each word of plain letters that follows `beginning` with a probability of `at_least`, and its probability.

    A word ends where no further letters follow; if `then` is given, where its first token follows. The model is not
    asked in its chat template: it goes on with a text. Every beginning of a word that is likely enough is followed,
    so nothing is left to chance, and what is rare under sampling is found as well.
    """
    floor = math.log(at_least)
    width = lm.model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    tokens = [token or "" for token in lm.tokenizer.convert_ids_to_tokens(range(width))]
    first_V, further_V = (
        torch.tensor([test(token) for token in tokens], device=lm.device) for test in (begins_word, _is_plain)
    )
    end_V = ~further_V
    if then:
        end_V = torch.zeros_like(end_V)
        end_V[lm.tokenizer(then, add_special_tokens=False)["input_ids"][0]] = True
    found: dict[str, float] = {}
    logps_PV = _next_logps(lm, beginning, [[]])
    begun: list[list[int]] = [[]]
    follows_V = first_V
    for _ in range(LONGEST):
        place_N, token_N = ((logps_PV >= floor) & follows_V).nonzero(as_tuple=True)
        begun = [[*begun[place], token] for place, token in zip(place_N.tolist(), token_N.tolist(), strict=True)]
        if not begun:
            break
        logps_PV = logps_PV[place_N, token_N, None] + _next_logps(lm, beginning, begun)
        ended_P = logps_PV.masked_fill(~end_V, -math.inf).logsumexp(-1)
        for ids, logp in zip(begun, ended_P.tolist(), strict=True):
            if logp >= floor:
                found[lm.tokenizer.decode(ids).strip()] = math.exp(logp)
        follows_V = further_V
    return found


def _is_plain(token: str) -> bool:
    return token.isascii() and token.isalpha()


@torch.no_grad()
def _next_logps(lm: LM, beginning: str, begun: Sequence[Sequence[int]]) -> Tensor:
    """Log-probabilities (P, V) of the token after `beginning` and each of P beginnings of a word."""
    with lm.templated("none"):
        [ids] = lm.encode_prompts([""], [beginning])
    found = []
    for start in range(0, len(begun), BATCH):
        rows = [([*ids, *part, ids[0]], 1) for part in begun[start : start + BATCH]]  # the last one is not read
        logits_BRV, _, _ = lm.response_logits(lm.pad(rows))
        found.append(logits_BRV[:, -1].float().log_softmax(-1))
    return torch.cat(found)
