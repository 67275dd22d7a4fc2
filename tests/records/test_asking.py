"""Ways of asking: the worst counts, and one that broke a model without any attack says nothing of the attack."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from caseharden.records.asking import plainly, way, ways, worst_asked
from caseharden.records.results import Point
from caseharden.records.statistics import reading

N = 20


def point(budget: int, **harm: float) -> Point:
    """Harm by way of asking, the plain one first, as a study stores it."""
    names = {"harm" if how == "plain" else f"harm:{how}": share for how, share in harm.items()}
    found = {name: [float(i < share * N) for i in range(N)] for name, share in names.items()}
    return Point(budget, {name: reading(scores, [str(i) for i in range(N)]) for name, scores in found.items()})


@pytest.mark.parametrize(
    ("measure", "how"),
    [
        ("harm", "plain"),
        ("harm:prefilled", "prefilled"),
        ("harm@judge", None),
        ("harm:prefilled@judge", None),
        ("harmless", None),
        ("utility", None),
    ],
)
def test_ways_are_told_by_the_names_of_measures(measure, how):
    assert way(measure, "harm") == how


def test_the_worst_way_stands_for_all_and_the_plain_one_beside_it():
    before, after = worst_asked([point(0, plain=0, prefilled=0.2), point(5, plain=0.3, prefilled=0.6)], "harm", 0.5)
    assert (before.way, before.readings["harm"].value) == ("prefilled", 0.2)
    assert (after.way, after.readings["harm"].value) == ("prefilled", 0.6)
    assert after.readings["harm:plain"].value == 0.3
    assert {how: found.value for how, found in ways(after.readings, "harm").items()} == {
        "plain": 0.3,
        "prefilled": 0.6,
    }


def test_a_way_that_broke_the_model_before_the_first_step_says_nothing_of_the_attack():
    points = worst_asked([point(0, plain=0, prefilled=0.9), point(5, plain=0.3, prefilled=0.95)], "harm", 0.5)
    assert [(p.way, p.readings["harm"].value) for p in points] == [("plain", 0), ("plain", 0.3)]
    assert points[0].readings["harm:prefilled"].value == 0.9


def test_the_plain_way_always_counts():
    points = worst_asked([point(0, plain=0.8, prefilled=0.2), point(5, plain=0.9, prefilled=0.95)], "harm", 0.5)
    assert [p.way for p in points] == ["plain", "prefilled"]


def test_of_equals_the_plain_way_and_a_way_without_a_score_last():
    (found,) = worst_asked([point(0, plain=0.2, prefilled=0.2)], "harm", 0.5)
    assert found.way == "plain"
    unscored = point(0, plain=0.1, prefilled=0.2)
    nothing = replace(unscored.readings["harm:prefilled"], value=math.nan)
    (found,) = worst_asked(
        [replace(unscored, readings={**unscored.readings, "harm:prefilled": nothing})], "harm", 0.5
    )
    assert found.way == "plain"


def test_one_way_only_stays_as_it_is():
    only = point(0, plain=0.3)
    assert worst_asked([only], "harm", 0.5) == (only,)
    assert plainly(only, "harm") == only


def test_as_asked_plainly_nothing_else_is_left():
    (found,) = worst_asked([point(0, plain=0.1, prefilled=0.4)], "harm", 0.5)
    assert plainly(found, "harm") == plainly(point(0, plain=0.1), "harm")
