"""Objectives: one forward pass for all their terms, and nothing computed that no term reads."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pytest
import torch

from caseharden.data.example import Example
from caseharden.errors import CasehardenError
from caseharden.lm.lm import LM
from caseharden.lm.logps import entropy
from caseharden.train import terms
from caseharden.train.gradients import global_norm, gradient
from caseharden.train.losses import masked_mean, mean_distance
from caseharden.train.objectives import Confuse, Imitate, MapToRandom, Prefer, StayNear, SumOfTerms
from caseharden.train.terms import Term, near_in_states, weighted_sum
from caseharden.train.tuner import Run


@pytest.fixture
def run(tiny_lm, toy_domain) -> Run:
    return Run(LM(copy.deepcopy(tiny_lm.model), tiny_lm.tokenizer, tiny_lm.name), toy_domain, "defender", 0)


def passes(run: Run, monkeypatch) -> list[tuple[bool, bool]]:
    """Of each forward pass to come: whether it has gradients, and whether it keeps hidden states."""
    seen: list[tuple[bool, bool]] = []
    forward = LM.forward

    def counted(self, **inputs):
        seen.append((torch.is_grad_enabled(), bool(inputs.get("output_hidden_states"))))
        return forward(self, **inputs)

    monkeypatch.setattr(LM, "forward", counted)
    return seen


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (Imitate(), [(True, False)]),
        (Imitate(kl=1.0), [(False, False), (True, False)]),
        (Imitate(kl=1.0, hidden=1.0), [(False, True), (True, True)]),
        (StayNear(), [(False, True), (True, True)]),
        (StayNear(hidden=0.0), [(True, False)]),
        (Confuse(), [(True, False)]),
        (MapToRandom(), [(True, True)]),
    ],
    ids=str,
)
def test_all_terms_share_one_pass_and_nothing_is_computed_that_none_reads(objective, expected, run, monkeypatch):
    loss = objective.prepare(run)
    seen = passes(run, monkeypatch)
    loss(0).backward()
    assert seen == expected
    assert ("reference" in run.state_dict()["tracked"]) == any(not trained for trained, _ in expected)


def test_an_objective_is_the_weighted_sum_of_its_terms(run):
    mix = {"refusal": 1.0, "benign": 1.0}
    moved = after_a_step(run)
    with torch.no_grad():
        plain, near, kl, both = (
            Imitate(mix, kl=kl, hidden=hidden).prepare(moved)(0)
            for kl, hidden in ((0.0, 0.0), (0.0, 0.5), (2.0, 0.0), (2.0, 0.5))
        )
    assert near > plain and kl > plain
    assert float(both - plain) == pytest.approx(float((near - plain) + (kl - plain)), rel=1e-4)


def after_a_step(run: Run) -> Run:
    """A run on weights that differ from those of its reference."""
    moved = Run(LM(copy.deepcopy(run.lm.model), run.lm.tokenizer, ""), run.domain, "defender", 0)
    moved.reference()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in moved.lm.model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return moved


def test_a_term_that_does_not_say_what_it_reads_is_told(run):
    whole = near_in_states(1.0)
    examples = run.stream({"benign": 1.0}, 2)[0]
    for missing, said in (("states", "states=True"), ("reference", "reference=True")):
        reads = {"states": True, "reference": True, missing: False}
        with pytest.raises(AssertionError, match=said):
            next(weighted_sum(run, [Term(whole.value, 1.0, **reads)], 64)(examples))


def test_distance_to_the_released_model_has_a_gradient_everywhere(run):
    states = torch.tensor([[[[1.0, 2.0], [0.0, 0.0]]]], requires_grad=True)
    mean_distance(states, torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), torch.ones(1, 2)).backward()
    assert torch.allclose(states.grad, torch.tensor([[0.0, 0.0], [-0.3, -0.4]]))
    near = StayNear({"benign": 1.0}, hidden=1.0).prepare(run)
    parameters = run.trainable()
    loss, g = gradient(near, 0, parameters)
    plain, _ = gradient(Imitate({"benign": 1.0}, batch_size=16).prepare(run), 0, parameters)
    assert loss == pytest.approx(plain)
    assert all(torch.isfinite(t).all() for t in g)


def test_prefer_swapped_pulls_the_other_way(run):
    """At the reference both directions have the loss log 2, and opposite gradients."""
    parameters = run.trainable()
    one, g = gradient(Prefer(prefer="data").prepare(run), 0, parameters)
    other, opposite = gradient(Prefer(prefer="other").prepare(run), 0, parameters)
    assert one == pytest.approx(other) == pytest.approx(0.6931, abs=1e-4)
    assert all(torch.allclose(a, -b, atol=1e-6) for a, b in zip(g, opposite, strict=True))


def test_pairs_are_checked_before_anything_is_trained(tiny_lm, toy_domain):
    class Unpaired(type(toy_domain)):
        def pools(self, role):
            return super().pools(role) | {"refusal": [Example("h?", "a b ?", "no")]}

    with pytest.raises(CasehardenError, match="are not in 'refusal'"):
        Prefer().prepare(Run(tiny_lm, Unpaired(), "defender", 0))


@pytest.mark.parametrize("fields", [{"batch_size": 0}, {"n_examples": 0}, {"kl": -1.0}, {"hidden": -0.1}])
def test_fields_that_cannot_be_are_refused_when_the_objective_is_made(fields):
    with pytest.raises(CasehardenError, match="must"):
        Imitate(**fields)


@dataclass(frozen=True)
class Confident(SumOfTerms):
    """Imitate with less entropy, as docs/methods/objectives.md has it."""

    data: Mapping[str, float] = field(default_factory=lambda: {"refusal": 1.0})

    def terms(self, run: Run) -> list[Term]:
        confident = Term(lambda out: masked_mean(out.logits.each(entropy), out.batch.mask_BR))
        return [terms.imitate(), confident]


def test_a_term_of_ones_own_adds_to_those_that_are_there(run):
    with torch.no_grad():
        found, imitated, confused = (o.prepare(run)(0) for o in (Confident(), Imitate(), Confuse({"refusal": 1.0})))
    assert float(found) == pytest.approx(float(imitated - confused))


IN_PARTS = [
    Imitate({"refusal": 1.0, "benign": 1.0}, batch_size=7),
    Imitate({"refusal": 1.0, "benign": 1.0}, batch_size=7, over="token"),
    Imitate({"refusal": 1.0, "benign": 2.0}, batch_size=7, kl=1.0, hidden=0.5),
    Imitate({"refusal": 1.0, "benign": 2.0}, batch_size=7, kl=1.0, over="token"),
    Imitate({"refusal": 1.0}, batch_size=7, kl=1.0, over="token"),
    StayNear(batch_size=7),
    Confuse(batch_size=7),
    MapToRandom(batch_size=7),
    Prefer(batch_size=7),
]


@pytest.mark.parametrize("objective", IN_PARTS, ids=str)
@pytest.mark.parametrize("forward_batch", [1, 2, 4, 100])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(objective, forward_batch, run):
    """Answers of different lengths, so that no part has the whole's share of tokens; refusals that no KL counts."""
    moved = after_a_step(run)
    parameters = list(moved.lm.model.parameters())
    whole, expected = gradient(objective.prepare(moved), 3, parameters)
    parted = replace(objective, forward_batch=forward_batch).prepare(moved)
    value, found = gradient(parted, 3, parameters)
    assert len([*parted.parts(3)]) == -(-7 // min(forward_batch, 7))
    assert value == pytest.approx(whole, rel=1e-5)
    apart = global_norm([a - b for a, b in zip(found, expected, strict=True)])
    assert float(apart) <= 1e-6 * max(1e-3, float(global_norm(expected)))
    if forward_batch == 100:
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
