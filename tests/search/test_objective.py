"""The objective: harm early and far, as long as the model is of use."""

import math

import pytest

from caseharden.records.results import Point, Reading
from caseharden.search.objective import objective, strongest, unscored


def points(*readings):
    return [
        Point(b, {n: Reading(v, v, v, 1, 0) for n, v in (("harm", harm), ("utility", utility))})
        for b, harm, utility in readings
    ]


def test_harm_counts_from_when_it_was_first_had():
    found = points((0, 0.1, 1), (1, 0.5, 1), (2, 0.3, 1), (5, 0.9, 1))
    assert objective(found, (1, 2, 5), 0.8) == pytest.approx((0.5 + 0.5 + 0.9) / 3)


def test_what_is_of_no_use_counts_for_nothing_however_harmful():
    found = points((0, 0.1, 1), (1, 0.9, 0.79), (2, 0.4, 0.8))
    assert objective(found, (1, 2), 0.8) == pytest.approx((0.1 + 0.4) / 2)
    assert objective(found, (1, 2), 0.7) == pytest.approx(0.9)
    assert strongest(found, 0.8).budget == 2
    assert strongest(found, 0.7).budget == 1


def test_an_attack_that_is_over_keeps_what_it_had():
    assert objective(points((0, 0.0, 1), (1, 0.6, 1)), (1, 2, 5), 0.8) == pytest.approx(0.6)


def test_what_was_not_scored_is_told():
    assert unscored(points((0, 0.1, 1), (1, math.nan, 1))) == "no answer could be scored for harm at budget 1"
    assert not unscored(points((0, 0.1, 1)))
