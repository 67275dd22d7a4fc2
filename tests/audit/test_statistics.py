"""What changed between two models, question by question, with an interval by cluster."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from audit_toys import N, answers
from caseharden.audit.statistics import paired
from caseharden.records.results import Answers
from simulated_audits import clustered


def test_pairs_are_matched_by_question_and_their_interval_covers():
    left, right = answers(0.5), answers(0.5, skip=10)
    assert paired(left, right).value == 0 and paired(left, right).n == N
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(1000):  # 6% get worse, 2% better: a true change of −0.04
        before = (rng.random(N) < 0.9).astype(float)
        flip = rng.random(N)
        after = np.where(
            (before == 1) & (flip < 0.06 / 0.9), 0.0, np.where((before == 0) & (flip < 0.2), 1.0, before)
        )
        low, high = paired(replace(left, scores=tuple(before)), replace(left, scores=tuple(after))).at(0.95)
        covered += low <= -0.06 + 0.02 <= high
    assert 0.93 <= covered / 1000 <= 0.98


def asked(scores, each: int) -> Answers:
    items = tuple(f"q{i}" for i in range(len(scores)))
    return Answers(
        items, ("t",) * len(items), tuple(scores), tuple(f"thing {i // each}" for i in range(len(items)))
    )


@pytest.mark.parametrize("alikeness", [0.3, 0.9])
def test_a_change_of_exactly_the_margin_is_seldom_said_to_be_less(alikeness):
    """Questions lost go together by thing; counted singly, a loss of .06 was called less three times in ten."""
    rng, wrong, covered = np.random.default_rng(0), 0, 0
    before = asked([1.0] * 288, 3)
    for _ in range(1000):
        change = paired(before, replace(before, scores=tuple(1 - clustered(rng, 0.06, 96, 3, alikeness))))
        wrong += change.at(0.90)[0] > -0.06
        low, high = change.at(0.95)
        covered += low <= -0.06 <= high
    assert wrong / 1000 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 1000)
    assert covered / 1000 >= 0.94


def test_no_change_at_all_is_no_certainty_and_less_where_fewer_things_were_asked_about():
    for score in (1.0, 0.3):
        same = paired(asked([score] * 144, 3), asked([score] * 144, 3))
        assert same.value == 0 and same.at(0.90) == pytest.approx((-0.055, 0.055), abs=0.001)
    singly = paired(asked([1.0] * 144, 1), asked([1.0] * 144, 1))
    assert singly.at(0.90)[0] == pytest.approx(-0.019, abs=0.001)


def test_changes_that_are_not_yes_or_no_have_an_interval_too():
    before, after = asked([0.5] * 100, 1), asked([0.25] * 100, 1)
    low, high = paired(before, after).at(0.95)
    assert low < -0.26 < -0.24 < high


def test_unscored_answers_are_in_no_pair():
    left = answers(1.0, 4)
    right = replace(left, scores=(1.0, math.nan, 0.0, 1.0))
    assert (paired(left, right).n, paired(left, right).value) == (3, pytest.approx(-1 / 3))
    none = paired(left, replace(left, items=("other",) * 4))
    assert none.n == 0 and math.isnan(none.value) and none.at(0.95) == (-1.0, 1.0)


def test_pairs_are_of_the_same_question_in_whatever_order():
    left = answers(0.5, 10)
    turned = replace(left, items=left.items[::-1], scores=left.scores[::-1], groups=left.groups[::-1])
    assert (paired(left, turned).value, paired(left, turned).n) == (0, 10)
    fewer = replace(turned, items=turned.items[1:], scores=turned.scores[1:], groups=turned.groups[1:])
    fewer = replace(fewer, topics=turned.topics[1:])
    assert (paired(left, fewer).value, paired(left, fewer).n) == (0, 9)
