"""Attacks with lengths of their own, and a stage that stays near the model before the first."""

from __future__ import annotations

from collections import Counter

import pytest

from caseharden.attacks import SFT, Bounded, Chain
from caseharden.attacks.bounded import drawn
from caseharden.defenses import TAR, Patcher, SafetySFT
from caseharden.errors import CasehardenError
from caseharden.train.objectives import Imitate
from factories import weights_after

SHORT, LONG = SFT(lr=1e-2, batch_size=2), SFT(lr=1e-3, batch_size=2)
REFUSE = Imitate({"refusal": 1.0}, batch_size=4)


def test_a_bounded_attack_ends_at_a_length_within_its_bounds(run_of):
    lengths = Counter()
    for seed in range(20):
        run = run_of("attacker", seed=seed)
        lengths[sum(1 for _ in run.drive(Bounded(SHORT, (2, 4))))] += 1
    assert {*lengths} == {2, 3, 4}


def test_a_bounded_attack_is_its_attack_up_to_there(run_of):
    run = run_of("attacker")
    length = Bounded(SHORT, (2, 5)).length(run.seed_for("length"))
    cut = SFT(lr=1e-2, batch_size=2, max_steps=length)
    assert weights_after(run_of("attacker"), Bounded(SHORT, (2, 5))) == weights_after(run_of("attacker"), cut)


def test_adversaries_are_drawn_by_weight_with_lengths_of_their_own():
    adversaries = (SHORT, Bounded(LONG, (3, 6), weight=3.0))
    found = [drawn(adversaries, seed, 60) for seed in range(400)]
    share = sum(attack is LONG for attack, _ in found) / len(found)
    assert 0.68 < share < 0.82
    assert {length for attack, length in found if attack is SHORT} == {60}
    assert {length for attack, length in found if attack is LONG} == {3, 4, 5, 6}


def test_patcher_and_tar_simulate_attacks_for_as_long_as_they_last(run_of):
    adversary = Bounded(SFT(lr=1e-2, batch_size=2, max_steps=2), (2, 2))
    patcher = Patcher((adversary,), REFUSE, REFUSE, loops=2, defense_steps=2, attack_steps=50)
    assert any("attacked" in metrics for metrics in run_of("defender").drive(patcher))
    tar = TAR((adversary,), REFUSE, REFUSE, max_steps=1, inner_steps=16, checkpoint_every=4)
    (metrics,) = run_of("defender").drive(tar)
    assert {name for name in metrics if name.startswith("tamper_") and name != "tamper_norm"} == {
        "tamper_1",
        "tamper_2",
    }


@pytest.mark.parametrize(("fields", "said"), [({"steps_between": (3, 2)}, "least"), ({"weight": 0.0}, "above 0")])
def test_wrong_bounds_are_errors(fields, said):
    with pytest.raises(CasehardenError, match=said):
        Bounded(SHORT, **{"steps_between": (1, 2), **fields})


def test_a_stage_stays_near_the_model_before_the_first_stage(run_of):
    """At its first step a stage is where it began, and far from the original: only that one's distance counts."""
    away = SFT(lr=3e-2, batch_size=4, max_steps=4)

    def first_loss(hidden, near_original):
        near = SafetySFT(lr=1e-3, batch_size=4, max_steps=1, hidden=hidden, near_original=near_original)
        *_, last = run_of("defender").drive(Chain((away, near), keep_original=True))
        return last["loss"]

    plain = first_loss(0.0, False)
    assert first_loss(50.0, False) == pytest.approx(plain, abs=1e-4)
    assert first_loss(50.0, True) > plain + 1.0


def test_a_chain_that_did_not_keep_the_original_says_so(run_of):
    near = SafetySFT({"benign": 1.0}, lr=1e-3, batch_size=4, max_steps=1, hidden=1.0, near_original=True)
    with pytest.raises(CasehardenError, match="keep_original"):
        list(run_of("defender").drive(Chain((SFT(max_steps=1), near))))
    assert weights_after(run_of("defender"), near)  # of no chain: the model it begins with
