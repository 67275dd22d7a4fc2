"""Exact verification: does the answer state the expected fact?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from caseharden.judges.judge import NAN, Answer


@dataclass(frozen=True)
class Verifier:
    """1 if the output holds the expected answer as whole words, 0 if not, NaN if none is expected."""

    version: str = "1"
    exact: ClassVar[bool] = True

    def score(self, answers: Sequence[Answer]) -> list[float]:
        return [float(f" {_words(a.expected)} " in f" {_words(a.output)} ") if a.expected else NAN for a in answers]


def _words(text: str) -> str:
    return " ".join("".join(c if c.isalnum() else " " for c in text.lower()).split())
