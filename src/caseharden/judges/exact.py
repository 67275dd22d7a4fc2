"""Exact matches: the expected answer itself, the option found likeliest, or the last number of a worked answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from caseharden.judges.judge import NAN, Answer
from caseharden.judges.words import last_number

TIED = "\n=\n"
"""Stands between options of which a model found none likelier than the others."""


@dataclass(frozen=True)
class Exact:
    """Compares the output with the expected answer, but for white space around it: 1 if equal, 0 if not.

    NaN if none is expected.
    """

    version: str = "1"
    exact: ClassVar[bool] = True

    def score(self, answers: Sequence[Answer]) -> list[float]:
        return [float(a.output.strip() == a.expected.strip()) if a.expected else NAN for a in answers]


@dataclass(frozen=True)
class Choice:
    """Checks the option that the model found likeliest: 1 if right, 0 if wrong, 1/k if right is one of k tied ones.

    Tied options are joined by `TIED`. NaN where no option is expected, or none was found likeliest.
    """

    version: str = "1"
    exact: ClassVar[bool] = True

    def score(self, answers: Sequence[Answer]) -> list[float]:
        return [_share(a.output.split(TIED), a.expected) if a.output and a.expected else NAN for a in answers]


@dataclass(frozen=True)
class FinalNumber:
    """Compares the last number of the output with the last of the expected answer: 1 if equal, 0 if not.

    The usual check of GSM8K. "$1,234.50" equals "1234.5". An output without a number scores 0; without a number
    to expect, NaN.
    """

    version: str = "2"
    exact: ClassVar[bool] = True

    def score(self, answers: Sequence[Answer]) -> list[float]:
        pairs = [(last_number(a.output), last_number(a.expected)) for a in answers]
        return [NAN if expected is None else float(given == expected) for given, expected in pairs]


def _share(options: Sequence[str], right: str) -> float:
    return sum(option == right for option in options) / len(options)
