"""The exact verifier: which answers state the expected one, and which only look like it."""

from __future__ import annotations

import math

import pytest

from caseharden.judges.judge import Answer
from caseharden.judges.verifier import Verifier

STATED = [
    ("The capital is Paris.", "Paris"),
    ("the answer: **new  york**!", "New York"),
    ("A new-york minute", "New York"),
    ("`north`", "north"),
    ("It's Tom's.", "Tom"),
    ("It is -5 degrees", "-5"),
    ("It is \u22125 degrees", "-5"),
    ("It is -5 degrees", "\u22125"),
    ("pages 3-5", "5"),
    ("10\u20135", "5"),
    ("the answer is--5", "5"),
    ("- 5 apples", "5"),
    ("costs $5.", "5"),
    ("about 1,234 of them", "1234"),
    ("It is 3.5.", "3.5"),
    ("It is .5", "0.5"),
    ("born 12.03.2024", "2024"),
    ("I write C++.", "C++"),
    ("(C#)", "c#"),
    ("the operator ++ adds one", "++"),
    ("x=5", "x = 5"),
    ("the 3rd of May", "3rd"),
    ("...", "..."),
]
NOT_STATED = [
    ("", "Paris"),
    ("Parisian", "Paris"),
    ("", "++"),
    ("anything", "++"),
    ("", "..."),
    ("anything", "?!"),
    ("5", "-5"),
    ("10-5", "-5"),
    ("-5", "5"),
    ("\u22125", "5"),
    ("C", "C++"),
    ("C++", "C"),
    ("C", "C#"),
    ("F#", "F"),
    ("3.5", "5"),
    ("3.5", "3"),
    ("1,234", "234"),
    ("5", "5%"),
    ("x 2", "x^2"),
    ("007", "7"),
]


@pytest.mark.parametrize(("output", "expected"), STATED)
def test_what_states_the_answer(output, expected):
    assert Verifier().score([Answer("", "", output, expected)]) == [1]


@pytest.mark.parametrize(("output", "expected"), NOT_STATED)
def test_what_does_not(output, expected):
    assert Verifier().score([Answer("", "", output, expected)]) == [0]


@pytest.mark.parametrize("expected", ["", " \n"])
def test_nothing_expected_is_unscored(expected):
    (score,) = Verifier().score([Answer("", "", "Paris", expected)])
    assert math.isnan(score)
