"""Intervals for measured scores, and for what changed between two models that answered the same questions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from caseharden.records.results import Answers


@dataclass(frozen=True)
class Difference:
    """A mean difference over `n` pairs with its standard error, on `freedom` degrees (inf: normal)."""

    value: float
    centre: float
    error: float
    freedom: float
    n: int

    def at(self, confidence: float) -> tuple[float, float]:
        """Its two-sided interval."""
        half = float(student.ppf((1 + confidence) / 2, self.freedom)) * self.error
        return self.centre - half, self.centre + half


def paired(before: Answers, after: Answers) -> Difference:
    """Mean of after − before over the questions that both answered and that got a score both times.

    Yes-or-no scores: Agresti and Min's adjusted Wald interval (2005), which counts half a pair more of each
    kind, so that no disagreement at all does not look like certainty. Others: Student's t. Questions asked
    several times are paired in order.
    """
    pairs = _pairs(before, after)
    n = len(pairs)
    if n < 2:
        return Difference(math.nan, 0.0, math.inf, math.inf, n)
    change = pairs[:, 1] - pairs[:, 0]
    value = float(change.mean())
    if np.isin(pairs, (0.0, 1.0)).all():
        won, lost = int((change > 0).sum()) + 0.5, int((change < 0).sum()) + 0.5
        centre = (won - lost) / (n + 2)
        error = math.sqrt((won + lost) - (won - lost) ** 2 / (n + 2)) / (n + 2)
        return Difference(value, centre, error, math.inf, n)
    return Difference(value, value, float(change.std(ddof=1)) / math.sqrt(n), n - 1, n)


def _pairs(before: Answers, after: Answers) -> np.ndarray:
    """Scores of the same questions, one row each: before, after. Shape [n, 2]."""
    seen: dict[tuple[str, int], float] = {}
    for key, score in _numbered(before):
        seen[key] = score
    both = [(seen[key], score) for key, score in _numbered(after) if key in seen]
    return np.array([pair for pair in both if not any(math.isnan(s) for s in pair)], dtype=float).reshape(-1, 2)


def _numbered(answers: Answers) -> list[tuple[tuple[str, int], float]]:
    """Each score under its question and how often that was asked before."""
    counts: dict[str, int] = {}
    found = []
    for item, score in zip(answers.items, answers.scores, strict=True):
        counts[item] = counts.get(item, -1) + 1
        found.append(((item, counts[item]), score))
    return found


def kappa(first: Answers, second: Answers, threshold: float = 0.5) -> float:
    """Cohen's κ (1960) of two judges on the same answers, each score above `threshold` a yes; NaN if undefined."""
    return float(_kappa(_tables(first, second, threshold).sum(axis=0)))


@dataclass(frozen=True)
class Kappa:
    """Cohen's κ with its interval, over `n` answers that both judges scored; `disagree` is the share they do on."""

    value: float
    low: float
    high: float
    disagree: float
    n: int


def agreement(
    first: Answers, second: Answers, threshold: float = 0.5, confidence: float = 0.95, resamples: int = 2000
) -> Kappa:
    """κ of two judges on the same answers, with a percentile bootstrap interval; NaN where it is undefined.

    Questions are drawn, each with all its answers, since answers to one question are alike. Seeded. Resamples
    without a κ (all answers of one kind) are left out; judges that never disagree get an interval of no width.
    """
    tables = _tables(first, second, threshold)
    whole = tables.sum(axis=0)
    n = int(whole.sum())
    if n == 0:
        return Kappa(math.nan, math.nan, math.nan, math.nan, 0)
    rng, questions = np.random.default_rng(0), len(tables)
    draws = rng.multinomial(questions, np.full(questions, 1 / questions), size=resamples)
    found = _kappa(np.tensordot(draws, tables, axes=1))
    found = found[~np.isnan(found)]
    error = (1 - confidence) / 2
    low, high = np.quantile(found, [error, 1 - error]) if len(found) else (math.nan, math.nan)
    return Kappa(float(_kappa(whole)), float(low), float(high), float(whole[0, 1] + whole[1, 0]) / n, n)


def _tables(first: Answers, second: Answers, threshold: float) -> np.ndarray:
    """For each question, how many answers got which verdicts: [questions, no or yes of one judge, of the other]."""
    scores = dict(_numbered(first))
    rows: dict[str, np.ndarray] = {}
    for (item, number), other in _numbered(second):
        one = scores.get((item, number), math.nan)
        if not (math.isnan(one) or math.isnan(other)):
            rows.setdefault(item, np.zeros((2, 2), int))[int(one > threshold), int(other > threshold)] += 1
    return np.array(list(rows.values()), dtype=int).reshape(-1, 2, 2)


def _kappa(tables: np.ndarray) -> np.ndarray:
    """κ of each 2×2 table in [..., 2, 2]; NaN where chance alone would agree on everything, or nothing is there."""
    with np.errstate(divide="ignore", invalid="ignore"):
        share = tables / tables.sum(axis=(-2, -1), keepdims=True)
        agreed = share[..., 0, 0] + share[..., 1, 1]
        chance = (share.sum(-1) * share.sum(-2)).sum(-1)
        found: np.ndarray = np.where(chance < 1, (agreed - chance) / (1 - chance), math.nan)
    return found
