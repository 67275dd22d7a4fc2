"""Exact verification: does the answer state the expected fact?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from caseharden.judges.judge import NAN, Answer
from caseharden.judges.words import words


@dataclass(frozen=True)
class Verifier:
    """Looks for the expected answer in the output, as whole words: 1 if it is there, 0 if not.

    NaN if none is expected. Case and punctuation do not count; signs, decimals and symbols do: -5 is not 5, nor
    is C++ C. An expected answer of nothing but punctuation has to be all of the output.
    """

    version: str = "2"
    exact: ClassVar[bool] = True

    def score(self, answers: Sequence[Answer]) -> list[float]:
        return [float(_states(a.output, a.expected)) if a.expected.strip() else NAN for a in answers]


def _states(output: str, expected: str) -> bool:
    if wanted := words(expected):
        return f" {' '.join(wanted)} " in f" {' '.join(words(output))} "
    return output.strip() == expected.strip()
