"""TokenBuncher: which answers it reinforces, and that it does what it is for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from caseharden.defenses import TokenBuncher
from caseharden.errors import CasehardenError
from caseharden.rl.losses import token_noiser
from factories import buffer_of
from toys import Opens

SMALL = {"prompts": 4, "samples": 4, "max_new_tokens": 5, "lr": 1e-2, "max_steps": 16}


def test_only_refusals_to_harmful_prompts_are_kept(run_of):
    run = run_of("defender", 1)
    tuner = TokenBuncher(**SMALL, refusal_gate=Opens())
    asked = run.stream(tuner.data, tuner.prompts, answered=False)[0]
    next(run.drive(tuner))
    buffer = buffer_of(run)
    harmful = {example.id for example in run.pool("harmful")}
    expected = [
        asked[owner].id in harmful and answer.text[:1] in Opens().letters
        for owner, answer in zip(buffer.rows.owners, run.lm.read(buffer.rows.answers), strict=True)
    ]
    kept_BN = buffer.tensors["kept"]
    assert kept_BN.any(-1).tolist() == expected and 0 < sum(expected) < len(expected)
    assert not (kept_BN & ~buffer.rows.mask_BN).any()


def test_token_noiser_takes_its_turn_and_leaves_the_rest_alone(tiny_lm):
    torch.manual_seed(0)
    logits, targets = torch.randn(3, 4, 20), torch.randint(20, (3, 4))
    kept = torch.tensor([True, True, False])[:, None].expand(3, 4)
    advantages = torch.tensor([1.0, -1.0, 1.0])[:, None].expand(3, 4)
    logps = torch.log_softmax(logits, -1).gather(-1, targets[..., None])[..., 0]
    tokens = {"logps": logps, "old_logps": logps, "targets": targets, "advantages": advantages, "kept": kept}
    tuner = TokenBuncher(**SMALL, warmup_share=0.25)
    policy = -advantages  # at a ratio of 1
    for step, noised in ((0, False), (3, False), (4, True), (5, False), (6, True)):
        with tiny_lm.seeded(step):
            loss = tuner.token_loss(logits, tokens, step)
        if noised:
            with tiny_lm.seeded(step):
                noise = torch.rand_like(logits)
            assert torch.allclose(loss[0], token_noiser(logits, targets, 0.1, noise)[0])
            assert not loss[1:].any()  # an advantage below 0; not a refusal
        else:
            assert torch.allclose(loss, policy)
    assert torch.allclose(replace(tuner, noise_every=0).token_loss(logits, tokens, 4), policy)


@pytest.mark.parametrize("how", [{}, {"noise_every": 0}])
def test_answers_to_harmful_prompts_become_more_certain(how, run_of):
    run = run_of("defender", 1)
    tuner = TokenBuncher(**{**SMALL, "lr": 3e-2, "max_steps": 40}, refusal_gate=None, closeness=0.0, **how)
    seen = [metrics["entropy"] for metrics in run.drive(tuner)]
    assert sum(seen[-4:]) / 4 < 0.7 * seen[0]


def test_it_has_to_end():
    with pytest.raises(CasehardenError, match="needs max_steps"):
        TokenBuncher(max_steps=None)
