"""Patcher reduces to what it must, and its attacks are attacks."""

import math
from dataclasses import replace

import pytest

from caseharden.attacks import SFT
from caseharden.defenses import Patcher, SafetySFT
from caseharden.train.adapters import LoRA
from caseharden.train.objectives import Imitate
from factories import weights_after

REFUSE = Imitate({"refusal": 1.0}, batch_size=4)
BENIGN = Imitate({"benign": 1.0}, batch_size=4)
ADVERSARY = SFT(lr=1e-2, batch_size=2)


def test_patcher_without_attack_is_safety_sft(run_of):
    patcher = Patcher((ADVERSARY,), REFUSE, benign=None, alpha=0.0, loops=1, defense_steps=6, lr=1e-3)
    plain = SafetySFT({"refusal": 1.0}, lr=1e-3, batch_size=4, max_steps=6)
    assert weights_after(run_of("defender"), patcher) == weights_after(run_of("defender"), plain)
    attacked = replace(patcher, alpha=0.5, loops=2, defense_steps=3, attack_steps=4)
    assert weights_after(run_of("defender"), attacked) != weights_after(run_of("defender"), plain)


def test_a_new_loop_of_patcher_forgets_the_optimizers_state_and_keeps_the_schedules_rate(run_of):
    """AdamW's first step is ±lr whatever the gradient, so the first step of each loop is as long as the rate."""
    patcher = Patcher(
        (ADVERSARY,), REFUSE, benign=None, alpha=0.0, loops=3, defense_steps=2, schedule="cosine", lr=1e-3
    )
    run, moved = run_of("defender"), []
    weights = run.lm.model.get_output_embeddings().weight
    before = weights.detach().clone()
    for _ in run.drive(patcher):
        moved.append(float((weights.detach() - before).abs().max()))
        before = weights.detach().clone()
    rates = [1e-3 * (1 + math.cos(math.pi * step / 6)) / 2 for step in (0, 2, 4)]
    assert moved[::2] == pytest.approx(rates, rel=1e-3)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_patchers_schedule_spans_its_loops(schedule, run_of):
    """With an optimizer that has no state to reset, loops leave no trace."""
    same = {"schedule": schedule, "optimizer": "sgd", "lr": 0.1}
    patcher = Patcher((ADVERSARY,), REFUSE, benign=None, alpha=0.0, loops=3, defense_steps=2, **same)
    plain = SafetySFT({"refusal": 1.0}, batch_size=4, max_steps=6, **same)
    assert weights_after(run_of("defender"), patcher) == weights_after(run_of("defender"), plain)


def test_the_random_control_differs_from_the_attack(run_of):
    patcher = Patcher((ADVERSARY,), REFUSE, BENIGN, loops=2, defense_steps=3, attack_steps=4, lr=1e-3)
    hashes = {weights_after(run_of("defender"), replace(patcher, random_vector=r)) for r in (False, True)}
    assert len(hashes) == 2


def test_a_lora_adversary_gives_patcher_a_vector(run_of):
    adversary = replace(ADVERSARY, lora=LoRA(r=2))
    patcher = Patcher((adversary,), REFUSE, BENIGN, loops=2, defense_steps=2, attack_steps=4)
    norms = [metrics.get("vector_norm", 0) for metrics in run_of("defender").drive(patcher)]
    assert norms[1] == 0 < norms[2]
