"""What a judge is: it reads questions with their answers and gives each a score, or says that it cannot."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from caseharden.errors import CasehardenError

NAN = float("nan")
FAILURES = (RuntimeError, ValueError, OSError)
"""What a judge's own machinery may raise: out of memory, an input it cannot take, a connection lost."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answer:
    """One answer of a model under measurement, with the question it answers.

    `expected` is what an exact verifier looks for. `score` is NaN until somebody has scored it. Questions of one
    `group` ask about the same thing, so their scores are not independent; without one each has its own, its `id`.
    An answer that is not `finished` is the thinking of a model that came to no answer: it stays without a score.
    """

    id: str
    prompt: str
    output: str
    expected: str = ""
    topic: str = ""
    score: float = NAN
    group: str = ""
    finished: bool = True

    @property
    def cluster(self) -> str:
        return self.group or self.id


@runtime_checkable
class Judge(Protocol):
    """Scores answers from 0 to 1; what 1 means is in each judge's docstring. A frozen dataclass.

    A judge with a class attribute ``exact`` that is true cannot be gamed, since it compares with a known
    answer: it may reward and report at once, which others may not.
    """

    @property
    def version(self) -> str:
        """Changes whenever the same answer could get another score (code, weights, head, rubric)."""
        ...

    def score(self, answers: Sequence[Answer]) -> list[float]:
        """One score in [0, 1] for each answer, NaN where this judge cannot tell. Never 0 for a failure."""
        ...


def is_exact(judge: Judge) -> bool:
    """Whether a judge says that it compares with a known answer."""
    return getattr(judge, "exact", False)


def version_of(*parts: str) -> str:
    """Twelve hexadecimal digits that are others whenever one of `parts` is: a judge's version."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def judged(judge: Judge, answers: Sequence[Answer]) -> list[Answer]:
    """`answers` with `judge`'s scores; all NaN, and a warning logged, if the judge fails on them.

    Answers that are not finished are not shown to it, and stay NaN.
    Raises `CasehardenError` for a judge that does not keep to the protocol: a score too many or too few,
    or outside [0, 1]. So does a judge itself where the user can put things right (a package to install).
    """
    name = type(judge).__name__
    shown = [answer for answer in answers if answer.finished]
    try:
        scores = judge.score(shown)
    except FAILURES as error:
        log.warning("%s could not score %d answers, which stay unscored: %r", name, len(shown), error)
        scores = [NAN] * len(shown)
    if len(scores) != len(shown):
        raise CasehardenError(
            f"{name} gave {len(scores)} scores for {len(shown)} answers. A judge gives one for each, in order."
        )
    outside = [score for score in scores if score < 0 or score > 1]
    if outside:
        raise CasehardenError(f"{name} gave a score of {outside[0]}. Scores are from 0 to 1, or NaN.")
    given = iter(scores)
    return [replace(answer, score=next(given) if answer.finished else NAN) for answer in answers]
