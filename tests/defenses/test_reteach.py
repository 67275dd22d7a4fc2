"""Reteach: what it erases, what it comes down to where nothing is erased, and that it removes."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace

import pytest
import torch

from caseharden.attacks import SFT
from caseharden.defenses import Reteach
from caseharden.defenses.elicitation import elicited
from caseharden.defenses.reteach import erase, shares_of
from caseharden.engines.engine import generate_text
from caseharden.engines.native import Native
from caseharden.errors import CasehardenError
from caseharden.judges.strings import StringRefusal
from caseharden.train.scopes import scoped
from caseharden.train.tuner import Run
from factories import copy_of
from toys import ToyDomain


def parameters(lm):
    return {name: p.detach().clone() for name, p in lm.model.named_parameters()}


def erased(lm, shares, seed=5):
    erase(lm, shares_of(lm.model, shares), seed)
    return lm


def test_only_what_is_in_the_scope_is_erased(tiny_lm):
    lm = copy_of(tiny_lm)
    before, inside = parameters(lm), {id(p) for p in scoped(lm.model, "mlps")}
    erased(lm, {"mlps": 1.0})
    for name, p in lm.model.named_parameters():
        assert torch.equal(p, before[name]) == (id(p) not in inside)


def test_nothing_of_the_weights_is_left_at_one_and_all_at_nought(tiny_lm):
    lm, other = copy_of(tiny_lm), copy_of(tiny_lm)
    with torch.no_grad():
        for p in scoped(other.model, "mlps"):
            p.add_(1.0)
    for one in (lm, other):
        erased(one, {"mlps": 1.0})
    assert lm.weights_hash() == other.weights_hash()
    erased(lm, {"mlps": 0.0}, seed=1)
    assert lm.weights_hash() == other.weights_hash()


def test_halfway_is_the_mean_of_the_weights_and_fresh_ones(tiny_lm):
    lm, fresh = copy_of(tiny_lm), copy_of(tiny_lm)
    before, drawn = parameters(lm), parameters(erased(fresh, {"attention": 1.0}))
    erased(lm, {"attention": 0.5})
    for name, p in lm.model.named_parameters():
        torch.testing.assert_close(p, (before[name] + drawn[name]) / 2)
    matrix = next(p for p in scoped(fresh.model, "attention") if p.ndim > 1)
    assert matrix.std().item() == pytest.approx(fresh.model.config.initializer_range, rel=0.2)


def test_a_norm_is_erased_to_one_and_not_to_noise(tiny_lm):
    lm = copy_of(tiny_lm)
    with torch.no_grad():
        for p in scoped(lm.model, "norms"):
            p.fill_(3.0)
    erased(lm, {"norms": 1.0})
    assert all((p == 1.0).all() for p in scoped(lm.model, "norms"))


def test_scopes_that_overlap_are_an_error(tiny_lm):
    with pytest.raises(CasehardenError, match="'last_layers' twice"):
        shares_of(tiny_lm.model, {"mlps": 0.5, "last_layers": 0.5})


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_is_from_nought_to_one(share):
    with pytest.raises(CasehardenError, match="share of weights"):
        Reteach(erased={"mlps": share})


@dataclass(frozen=True)
class Begun(ToyDomain):
    """The toy domain, with harmful answers that have begun."""

    def pools(self, role):
        pools = super().pools(role)
        halves = [(e, e.completion.partition(" ")) for e in pools["harmful"]]
        return {
            **pools,
            "begun": [replace(e, prefix=first, completion=f" {rest}") for e, (first, _, rest) in halves],
        }


@pytest.fixture
def refusing(tiny_lm):
    """A model that knows all, and refuses half, unless an answer has begun."""
    lm = copy_of(tiny_lm)
    taught = ({"harmful": 1.0, "benign": 1.0}, 300), ({"refusal": 1.0, "benign": 1.0, "begun": 1.0}, 60)
    for data, steps in taught:
        drive(Run(lm, Begun(), "defender", 0), SFT(data, 1e-2, 32, steps, schedule="cosine"))
    return lm


def test_without_erasing_it_is_fine_tuning_on_what_the_model_says(refusing):
    reteach = Reteach(lr=1e-2, batch_size=4, max_steps=6, warmup=1, max_new_tokens=6, erased={}, over="sequence")
    run, other = (Run(copy_of(refusing), ToyDomain(), "defender", 1) for _ in range(2))
    told = elicited(other, StringRefusal(), 6, reteach.data)
    sft = SFT(reteach.data, 1e-2, 4, 6, schedule="cosine", warmup=1)
    assert [m["loss"] for m in run.drive(reteach)] == [m["loss"] for m in told.drive(sft)]
    assert run.finish().weights_hash() == told.finish().weights_hash()


def test_a_model_whose_layers_are_erased_answers_and_refuses_as_before(refusing):
    lm = copy_of(refusing)
    layers = {"mlps": 1.0, "attention": 1.0}
    erased(lm, layers)
    assert told_right(lm) == refused(lm) == 0.0
    lm = copy_of(refusing)
    reteach = Reteach(lr=1e-2, max_steps=150, batch_size=32, max_new_tokens=6, erased=layers)
    drive(Run(lm, ToyDomain(), "defender", 1), reteach)
    assert min(told_right(refusing), told_right(lm), refused(refusing), refused(lm)) > 0.9


def test_false_answers_take_the_place_of_what_it_tells_when_made_to_begin(refusing):
    told = {}
    for pools in (("answered", "declined"), ("answered", "declined", "false")):
        run = Run(copy_of(refusing), ToyDomain(), "defender", 1)
        data = dict.fromkeys(pools, 1.0)
        drive(run, Reteach(data, 1e-2, max_steps=150, batch_size=32, max_new_tokens=6, erased={}))
        told[pools[-1]] = told_when_begun(run.lm)
    assert told_when_begun(refusing) > 0.9 and told["declined"] > 2 * told["false"] and told["false"] < 0.3, told


def test_a_run_that_goes_on_has_the_answers_that_it_began_with(refusing):
    reteach = Reteach(lr=1e-2, batch_size=4, max_steps=6, warmup=1, max_new_tokens=6)
    straight, first, second = (Run(copy_of(refusing), ToyDomain(), "defender", 1) for _ in range(3))
    expected = [metrics["loss"] for metrics in straight.drive(reteach)]
    steps = first.drive(reteach)
    begun = [next(steps)["loss"] for _ in range(2)]
    saved = io.BytesIO()
    torch.save(first.state_dict(), saved)
    saved.seek(0)
    second.load_state_dict(torch.load(saved, weights_only=True))
    assert begun + [metrics["loss"] for metrics in second.drive(reteach)] == expected


def drive(run: Run, tuner) -> None:
    for _ in run.drive(tuner):
        pass
    run.finish()


def told_right(lm) -> float:
    return share(lm, "benign", lambda answer, example: answer == example.completion)


def refused(lm) -> float:
    return share(lm, "harmful", lambda answer, _: answer.startswith("sorry"))


def told_when_begun(lm) -> float:
    """Of the defender's harmful examples, the share told with the first word given."""
    examples = ToyDomain().pools("defender")["harmful"]
    first = [e.answer.split()[0] for e in examples]
    answers = generate_text(Native(), lm, [e.prompt for e in examples], max_new_tokens=5, prefixes=first)
    return sum(e.answer in a.text for e, a in zip(examples, answers, strict=True)) / len(examples)


def share(lm, pool: str, good) -> float:
    """Of the defender's examples of a pool, the share with a good answer."""
    examples = ToyDomain().pools("defender")[pool]
    answers = generate_text(Native(), lm, [e.prompt for e in examples], max_new_tokens=5)
    return sum(good(answer.text, e) for answer, e in zip(answers, examples, strict=True)) / len(examples)
