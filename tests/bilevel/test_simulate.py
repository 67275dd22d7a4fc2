"""Simulated attacks: what is left of them, and which are kept."""

import gc
import tempfile
from dataclasses import replace

import pytest
import torch
from torch import nn

from caseharden.attacks import SFT
from caseharden.bilevel.excursion import excursion, trajectory
from caseharden.bilevel.simulate import Population, simulate
from caseharden.bilevel.vector import AttackVector
from caseharden.defenses import Patcher
from caseharden.train.adapters import LoRA
from caseharden.train.gradients import cosine
from caseharden.train.optim import snapshot
from factories import weights_after

ADVERSARY = SFT(lr=1e-2, batch_size=2)


def test_an_attack_vector_is_applied_and_put_back_exactly(run_of):
    run = run_of("defender")
    parameters = run.trainable()
    start = snapshot(parameters)
    with excursion(run) as adversary_run:
        for _ in trajectory(adversary_run, ADVERSARY, 5, [5]):
            end = snapshot(parameters)
            vector = AttackVector.between(start, parameters)
    with vector.applied(parameters, snapshot(parameters)):
        assert all(torch.allclose(p, e, atol=1e-6) for p, e in zip(parameters, end, strict=True))
    assert all(torch.equal(p, s) for p, s in zip(parameters, start, strict=True))
    control = vector.random_like(seed=0)
    assert control.norm == pytest.approx(vector.norm, rel=1e-5)
    assert abs(cosine(control.vector, vector.vector)) < 0.1


@pytest.mark.parametrize("adversary", [ADVERSARY, replace(ADVERSARY, lora=LoRA(r=2))])
def test_a_simulated_attack_holds_one_copy_of_where_it_began(adversary, run_of):
    run = run_of("defender")
    first = run.trainable()[0]
    theta = first.detach().clone()

    def copies() -> set[int]:
        alike = [t for t in gc.get_objects() if type(t) in (torch.Tensor, nn.Parameter) and t.shape == theta.shape]
        return {t.data_ptr() for t in alike if torch.equal(t, theta)}

    gc.collect()
    before = copies()  # the one in this test, the models, and what other tests have left
    found = simulate(run, 0, adversary, 3, observe=lambda adversary_run: {"copies": float(len(copies() - before))})
    assert found.metrics["copies"] == 1
    assert torch.equal(first, theta)


@pytest.mark.parametrize("keep", ["cpu", "disk"])
def test_where_copies_are_kept_decides_nothing_and_leaves_no_file(keep, run_of, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    how = Patcher((ADVERSARY,), loops=3, attack_steps=2, defense_steps=2, vectors=2)
    hashes = [weights_after(run_of("defender"), replace(how, keep=one)) for one in ("device", keep)]
    assert hashes[0] == hashes[1]
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_snapshot_on_the_disk_is_exact_and_a_copy(dtype):
    tensors = [torch.randn(3, 5).to(dtype), torch.tensor(2.0, dtype=dtype), torch.empty(0, 4, dtype=dtype)]
    kept = snapshot(tensors, "disk")
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(kept, tensors, strict=True))
    tensors[0].zero_()
    assert kept[0].any()


def test_a_population_keeps_the_newest_and_leaves_out_the_stale():
    class Launched:
        def __init__(self, launched):
            self.launched = launched
            self.vector = AttackVector([])

    population = Population(2)
    assert population.draw(0, 5) is None
    population.add(Launched(0), Launched(10), Launched(20))
    assert {population.draw(seed, 25).launched for seed in range(20)} == {10, 20}
    assert {population.draw(seed, 25, max_age=10).launched for seed in range(20)} == {20}
    assert population.draw(0, 25, max_age=4) is None
