"""Means of scores with their intervals, by cluster: answers to questions about one thing are not independent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from caseharden.errors import CasehardenError
from caseharden.records.results import Reading


@dataclass(frozen=True)
class Mean:
    """The mean of `n` scores from 0 to 1, as precise as that of `effective` independent yes-or-no answers."""

    value: float
    n: int
    clusters: int
    effective: float

    def at(self, confidence: float) -> tuple[float, float]:
        """Its two-sided interval; (0, 1) where there are fewer than two clusters."""
        return bounds(self.value, self.effective, confidence, self.clusters - 1)


def mean(scores: Sequence[float], groups: Sequence[str]) -> Mean:
    """Mean of the scored answers (NaN: unscored), those of one of `groups` being one cluster.

    The interval is Wilson's on the effective sample size: the number of scores over their design effect, the
    cluster-robust variance as a multiple of the binomial one (Korn & Graubard 1998; Franco et al. 2019 on
    Wilson's; Miller 2024, arXiv 2411.00640, on clusters in evaluations). The quantile is of Student's t with a
    degree of freedom less than there are clusters. The design effect is measured with half a cluster more of each
    extreme, all 0 and all 1, of average size: near 0 and 1 little can be seen of it, and where all scores are equal
    nothing. There each cluster counts as one answer. For independent yes-or-no scores it is exactly 1.

    Raises `CasehardenError` for a score outside [0, 1], and unless there is one group for each.
    """
    values = np.asarray(scores, dtype=float)
    if len(groups) != len(values):
        raise CasehardenError(f"{len(values)} scores and {len(groups)} groups. Give one group for each score.")
    there = ~np.isnan(values)
    values, n = values[there], int(there.sum())
    if n == 0:
        return Mean(math.nan, 0, 0, 0.0)
    if values.min() < 0 or values.max() > 1:
        raise CasehardenError(
            f"scores are from 0 to 1, not {values.min()} to {values.max()}. Rescale the measure's."
        )
    cluster = numbered([*compress(groups, there)])
    value, clusters = float(values.mean()), int(cluster.max()) + 1
    size = n / clusters
    centre = (values.sum() + size / 2) / (n + size)
    totals = np.bincount(cluster, values - centre)
    squares = (totals**2).sum() + size**2 * (centre**2 + (1 - centre) ** 2) / 2
    effect = float(squares / ((n + size) * centre * (1 - centre)))
    return Mean(value, n, clusters, n / effect if clusters > 1 else 0.0)


def numbered(groups: Sequence[str]) -> NDArray[np.int64]:
    """The number of each one's group: 0, 1, … in the order in which they come."""
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    return np.fromiter(map(numbers.__getitem__, groups), np.int64, len(groups))


def reading(
    scores: Sequence[float],
    groups: Sequence[str],
    *,
    judge: str = "",
    judge_version: str = "",
    confidence: float = 0.95,
) -> Reading:
    """`mean` as a record keeps it, with its interval; all three NaN where nothing was scored."""
    found = mean(scores, groups)
    low, high = found.at(confidence) if found.n else (math.nan, math.nan)
    unscored = len(scores) - found.n
    return Reading(found.value, low, high, found.n, unscored, judge, judge_version, found.effective, found.clusters)


def bounds(value: float, n: float, confidence: float, freedom: float = math.inf) -> tuple[float, float]:
    """Wilson's interval for a share of `n` answers; no interval (0, 1) without any.

    With `freedom` finite the quantile is of Student's t, for an `n` that is itself measured.
    """
    if n == 0:
        return 0.0, 1.0
    upper = (1 + confidence) / 2
    z = ndtri(upper) if freedom == math.inf else stdtrit(freedom, upper)
    centre = (value + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(value * (1 - value) / n + z**2 / (4 * n**2))
    return float(max(centre - half, 0.0)), float(min(centre + half, 1.0))


def exceeds(found: Reading, limit: float, confidence: float) -> bool:
    """Whether the mean score is above `limit`, by its one-sided interval; answers without a score count as 0."""
    return _with(found, 0.0).at(2 * confidence - 1)[0] > limit


def within(found: Reading, limit: float, confidence: float) -> bool:
    """Whether the mean score is at most `limit`, by its one-sided interval; answers without a score count as 1."""
    return _with(found, 1.0).at(2 * confidence - 1)[1] <= limit


def _with(found: Reading, score: float) -> Mean:
    """The mean with that score for every answer that has none, at the same design effect."""
    if found.n == 0:
        return Mean(math.nan, 0, 0, 0.0)
    asked = found.n + found.unscored
    value = (found.value * found.n + score * found.unscored) / asked
    effective = found.n if math.isnan(found.effective) else found.effective
    return Mean(value, asked, found.clusters or found.n, effective * asked / found.n)
