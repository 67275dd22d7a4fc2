"""Exact matches: the expected option of a multiple choice, or the last number of a worked answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import ClassVar

from caseharden.judges.judge import NAN, Answer

NUMBER = re.compile(r"((?<![\w)])-)?\$?((?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)")
"""A minus sign, unless it subtracts, and the digits, with or without thousands separators."""


@dataclass(frozen=True)
class Exact:
    """1 if the output is the expected answer but for white space around it, 0 if not, NaN if none is expected."""

    version: str = "1"
    exact: ClassVar[bool] = True

    def score(self, answers: Sequence[Answer]) -> list[float]:
        return [float(a.output.strip() == a.expected.strip()) if a.expected else NAN for a in answers]


@dataclass(frozen=True)
class FinalNumber:
    """1 if the last number of the output equals the last of the expected answer (the usual check of GSM8K).

    "$1,234.50" equals "1234.5". An output without a number scores 0; without a number to expect, NaN.
    """

    version: str = "1"
    exact: ClassVar[bool] = True

    def score(self, answers: Sequence[Answer]) -> list[float]:
        pairs = [(last_number(a.output), last_number(a.expected)) for a in answers]
        return [NAN if expected is None else float(given == expected) for given, expected in pairs]


def last_number(text: str) -> Decimal | None:
    """The last number written in digits in `text`, None if there is none."""
    found = NUMBER.findall(text)
    if not found:
        return None
    sign, digits = found[-1]
    return Decimal(sign + digits.replace(",", ""))
