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
from toys import Checksum, Skewed, checksums

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


def gradient_of(run: Run, tuner: PolicyGradient, engine) -> tuple[torch.Tensor, dict[str, float]]:
    """The first step's gradient, which no optimizer has taken, and what the step reports."""
    run.engine = engine
    metrics = next(run.drive(tuner))
    return torch.cat([p.grad.flatten() for p in run.lm.model.parameters()]), metrics


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


@pytest.mark.parametrize("tuner", [GRPO, RLOO, PPO])
def test_an_engine_that_draws_as_we_do_has_weights_of_one(tuner, gradients_left, run_of):
    how = tuner(**SMALL, reward=Checksum())
    own, none = (
        gradient_of(run_of("attacker", 1), one, Native()) for one in (how, replace(how, importance_cap=None))
    )
    assert torch.equal(own[0], none[0]) and own[1] == none[1] and "importance" not in own[1]
    same, told = gradient_of(run_of("attacker", 1), how, Skewed(1.0))
    assert torch.allclose(own[0], same, atol=1e-6) and own[0].abs().max() > 1e-4
    assert told["importance"] == pytest.approx(1, abs=1e-5) and told["truncated"] == 0


@pytest.mark.parametrize("cap", [1.0, 1.05, 100.0])
@pytest.mark.parametrize("whole", [False, True])
def test_a_token_counts_as_much_likelier_as_it_was_to_us(cap, whole, gradients_left, run_of):
    """The gradient of −Σ w·min(p / p_engine, cap)·A·log p, with p / p_engine from logits; of whole answers, ∏."""
    run = run_of("attacker", 1)
    with torch.no_grad():
        for parameter in run.lm.model.parameters():
            parameter *= 8  # so that temperature matters
    how = (RLOO if whole else GRPO)(**SMALL, importance_cap=cap, reward=Checksum())
    found, told = gradient_of(run, how, Skewed(1.5))
    run.lm.model.zero_grad()
    buffer, weights, capped = buffer_of(run), [], 0
    for b, answer in enumerate(buffer.rows.answers):
        n, ids = len(answer), buffer.rows.prompts[b // 4] + answer
        logits = run.lm.model(torch.tensor([ids])).logits[0, -n - 1 : -1]
        ours, theirs = (torch.log_softmax(logits / t, -1)[range(n), answer] for t in (1.0, 1.5))
        ratio = (ours - theirs).detach().sum().exp().expand(n) if whole else (ours - theirs).detach().exp()
        weights += ratio.clamp(max=cap).tolist()
        capped += int((ratio > cap).sum())
        share = 1 / len(buffer.rows.answers) / (1 if whole else n)
        (-share * ratio.clamp(max=cap) * buffer.tensors["advantages"][b, -n:] * ours).sum().backward()
    expected = torch.cat([p.grad.flatten() for p in run.lm.model.parameters()])
    assert torch.allclose(found, expected, atol=1e-5 * expected.abs().max())
    assert told["importance"] == pytest.approx(sum(weights) / len(weights), rel=1e-4)
    assert told["truncated"] == pytest.approx(capped / len(weights)) and (cap > 2 or capped)
    assert not torch.allclose(found, gradient_of(run_of("attacker", 1), how, Native())[0], rtol=0.1)


def test_weights_undo_what_the_engine_draws_too_often(gradients_left, run_of):
    """Over many answers of one token the mean gradient is that of an engine that draws as we do."""

    def mean(skew: float, cap: float | None) -> torch.Tensor:
        run = run_of("attacker", 1)
        with torch.no_grad():
            for parameter in run.lm.model.parameters():
                parameter *= 8
        reward = Judged(Says("b"))
        how = Reinforce(
            forward_batch=4000,
            prompts=1,
            samples=4000,
            max_new_tokens=1,
            reward=reward,
            importance_cap=cap,
            n_examples=1,
        )
        return gradient_of(run, how, Skewed(skew))[0]

    own, weighed, naive = mean(1.0, None), mean(2.0, 100.0), mean(2.0, None)
    assert (weighed - own).norm() < 0.35 * (naive - own).norm()


def test_weights_are_of_the_policy_as_it_wrote_at_later_updates_too(run_of):
    run = run_of("attacker", 1)
    run.engine = Skewed(1.5)
    steps = run.drive(GRPO(**SMALL, updates=3, reward=Checksum()))
    told = [next(steps)["importance"] for _ in range(3)]
    assert told[0] == told[1] == told[2] != 1


def test_an_engine_that_draws_otherwise_and_does_not_say_how_is_an_error(run_of):
    run = run_of("attacker", 1)
    run.engine = Skewed(1.5, tells=False)
    with pytest.raises(CasehardenError, match="importance_cap: null"):
        next(run.drive(GRPO(**SMALL, reward=Checksum())))
    run = run_of("attacker", 1)
    run.engine = Skewed(1.5, tells=False)
    assert "importance" not in next(run.drive(GRPO(**SMALL, importance_cap=None, reward=Checksum())))


def test_rollouts_keep_prompts_and_answers_together(tiny_lm, toy_domain):
    examples = toy_domain.pools("attacker")["harmful"][:3]
    rollouts = roll_out(tiny_lm, Native(), examples, 2, 5, 1.0, seed=0)
    assert [e.id for e in rollouts.asked] == [e.id for e in examples for _ in range(2)]
    assert rollouts.rows.owners == [0, 0, 1, 1, 2, 2]
    some = rollouts.of([2, 0])
    assert some.rows.prompts == [rollouts.rows.prompts[2], rollouts.rows.prompts[0]]
    assert [e.id for e in some.examples] == [examples[2].id, examples[0].id]
    assert some.texts == rollouts.texts[4:6] + rollouts.texts[0:2]
    logps = rollouts.engine_logps_BN
    assert torch.allclose(logps, rollouts.logps(tiny_lm), atol=1e-5)
    both: Rollouts = some + rollouts.of([1])
    assert both.engine_logps == [rollouts.engine_logps[b] for b in (4, 5, 0, 1, 2, 3)]
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
        ({"importance_cap": 0.5}, "at least 1, or null"),
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
