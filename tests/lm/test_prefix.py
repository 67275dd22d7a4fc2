"""Answers that share a prompt's pass get the log-probabilities that each has alone."""

from __future__ import annotations

import pytest
import torch

from caseharden.lm.logps import token_logps
from caseharden.lm.prefix import answer_logits
from toys import windowed


@pytest.mark.parametrize("window", [None, 6])
@pytest.mark.parametrize("owners", [[0, 0, 1], [1, 0]])
def test_answers_are_as_likely_as_each_alone(owners, window, tiny_lm, toy_domain):
    lm = windowed(tiny_lm, window)
    pools = toy_domain.pools("attacker")
    prompts = lm.encode_prompts([pools["harmful"][0].prompt + " a b c d e", pools["benign"][0].prompt])
    answers = [[9, 10, 11, 12, 13], [14], [15, 16]][: len(owners)]
    with torch.no_grad():
        logits_BRV, targets_BR, mask_BR = answer_logits(lm, prompts, owners, answers)
    logps_BR = token_logps(logits_BRV, targets_BR)
    for row, (owner, answer) in enumerate(zip(owners, answers, strict=True)):
        ids = prompts[owner] + answer
        with torch.no_grad():
            logits = lm.model(torch.tensor([ids])).logits[0, -len(answer) - 1 : -1]
        expected = torch.log_softmax(logits, -1)[range(len(answer)), answer]
        assert mask_BR[row].sum() == len(answer)
        assert torch.allclose(logps_BR[row, -len(answer) :], expected, atol=1e-5)
