"""The RL loop: it climbs what it is rewarded for, whatever it is cut into, and says so where it cannot."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch

from caseharden.attacks import DAPO, GRPO, PPO, RLOO, GRPObliteration, OnlineDPO, Reinforce
from caseharden.attacks.policy_gradient import ReinforcePP
from caseharden.engines.engine import generate_text
from caseharden.engines.native import Native
from caseharden.errors import CasehardenError, TrainingFailed
from caseharden.judges.judge import NAN
from caseharden.lm.lm import LM
from caseharden.rl.loop import PolicyGradient
from caseharden.rl.rewards import Judged, Sum
from caseharden.rl.rollouts import Rollouts, roll_out
from caseharden.train.losses import dpo
from caseharden.train.tuner import Run
from factories import buffer_of
from toys import Checksum, checksums

SMALL = {"prompts": 2, "samples": 4, "max_new_tokens": 5, "lr": 3e-2}


@dataclass(frozen=True)
class Says:
    """A judge: 1 if the answer has the word."""

    word: str = "yes"
    version: str = "1"

    def score(self, answers):
        return [float(self.word in answer.output.split()) for answer in answers]


@dataclass(frozen=True)
class Never:
    """A judge that always says 1."""

    version: str = "1"

    def score(self, answers):
        return [1.0] * len(answers)


@dataclass(frozen=True)
class Silent:
    """A judge that cannot tell: of every `every`-th answer, or of all."""

    every: int = 1
    version: str = "1"

    def score(self, answers):
        return [NAN if i % self.every == 0 else float(len(a.output) % 2) for i, a in enumerate(answers)]


def rewards(run: Run, tuner: PolicyGradient, steps: int) -> list[float]:
    seen = []
    for metrics in run.drive(tuner):
        seen.append(metrics.get("reward", seen[-1] if seen else 0.0))
        if run.step == steps:
            break
    return seen


CLIMBERS = {
    "grpo": GRPO(**SMALL),
    "reinforce": Reinforce(**SMALL),
    "reinforce_pp, kl": ReinforcePP(**SMALL, kl=0.01),
    "rloo": RLOO(**SMALL),
    "dapo": DAPO(**SMALL),
    "grp_obliteration": GRPObliteration(**{**SMALL, "samples": 16, "prompts": 1}),
    "online_dpo": OnlineDPO(**SMALL),
    "ppo": PPO(**SMALL, updates=2),
}


@pytest.mark.parametrize("name", CLIMBERS)
def test_every_algorithm_climbs_a_reward_that_it_meets_now_and_then(name, toy_domain, run_of):
    def share(lm: LM) -> float:
        prompts = [example.prompt for example in toy_domain.pools("attacker")["harmful"]]
        answers = generate_text(Native(), lm, prompts, temperature=1.0, max_new_tokens=5)
        return sum("b" in answer.text.split() for answer in answers) / len(answers)

    run = run_of("attacker", 1)
    assert share(run.lm) < 0.3
    rewards(run, replace(CLIMBERS[name], reward=Judged(Says("b"))), 60)
    assert share(run.lm) > 0.6


def test_no_spread_no_gradient(run_of):
    run = run_of("attacker", 1)
    before = run.lm.weights_hash()
    tied = Sum((Judged(Says("nowhere")), Judged(Never(), -0.3)))
    for metrics in run.drive(GRPO(**{**SMALL, "samples": 7}, max_steps=3, reward=tied)):
        assert metrics["reward"] == pytest.approx(-0.3)
        assert metrics["reward_variance"] == metrics["groups_with_spread"] == metrics["grad_norm"] == 0
    assert run.lm.weights_hash() == before


@pytest.mark.parametrize("tuner", [GRPO, RLOO, ReinforcePP, PPO])
def test_the_gradient_does_not_depend_on_how_the_batch_is_cut(tuner, gradients_left, run_of):
    found = []
    for size in (64, 3):
        run = run_of("attacker", 1)
        next(run.drive(tuner(**{**SMALL, "kl": 0.1, "forward_batch": size, "reward": Checksum()})))
        found.append(torch.cat([p.grad.flatten() for p in run.lm.model.parameters()]))
    assert found[0].abs().max() > 1e-4
    assert torch.allclose(*found, atol=1e-6)


def test_an_unscored_answer_teaches_nothing_and_is_counted(run_of):
    run = run_of("attacker", 1)
    metrics = next(run.drive(GRPO(**SMALL, reward=Judged(Silent(every=4)))))
    assert metrics["unscored"] == 2
    advantages_BN = buffer_of(run).tensors["advantages"]
    assert not advantages_BN[[0, 4]].any() and advantages_BN.any()


def test_a_judge_that_never_scores_ends_the_run(run_of):
    with pytest.raises(TrainingFailed, match="not one of 8 answers"):
        rewards(run_of("attacker", 1), GRPO(**SMALL, reward=Judged(Silent())), 1)


def test_groups_without_spread_are_drawn_anew(run_of):
    common = {**SMALL, "samples": 3, "prompts": 4, "reward": Judged(Says("b"))}
    share = {}
    for resample in (0, 6):
        run = run_of("attacker", 1)
        metrics = next(run.drive(GRPO(**common, resample=resample)))
        share[resample] = metrics["groups_with_spread"]
        assert len(buffer_of(run).rows.answers) == 12
    assert metrics["examples"] > 12  # what was drawn in vain was tried as well
    assert share[0] < share[6] == 1


def test_online_dpo_has_the_gradient_of_dpo_on_the_best_and_worst(gradients_left, run_of):
    run = run_of("attacker", 1)
    run.reference()
    with torch.no_grad():
        for parameter in run.lm.model.parameters():
            parameter += 0.1
    next(run.drive(OnlineDPO(**{**SMALL, "prompts": 1}, reward=Checksum(), beta=0.5)))
    found = [p.grad.clone() for p in run.lm.model.parameters()]
    run.lm.model.zero_grad()
    rows = buffer_of(run).rows
    scores = checksums([text for text, _ in run.lm.read(rows.answers)])
    pair = [scores.index(max(scores)), scores.index(min(scores))]
    (prompt,), answers = rows.prompts, rows.answers

    def logps(lm):
        out = []
        for i in pair:
            batch = lm.pad([(prompt + answers[i], len(answers[i]))])
            logits, targets, _ = lm.response_logits(batch)
            out.append(torch.log_softmax(logits, -1).gather(-1, targets[..., None]).sum())
        return out

    (best, worst), (best_ref, worst_ref) = logps(run.lm), [x.detach() for x in logps(run.reference())]
    dpo(best[None], worst[None], best_ref[None], worst_ref[None], 0.5).mean().backward()
    for ours, parameter in zip(found, run.lm.model.parameters(), strict=True):
        assert torch.allclose(ours, parameter.grad, atol=1e-6)


def test_rollouts_keep_prompts_and_answers_together(tiny_lm, toy_domain):
    examples = toy_domain.pools("attacker")["harmful"][:3]
    rollouts = roll_out(tiny_lm, Native(), examples, 2, 5, 1.0, seed=0)
    assert [e.id for e in rollouts.asked] == [e.id for e in examples for _ in range(2)]
    assert rollouts.rows.owners == [0, 0, 1, 1, 2, 2]
    some = rollouts.of([2, 0])
    assert some.rows.prompts == [rollouts.rows.prompts[2], rollouts.rows.prompts[0]]
    assert [e.id for e in some.examples] == [examples[2].id, examples[0].id]
    assert some.texts == rollouts.texts[4:6] + rollouts.texts[0:2]
    both: Rollouts = some + rollouts.of([1])
    assert both.rows.answers == some.rows.answers + rollouts.rows.answers[2:4]


def test_log_probabilities_of_rows_are_those_of_one_at_a_time(tiny_lm, toy_domain):
    pools = toy_domain.pools("attacker")
    examples = [pools["contrast"][0], pools["harmful"][0], pools["benign"][0]]
    rollouts = roll_out(tiny_lm, Native(), examples, 2, 5, 1.0, seed=0)
    assert len({len(prompt) for prompt in rollouts.rows.prompts}) > 1
    logps_BN = rollouts.rows.logps(tiny_lm, 5, temperature=1.5)
    entropy_BN = rollouts.rows.entropy(tiny_lm, 5)
    for row, answer in enumerate(rollouts.rows.answers):
        ids, length = rollouts.rows.prompts[row // 2] + answer, len(answer)
        with torch.no_grad():
            logits = tiny_lm.model(torch.tensor([ids])).logits[0, -length - 1 : -1]
        expected = torch.log_softmax(logits / 1.5, -1)[range(length), ids[-length:]]
        all_logps = torch.log_softmax(logits, -1)
        assert torch.allclose(logps_BN[row, -length:], expected, atol=1e-5)
        assert torch.allclose(entropy_BN[row, -length:], -(all_logps.exp() * all_logps).sum(-1), atol=1e-5)
        assert not logps_BN[row, :-length].any() and not entropy_BN[row, :-length].any()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"advantage": "group_normalised"}, "Did you mean 'group_normalized'"),
        ({"samples": 1}, "samples at least 2"),
        ({"temperature": 0.0}, "must be above 0"),
        ({"prompts": 0}, "must be at least 1"),
        ({"n_examples": 0}, "must be above 0"),
        ({"schedule": "cosine"}, "max_steps"),
    ],
)
def test_a_wrong_field_is_told_at_once(wrong, said):
    with pytest.raises(CasehardenError, match=said):
        GRPO(**wrong)


@pytest.mark.parametrize("tuner", [PPO, ReinforcePP])
def test_kl_counts_once_wherever_it_is_put(tuner, run_of):
    found = {}
    for kl_in in ("loss", "reward"):
        run = run_of("attacker", 1)
        run.reference()
        with torch.no_grad():
            for parameter in run.lm.model.parameters():
                parameter += 0.2 * torch.ones_like(parameter)
        metrics = next(run.drive(tuner(**SMALL, kl=0.5, kl_in=kl_in, reward=Judged(Says("nowhere")))))
        found[kl_in] = float(buffer_of(run).tensors["advantages"].abs().max()), metrics["loss"]
    assert found["loss"][0] == pytest.approx(0, abs=1e-5) and found["loss"][1] > 1e-3
    assert found["reward"][0] > 0.1


def test_an_algorithm_with_advantages_of_its_own_takes_no_others():
    for tuner in (PPO, ReinforcePP, OnlineDPO):
        with pytest.raises(CasehardenError, match="advantages of its own"):
            tuner(advantage="leave_one_out")
    with pytest.raises(CasehardenError, match="kl_in: loss"):
        OnlineDPO(kl_in="reward")


def test_padding_that_overflows_spoils_no_gradient(gradients_left, run_of):
    run = run_of("attacker", 1)
    run.reference()
    with torch.no_grad():  # so sure of itself that the padding token is impossible
        run.lm.model.model.norm.weight *= 1000
    next(run.drive(GRPO(**SMALL, kl=0.1, reward=Checksum())))
    assert all(torch.isfinite(parameter.grad).all() for parameter in run.lm.model.parameters())


def test_lengths_make_no_group_worth_keeping(run_of):
    run = run_of("attacker", 1)
    tuner = DAPO(**SMALL, resample=2, overlong=1.0, reward=Judged(Says("nowhere")))
    metrics = next(run.drive(tuner))
    assert metrics["examples"] == 3 * 8  # drawn anew as often as allowed: nothing was ever said
    assert metrics["groups_with_spread"] > 0  # and lengths are paid for all the same
