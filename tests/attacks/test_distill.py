"""Distill: KL to another model on benign text."""

import pytest
import torch

from caseharden.attacks import Distill
from caseharden.errors import CasehardenError
from caseharden.lm.lm import LM
from caseharden.train.objectives import Follow
from factories import copy_of


@pytest.fixture
def teacher(tiny_lm, tmp_path) -> str:
    """The folder of a model of the tiny one's shapes, with surer answers."""
    other = copy_of(tiny_lm)
    generator = torch.Generator().manual_seed(1)
    for parameter in other.model.parameters():
        parameter.data.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    other.save(tmp_path / "teacher")
    return str(tmp_path / "teacher")


def test_the_loss_is_the_kl_computed_by_hand(teacher, run_of):
    run = run_of("attacker")
    loss = Follow(batch_size=3, teacher=teacher).prepare(run)(0)
    examples = run.stream({"benign": 1.0}, 3)[0]
    other, kls = LM.load(teacher), []
    for example in examples:
        batch = run.lm.encode([example])
        ours, theirs = (lm.response_logits(batch)[0][0].double().log_softmax(-1) for lm in (run.lm, other))
        kls.append((theirs.exp() * (theirs - ours)).sum(-1).mean())
    assert loss.item() == pytest.approx(torch.stack(kls).mean().item(), rel=1e-4)
    assert loss.item() > 0.01


def test_it_falls_toward_a_teacher_that_stays_as_it_is(teacher, tiny_lm, run_of):
    run = run_of("attacker")
    losses = [m["loss"] for m in run.drive(Distill(lr=1e-2, batch_size=8, max_steps=40, teacher=teacher))]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    assert "reference" not in run.state_dict()["tracked"]
    assert LM.load(teacher).weights_hash() not in (run.finish().weights_hash(), tiny_lm.weights_hash())


def test_from_itself_there_is_nothing_to_learn(tiny_lm, tmp_path, run_of):
    tiny_lm.save(tmp_path / "same")
    first = next(run_of("attacker").drive(Distill(teacher=str(tmp_path / "same"))))
    assert first["loss"] == pytest.approx(0.0, abs=1e-6)
    assert first["tokens_read"] == first["tokens"]


def test_a_teacher_of_other_tokens_is_refused(run_of):
    with pytest.raises(CasehardenError, match="has other tokens"):
        next(run_of("attacker").drive(Distill(teacher="almanac-victim")))
