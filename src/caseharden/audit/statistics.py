"""Intervals for what changed between two models that answered the same questions, and for how judges agree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from caseharden.records.results import Answers
from caseharden.records.statistics import Mean, mean, numbered


@dataclass(frozen=True)
class Difference:
    """A mean change over `n` pairs: mean gain less mean loss, and how these two are correlated."""

    gain: Mean
    loss: Mean
    correlation: float

    @property
    def n(self) -> int:
        return self.gain.n

    @property
    def value(self) -> float:
        return self.gain.value - self.loss.value

    def at(self, confidence: float) -> tuple[float, float]:
        """Its two-sided interval, from those of gain and loss (Zou & Donner 2008, section 2; their MOVER)."""
        if self.n == 0:
            return -1.0, 1.0
        (gain_low, gain_high), (loss_low, loss_high) = self.gain.at(confidence), self.loss.at(confidence)
        below = self._distance(self.gain.value - gain_low, loss_high - self.loss.value)
        above = self._distance(gain_high - self.gain.value, self.loss.value - loss_low)
        return max(self.value - below, -1.0), min(self.value + above, 1.0)

    def _distance(self, one: float, other: float) -> float:
        return math.sqrt(one**2 + other**2 - 2 * self.correlation * one * other)


def paired(before: Answers, after: Answers) -> Difference:
    """Mean of after − before over the questions that both answered and that got a score both times.

    Gains and losses are each a mean of scores from 0 to 1 by cluster (see `records.statistics.mean`), so that no
    change at all does not look like certainty. Questions asked several times are paired in order.
    """
    earlier = dict(_numbered(before))
    pairs = [
        (group, score - earlier[key])
        for group, (key, score) in zip(after.groups, _numbered(after), strict=True)
        if not math.isnan(score - earlier.get(key, math.nan))
    ]
    groups, change = [group for group, _ in pairs], np.array([change for _, change in pairs], dtype=float)
    gain, loss = np.maximum(change, 0), np.maximum(-change, 0)
    return Difference(mean(gain.tolist(), groups), mean(loss.tolist(), groups), _correlation(gain, loss, groups))


def _correlation(first: np.ndarray, second: np.ndarray, groups: Sequence[str]) -> float:
    """Pearson's, of two scores' means over clusters; 0 where one of them does not vary."""
    cluster = numbered(groups)
    one, other = (np.bincount(cluster, x - x.mean()) if len(x) else x for x in (first, second))
    spread = math.sqrt(float((one**2).sum() * (other**2).sum()))
    return float((one * other).sum()) / spread if spread > 0 else 0.0


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

    Clusters of questions are drawn, each with all its answers, since these are alike. Seeded. Resamples
    without a κ (all answers of one kind) are left out; judges that never disagree get an interval of no width.
    """
    tables = _tables(first, second, threshold)
    whole = tables.sum(axis=0)
    n = int(whole.sum())
    if n == 0:
        return Kappa(math.nan, math.nan, math.nan, math.nan, 0)
    rng, clusters = np.random.default_rng(0), len(tables)
    draws = rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=resamples)
    found = _kappa(np.tensordot(draws, tables, axes=1))
    found = found[~np.isnan(found)]
    error = (1 - confidence) / 2
    low, high = np.quantile(found, [error, 1 - error]) if len(found) else (math.nan, math.nan)
    return Kappa(float(_kappa(whole)), float(low), float(high), float(whole[0, 1] + whole[1, 0]) / n, n)


def _tables(first: Answers, second: Answers, threshold: float) -> np.ndarray:
    """For each cluster, how many answers got which verdicts: [clusters, no or yes of one judge, of the other]."""
    scores = dict(_numbered(first))
    rows: dict[str, np.ndarray] = {}
    for group, (key, other) in zip(second.groups, _numbered(second), strict=True):
        one = scores.get(key, math.nan)
        if not (math.isnan(one) or math.isnan(other)):
            rows.setdefault(group, np.zeros((2, 2), int))[int(one > threshold), int(other > threshold)] += 1
    return np.array(list(rows.values()), dtype=int).reshape(-1, 2, 2)


def _kappa(tables: np.ndarray) -> np.ndarray:
    """κ of each 2×2 table in [..., 2, 2]; NaN where chance alone would agree on everything, or nothing is there."""
    with np.errstate(divide="ignore", invalid="ignore"):
        share = tables / tables.sum(axis=(-2, -1), keepdims=True)
        agreed = share[..., 0, 0] + share[..., 1, 1]
        chance = (share.sum(-1) * share.sum(-2)).sum(-1)
        found: np.ndarray = np.where(chance < 1, (agreed - chance) / (1 - chance), math.nan)
    return found
