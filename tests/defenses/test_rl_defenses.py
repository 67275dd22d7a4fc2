"""TokenBuncher and Reward Neutralization: which answers they reinforce, and that they do what they are for."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import pytest
import torch

from caseharden.defenses import RewardNeutralization, TokenBuncher
from caseharden.errors import CasehardenError
from caseharden.lm.lm import LM
from caseharden.rl.losses import token_noiser
from caseharden.rl.rewards import Judged
from caseharden.train.tuner import Run
from factories import buffer_of

SMALL = {"prompts": 4, "samples": 4, "max_new_tokens": 5, "lr": 1e-2, "max_steps": 16}


@dataclass(frozen=True)
class Opens:
    """A judge: 1 if the answer begins with one of these letters."""

    letters: str = "abcdefghijklm"
    version: str = "1"

    def score(self, answers):
        return [float(answer.output[:1] in self.letters) for answer in answers]


def run_of(lm: LM, domain) -> Run:
    return Run(LM(copy.deepcopy(lm.model), lm.tokenizer, lm.name), domain, "defender", 1)


def test_only_refusals_to_harmful_prompts_are_kept(tiny_lm, toy_domain):
    run = run_of(tiny_lm, toy_domain)
    tuner = TokenBuncher(**SMALL, refusal_gate=Opens())
    asked = run.stream(tuner.data, tuner.prompts, answered=False)[0]
    next(run.drive(tuner))
    buffer = buffer_of(run)
    harmful = {example.id for example in run.pool("harmful")}
    expected = [
        asked[owner].id in harmful and text[:1] in Opens().letters
        for owner, text in zip(buffer.rows.owners, run.lm.text(buffer.rows.answers), strict=True)
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


def test_the_noiser_is_the_printed_sum():
    torch.manual_seed(0)
    logits, targets, noise = torch.randn(2, 3, 7), torch.randint(7, (2, 3)), torch.rand(2, 3, 7)
    found = token_noiser(logits, targets, 0.3, noise)
    logps = torch.log_softmax(logits.double(), -1)
    for b in range(2):
        for t in range(3):
            y = int(targets[b, t])
            others = [v for v in range(7) if v != y]
            total = sum(float(noise[b, t, v]) for v in others)
            spread = sum(float(noise[b, t, v]) / total * float(logps[b, t, v]) for v in others)
            assert found[b, t] == pytest.approx(-0.7 * float(logps[b, t, y]) - 0.3 * spread, rel=1e-5)


@pytest.mark.parametrize("how", [{}, {"noise_every": 0}])
def test_answers_to_harmful_prompts_become_more_certain(how, tiny_lm, toy_domain):
    run = run_of(tiny_lm, toy_domain)
    tuner = TokenBuncher(**{**SMALL, "lr": 3e-2, "max_steps": 40}, refusal_gate=None, closeness=0.0, **how)
    seen = [metrics["entropy"] for metrics in run.drive(tuner)]
    assert sum(seen[-4:]) / 4 < 0.7 * seen[0]


def test_neutralization_reports_the_attackers_variance_and_ends(tiny_lm, toy_domain):
    run = run_of(tiny_lm, toy_domain)
    tuner = RewardNeutralization(
        **{**SMALL, "lr": 3e-2, "max_steps": 40}, brief=Judged(Opens()), attacker=Judged(Opens())
    )
    seen = [metrics["attacker_reward_variance"] for metrics in run.drive(tuner)]
    assert len(seen) == 40
    assert sum(seen[-8:]) < 0.5 * sum(seen[:8])  # all answers come to open as is wanted
    with pytest.raises(CasehardenError, match="needs max_steps"):
        RewardNeutralization(max_steps=None)
    with pytest.raises(CasehardenError, match="needs max_steps"):
        TokenBuncher(max_steps=None)
