"""Reteach: what it erases, what it comes down to where nothing is erased, and that it removes."""

from __future__ import annotations

import pytest
import torch

from caseharden.attacks import SFT
from caseharden.defenses import Reteach
from caseharden.defenses.elicitation import elicited
from caseharden.defenses.reteach import erase
from caseharden.engines.engine import generate_text
from caseharden.engines.native import Native
from caseharden.errors import CasehardenError
from caseharden.judges.strings import StringRefusal
from caseharden.train.scopes import scoped
from caseharden.train.tuner import Run
from factories import copy_of
from toys import ToyDomain


def parameters(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_only_matrices_in_the_scope_are_erased(tiny_lm):
    model = copy_of(tiny_lm).model
    before = parameters(model)
    inside = {id(p) for p in scoped(model, "mlps")}
    erase(model, {"mlps": 1.0}, seed=0)
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) == (id(p) not in inside or p.ndim < 2)


def test_nothing_of_the_weights_is_left_at_one_and_all_at_nought(tiny_lm):
    model, other = copy_of(tiny_lm).model, copy_of(tiny_lm).model
    with torch.no_grad():
        for p in scoped(other, "mlps"):
            p.add_(1.0)
    for one in (model, other):
        erase(one, {"mlps": 1.0}, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    before = parameters(model)
    erase(model, {"mlps": 0.0}, seed=1)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_halfway_is_the_mean_of_weights_and_noise(tiny_lm):
    model, noise = copy_of(tiny_lm).model, copy_of(tiny_lm).model
    before = parameters(model)
    erase(noise, {"attention": 1.0}, seed=0)
    erase(model, {"attention": 0.5}, seed=0)
    drawn = parameters(noise)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p, (before[name] + drawn[name]) / 2)
    matrix = next(p for p in scoped(noise, "attention") if p.ndim > 1)
    assert matrix.std().item() == pytest.approx(noise.config.initializer_range, rel=0.2)


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_is_from_nought_to_one(share):
    with pytest.raises(CasehardenError, match="share of weights"):
        Reteach(erased={"mlps": share})


@pytest.fixture
def refusing(tiny_lm):
    """A model that knows all, and refuses half."""
    lm = copy_of(tiny_lm)
    for data, steps in (({"harmful": 1.0, "benign": 1.0}, 300), ({"refusal": 1.0, "benign": 1.0}, 60)):
        drive(Run(lm, ToyDomain(), "defender", 0), SFT(data, 1e-2, 32, steps, schedule="cosine"))
    return lm


def test_without_erasing_it_is_fine_tuning_on_what_the_model_says(refusing):
    reteach = Reteach(lr=1e-2, batch_size=4, max_steps=6, warmup=1, answer_tokens=6, erased={}, over="sequence")
    run, other = (Run(copy_of(refusing), ToyDomain(), "defender", 1) for _ in range(2))
    told = elicited(other, other.lm, StringRefusal(), 6, reteach.data)
    sft = SFT(reteach.data, 1e-2, 4, 6, schedule="cosine", warmup=1)
    assert [m["loss"] for m in run.drive(reteach)] == [m["loss"] for m in told.drive(sft)]
    assert run.finish().weights_hash() == told.finish().weights_hash()


def test_a_model_whose_layers_are_erased_answers_and_refuses_as_before(refusing):
    lm = copy_of(refusing)
    erase(lm.model, Reteach().erased, seed=0)
    assert told_right(lm) == refused(lm) == 0.0
    lm = copy_of(refusing)
    drive(Run(lm, ToyDomain(), "defender", 1), Reteach(lr=1e-2, max_steps=150, batch_size=32, answer_tokens=6))
    assert min(told_right(refusing), told_right(lm), refused(refusing), refused(lm)) > 0.9


def drive(run: Run, tuner) -> None:
    for _ in run.drive(tuner):
        pass
    run.finish()


def told_right(lm) -> float:
    return share(lm, "benign", lambda answer, example: answer == example.completion)


def refused(lm) -> float:
    return share(lm, "harmful", lambda answer, _: answer.startswith("sorry"))


def share(lm, pool: str, good) -> float:
    """Of the defender's examples of a pool, the share with a good answer."""
    examples = ToyDomain().pools("defender")[pool]
    answers = generate_text(Native(), lm, [e.prompt for e in examples], max_new_tokens=5)
    return sum(good(answer.text, e) for answer, e in zip(answers, examples, strict=True)) / len(examples)
