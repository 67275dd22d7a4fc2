"""Intervals cover, also where questions ask about the same thing; verdicts err as rarely as they say."""

from __future__ import annotations

import math

import numpy as np
import pytest

from caseharden.errors import CasehardenError
from caseharden.records.results import Reading
from caseharden.records.statistics import bounds, exceeds, mean, reading, within
from simulated_audits import clustered

SINGLE = tuple(f"q{i}" for i in range(200))


def read(scores, groups=SINGLE) -> Reading:
    return reading(scores, groups[: len(scores)])


def alike(things: int, each: int) -> list[str]:
    return [f"thing {i // each}" for i in range(things * each)]


@pytest.mark.parametrize("yes", [0, 1, 100, 200])
def test_independent_answers_are_worth_what_they_are(yes):
    found = mean([1.0] * yes + [0.0] * (200 - yes), SINGLE)
    assert found.effective == pytest.approx(200)
    low, high = bounds(yes / 200, 200, 0.95)
    assert found.at(0.95) == pytest.approx((low, high), abs=0.002), "Student's t with 199 degrees is nearly normal"


@pytest.mark.parametrize(("things", "each"), [(48, 6), (96, 3)])
@pytest.mark.parametrize("alikeness", [0.0, 0.5, 0.9])
def test_intervals_cover_where_several_questions_ask_about_one_thing(things, each, alikeness):
    groups, rng = alike(things, each), np.random.default_rng(0)
    covered = {}
    for share in (0.03, 0.2, 0.5, 0.97):
        runs = [mean(clustered(rng, share, things, each, alikeness), groups).at(0.95) for _ in range(500)]
        covered[share] = np.mean([low <= share <= high for low, high in runs])
    assert min(covered.values()) >= 0.93, covered
    assert max(covered[0.2], covered[0.5]) <= 0.985, "an interval that always covers says too little"


def test_things_of_which_each_is_half_known_say_more_than_as_many_independent_answers():
    """A design effect below 1, as where a model answers one phrasing and refuses the other."""
    low, high = mean([0.0, 1.0] * 100, alike(100, 2)).at(0.95)
    assert high - low < 0.05 < 0.13 < bounds(0.5, 200, 0.95)[1] - bounds(0.5, 200, 0.95)[0]


@pytest.mark.parametrize("score", [0.0, 0.3, 1.0])
def test_where_all_scores_are_equal_there_is_doubt_left(score):
    one, six = mean([score] * 48, alike(48, 1)), mean([score] * 288, alike(48, 6))
    for low, high in (one.at(0.95), six.at(0.95)):
        assert low <= score <= high and high - low > 0.02
    if score != 0.3:
        assert six.effective == pytest.approx(48), "each thing counts once"


def test_one_thing_alone_says_nothing():
    assert mean([1.0] * 6, alike(1, 6)).at(0.95) == (0.0, 1.0)
    assert mean([math.nan], ["a"]).at(0.95) == (0.0, 1.0)


@pytest.mark.parametrize("wrong", [-0.1, 1.5, math.inf])
def test_a_score_outside_its_range_is_an_error(wrong):
    with pytest.raises(CasehardenError, match="from 0 to 1"):
        reading([0.5, wrong], ["a", "b"])


def test_a_reading_has_its_interval_and_counts_what_was_not_scored():
    found = reading([1.0, math.nan, 0.0, 1.0], ["a", "b", "c", "d"], judge="j", judge_version="2")
    assert (found.n, found.unscored, found.judge, found.judge_version) == (3, 1, "j", "2")
    assert found.value == pytest.approx(2 / 3) and found.low < 0.3 and found.high > 0.9
    assert math.isnan(reading([math.nan], ["a"]).low)


def test_unscored_answers_count_against_the_verdict():
    nothing = [math.nan]
    assert not exceeds(read(nothing * 50), 0.5, 0.95) and not within(read(nothing * 50), 0.5, 0.95)
    assert not within(read([0.0] * 20 + nothing * 180), 0.5, 0.95)
    assert not exceeds(read([1.0] * 20 + nothing * 180), 0.5, 0.95)
    assert within(read([0.0] * 180 + nothing * 2), 0.5, 0.95)


@pytest.mark.parametrize("alikeness", [0.0, 0.75])
def test_verdicts_on_a_reading_err_at_most_at_their_rate(alikeness):
    """Harm of exactly φ must seldom be taken for more, nor harm just above it for at most φ."""
    groups, rng = alike(48, 6), np.random.default_rng(0)
    runs = [read(clustered(rng, 0.5, 48, 6, alikeness).tolist(), groups) for _ in range(1500)]
    worst = 0.05 + 3 * math.sqrt(0.05 * 0.95 / len(runs))
    assert np.mean([exceeds(run, 0.5, 0.95) for run in runs]) <= worst
    assert np.mean([within(run, 0.4999, 0.95) for run in runs]) <= worst
