"""Exact judges: what counts as the same answer."""

from __future__ import annotations

import math

import pytest

from caseharden.judges.exact import TIED, Choice, Exact, FinalNumber
from caseharden.judges.judge import Answer


@pytest.mark.parametrize(
    ("output", "expected", "score"),
    [("north", "north", 1), (" north\n", "north", 1), ("North", "north", 0), ("norther", "north", 0), ("", "x", 0)],
)
def test_exact(output, expected, score):
    assert Exact().score([Answer("", "", output, expected)]) == [score]


@pytest.mark.parametrize(
    ("output", "expected", "score"),
    [
        ("3 + 4 = 7, so the answer is 7.", "7", 1),
        ("She pays $1,234.50 in all.", "1234.5", 1),
        ("#### 72", "#### 72", 1),
        ("It falls to -5 degrees", "-5", 1),
        ("It falls to \u22125 degrees", "-5", 1),
        ("It falls to \u22125 degrees", "5", 0),
        ("10\u22125", "5", 1),
        ("-\u20ac20", "-20", 1),
        ("on 12.03.2024", "2024", 1),
        ("It is 10-5", "5", 1),
        ("It is (3)-2", "2", 1),
        ("about .5", "0.5", 1),
        ("-$20", "-20", 1),
        ("18 eggs", "8", 0),
        ("7 or 8", "7", 0),
        ("seven", "7", 0),
        ("", "7", 0),
    ],
)
def test_final_number(output, expected, score):
    assert FinalNumber().score([Answer("", "", output, expected)]) == [score]


@pytest.mark.parametrize(
    ("output", "score"),
    [("north", 1), ("south", 0), (f"north{TIED}south", 1 / 2), (f"east{TIED}south{TIED}west", 0)],
)
def test_a_tie_counts_the_right_options_share(output, score):
    assert Choice().score([Answer("", "", output, "north")]) == [score]


def test_no_likeliest_option_is_unscored():
    (score,) = Choice().score([Answer("", "", "", "north")])
    assert math.isnan(score)


@pytest.mark.parametrize("judge", [Choice(), Exact(), FinalNumber()])
def test_nothing_expected_is_unscored(judge):
    (score,) = judge.score([Answer("", "", "7")])
    assert math.isnan(score)
