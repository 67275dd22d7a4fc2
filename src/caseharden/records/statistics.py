"""A reading of scores, with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import binomtest, bootstrap, norm

from caseharden.records.results import Reading


def reading(
    scores: Sequence[float], *, judge: str = "", judge_version: str = "", confidence: float = 0.95
) -> Reading:
    """Mean of the scored answers with its interval: Wilson's for yes-or-no scores, else BCa bootstrap.

    NaN scores count as unscored. The bootstrap is seeded, so the same scores give the same interval.
    """
    values = np.asarray(scores, dtype=float)
    scored = values[~np.isnan(values)]
    unscored = int(len(values) - len(scored))
    if len(scored) == 0:
        return Reading(float("nan"), float("nan"), float("nan"), 0, unscored, judge, judge_version)
    mean = float(scored.mean())
    if np.isin(scored, (0.0, 1.0)).all():
        interval = binomtest(int(scored.sum()), len(scored)).proportion_ci(confidence, method="wilson")
        low, high = float(interval.low), float(interval.high)
    elif np.ptp(scored) == 0:
        low = high = mean
    else:
        found = bootstrap(
            (scored,), np.mean, confidence_level=confidence, n_resamples=2000, rng=np.random.default_rng(0)
        ).confidence_interval
        low, high = float(found.low), float(found.high)
    return Reading(mean, low, high, len(scored), unscored, judge, judge_version)


def bounds(value: float, n: int, confidence: float) -> tuple[float, float]:
    """Wilson's interval for the mean of `n` scores from 0 to 1; no interval (0, 1) without scores.

    No distribution on [0, 1] varies more than yes-or-no, so it is wide enough for any scores.
    """
    if n == 0:
        return 0.0, 1.0
    z = norm.ppf((1 + confidence) / 2)
    centre = (value + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(value * (1 - value) / n + z**2 / (4 * n**2))
    return float(max(centre - half, 0.0)), float(min(centre + half, 1.0))
