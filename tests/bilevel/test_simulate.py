"""Simulated attacks: what is left of them, and which are kept."""

import pytest
import torch

from caseharden.attacks import SFT
from caseharden.bilevel.excursion import excursion, trajectory
from caseharden.bilevel.simulate import Population
from caseharden.bilevel.vector import AttackVector
from caseharden.train.gradients import cosine
from caseharden.train.optim import snapshot

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


def test_a_population_keeps_the_newest_and_leaves_out_the_stale():
    class Launched:
        def __init__(self, launched):
            self.launched = launched

    population = Population(2)
    assert population.draw(0, 5) is None
    population.add(Launched(0), Launched(10), Launched(20))
    assert {population.draw(seed, 25).launched for seed in range(20)} == {10, 20}
    assert {population.draw(seed, 25, max_age=10).launched for seed in range(20)} == {20}
    assert population.draw(0, 25, max_age=4) is None
