"""Times to break that are known only up to a grid of budgets: survival curves, and ratios with intervals."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import log_ndtr
from scipy.stats import CensoredData, binomtest, ecdf, t

from caseharden.errors import CasehardenError

Array = NDArray[np.float64]

MIN_SIGMA, MAX_SIGMA = 1e-3, 1e3  # spread of log times; beyond, the likelihood of grid data is flat
MAX_LOG_RATIO = 12.0  # beyond, a ratio counts as infinite, or as 0
FLAT = 1e-5  # log ratios fit alike if their likelihood-ratio statistics differ by less
NARROW = 1e-4  # a narrower span of log times counts as exact: rounding would swallow its probability
FAR = 1e9  # an infinite log time, but one that a density of zero can be multiplied by
LOG_ROOT_TAU = math.log(math.tau) / 2


@dataclass(frozen=True)
class Span:
    """A time to break, in attack steps, that lies in (`low`, `high`]; known exactly if the two are equal.

    `high` is infinite for a run not broken within `low`. Raises `CasehardenError` for ends that make no span.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (0 <= self.low <= self.high and self.low < math.inf and self.high > 0):
            raise CasehardenError(
                f"({self.low}, {self.high}] is not a span of attack steps. Give 0 <= low <= high, with low finite "
                "and high above 0. A model that was broken before the first step has no time to break."
            )

    @property
    def censored(self) -> bool:
        return self.high == math.inf


@dataclass(frozen=True)
class Step:
    """The share of runs still unbroken after `time` attack steps, with its pointwise interval.

    `at_risk` runs were unbroken and observed just before, and `events` of them broke there.
    """

    time: float
    survival: float
    low: float
    high: float
    at_risk: int
    events: int


@dataclass(frozen=True)
class TimeRatio:
    """Time to break as a multiple of the undefended model's, with its interval; see `ratio`."""

    value: float
    low: float
    high: float


def kaplan_meier(spans: Sequence[Span], confidence: float = 0.95) -> tuple[Step, ...]:
    """The survival curve (Kaplan & Meier 1958), one step for each time at which a run broke; none if none did.

    A run counts as broken at the upper end of its span, where the break was observed, so between two budgets
    the curve may be too high. One that was not broken counts up to its lower end. The interval is the log-log
    one of Kalbfleisch & Prentice (2002, section 1.4; "exponential Greenwood"), for each step by itself. Its
    formula is undefined once no run is left: there the lower end is 0, and the upper end that of the step
    before (survival cannot rise), or 1 at the first step. lifelines reports [0, 0] there.
    """
    broken = np.array([span.high for span in spans if not span.censored])
    unbroken = np.array([span.low for span in spans if span.censored])
    if not len(broken):
        return ()
    survival = ecdf(CensoredData(uncensored=broken, right=unbroken)).sf
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The confidence interval is undefined")
        interval = survival.confidence_interval(confidence, method="log-log")
    steps: list[Step] = []
    for time in np.unique(broken):
        low, high = float(interval.low.evaluate(time)), float(interval.high.evaluate(time))
        if math.isnan(low):
            low, high = 0.0, steps[-1].high if steps else 1.0
        at_risk, events = int((broken >= time).sum() + (unbroken >= time).sum()), int((broken == time).sum())
        steps.append(Step(float(time), float(survival.evaluate(time)), low, high, at_risk, events))
    return tuple(steps)


def broken_share(broken: int, runs: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval for the share of new runs, with new seeds, that would break, if `broken` of `runs` did.

    Clopper & Pearson's (1934): it covers the true share at least as often as `confidence` says. (0, 1) for no
    runs. Raises `ValueError` unless 0 <= broken <= runs.
    """
    if runs == broken == 0:
        return 0.0, 1.0
    interval = binomtest(broken, runs).proportion_ci(confidence, method="exact")
    return float(interval.low), float(interval.high)


def ratio(defended: Sequence[Span], undefended: Sequence[Span], confidence: float = 0.95) -> TimeRatio:
    """How many times as long the defended model holds: the ratio of median times to break, with its interval.

    Assumes an accelerated-failure-time model (Kalbfleisch & Prentice 2002, chapters 3 and 7) with log-normal
    times of one common spread: log T = mu + delta * [defended] + sigma * eps, eps standard normal. So the ratio
    exp(delta) is that of the medians, and of any other quantile. Fitted by maximum likelihood: a span adds the
    probability that T lies in it, an exact time its density.

    The interval holds every ratio that the profile likelihood does not reject (Cox & Oakes 1984, section 3.3).
    With few runs chi-squared would reject too often; the threshold is n * log(1 + t^2 / (n - 2)) instead, with
    t the two-sided quantile of Student's t with n - 2 degrees of freedom. For exact times this is the pooled
    two-sample t interval of their logs; for spans it is an approximation. Simulated 95% intervals covered 94%
    to 96% of the time with five or more runs a group and 93% with three; more where all runs share a span.

    How runs differ is in the interval, and not that both models are asked the same questions on which a break is
    decided: it speaks of these questions.

    Where a range of ratios fits the data best, `value` is its middle, on the log scale. If that range has no
    upper end (no defended run broke, or all undefended ones did before the first budget), `value` and `high`
    are infinite, and `low` is what the data say; the other way round `value` and `low` are 0. If no ratio can
    be excluded, `low` is 0 and `high` infinite, as always with two runs; `value` is NaN if there is nothing to
    estimate it from, as when no run broke or a group is empty. Spans (0, inf] tell nothing and are left out.
    Ratios beyond exp(±12) count as infinite or 0.
    """
    likelihood = _fitted(defended, undefended)
    if likelihood is None:
        return TimeRatio(math.nan, 0.0, math.inf)
    low, best, high = -math.inf, likelihood.best, math.inf
    if (freedom := likelihood.runs - 2) > 0:
        quantile = float(t.ppf(0.5 + confidence / 2, freedom))
        threshold = likelihood.runs * math.log1p(quantile**2 / freedom)
        low, high = (likelihood.end(best, direction, threshold) for direction in (-1, 1))
    if min(likelihood.statistic(best - 0.02), likelihood.statistic(best + 0.02)) < FLAT:
        best = sum(likelihood.end(best, direction, FLAT) for direction in (-1, 1)) / 2
    return TimeRatio(math.exp(best), math.exp(low), math.exp(high))


def p_values(defended: Iterable[Span], undefended: Iterable[Span], limit: float) -> tuple[float, float]:
    """One-sided p values of the ratio's being at most `limit`, and at least that; both 1 if nothing can be told.

    A `ratio`'s interval of confidence c lies above the limit where the first is below (1 - c) / 2, and below it
    where the second is.
    """
    likelihood = _fitted(defended, undefended)
    if likelihood is None or likelihood.runs <= 2:
        return 1.0, 1.0
    statistic, freedom = likelihood.statistic(math.log(limit)), likelihood.runs - 2
    tail = float(t.sf(math.sqrt(freedom * math.expm1(statistic / likelihood.runs)), freedom))
    return (tail, 1 - tail) if likelihood.best > math.log(limit) else (1 - tail, tail)


def _fitted(defended: Iterable[Span], undefended: Iterable[Span]) -> _ProfileLikelihood | None:
    """The likelihood of the runs that tell anything; None if there is nothing to estimate a ratio from."""
    told = [[span for span in spans if span.low > 0 or not span.censored] for spans in (undefended, defended)]
    spans = told[0] + told[1]
    if not all(told) or all(span.censored for span in spans):
        return None
    return _ProfileLikelihood(spans, [0.0] * len(told[0]) + [1.0] * len(told[1]))


class _ProfileLikelihood:
    """The likelihood of the log ratio delta, at the mu and sigma that suit it best.

    In alpha = 1/sigma, beta = mu/sigma and gamma = delta/sigma the log likelihood of a log-concave error is
    concave, whatever the censoring (Burridge 1981, JRSS B 43:41-45). So Newton's method finds the maximum from
    any start; and as delta = gamma/alpha maps convex sets to intervals, no statistic has a second valley.
    """

    def __init__(self, spans: Sequence[Span], defended: Sequence[float]) -> None:
        low = np.array([math.log(span.low) if span.low > 0 else -FAR for span in spans])
        high = np.array([FAR if span.censored else math.log(span.high) for span in spans])
        self.runs, self.defended = len(spans), np.array(defended)
        center = np.mean(np.concatenate([low[low > -FAR], high[high < FAR]]))
        self.low = np.where(low > -FAR, low - center, low)
        self.high = np.where(high < FAR, high - center, high)
        self.exact = self.high - self.low < NARROW
        self.low[self.exact] = self.high[self.exact] = (self.low + self.high)[self.exact] / 2

        (alpha, beta, gamma), _ = self._maximize([-np.ones(len(spans)), -self.defended], (1.0, 0.0, 0.0))
        self.best = float(np.clip(gamma / alpha, -MAX_LOG_RATIO, MAX_LOG_RATIO))
        self.nearby: tuple[float, ...] = (alpha, beta)
        self.maximum = self.log_likelihood(self.best)

    def log_likelihood(self, delta: float) -> float:
        shift = -delta * self.defended
        self.nearby, value = self._maximize([-np.ones(len(shift))], self.nearby, shift)
        return value

    def statistic(self, delta: float) -> float:
        return max(0.0, 2 * (self.maximum - self.log_likelihood(delta)))

    def end(self, start: float, direction: float, threshold: float) -> float:
        """How far, up (1) or down (-1), statistics stay below the threshold; infinite beyond MAX_LOG_RATIO."""

        def excess(delta: float) -> float:
            return math.sqrt(self.statistic(delta)) - math.sqrt(threshold)

        inside, stride = start, 0.5
        while inside != direction * MAX_LOG_RATIO:
            outside = float(np.clip(inside + direction * stride, -MAX_LOG_RATIO, MAX_LOG_RATIO))
            if excess(outside) > 0:
                return float(brentq(excess, inside, outside, xtol=1e-5))
            inside, stride = outside, 2 * stride
        return direction * math.inf

    def _maximize(
        self, columns: Sequence[Array], start: tuple[float, ...], shift: Array | float = 0.0
    ) -> tuple[tuple[float, ...], float]:
        """The parameters, alpha and one for each of `columns` (n,), and their log likelihood.

        By Newton's method with step halving, alpha within its bounds. `shift` (n,) is added to the log times.
        """
        ends, theta = [np.stack([end + shift, *columns], axis=1) for end in (self.low, self.high)], np.array(start)
        value, gradient, hessian = self._derivatives(ends, theta)
        for _ in range(200):
            step = _newton_step(gradient, hessian)
            bound = 1 / MAX_SIGMA if step[0] < 0 else 1 / MIN_SIGMA
            if math.isclose(theta[0], bound):
                step = np.concatenate([[0.0], _newton_step(gradient[1:], hessian[1:, 1:])])
            gain = float(gradient @ step)
            if gain < 1e-8:
                break
            size = min(1.0, float((bound - theta[0]) / step[0])) if step[0] else 1.0
            for _ in range(30):
                moved = theta + size * step
                found = self._derivatives(ends, moved)
                if found[0] >= value + 1e-4 * size * gain:
                    break
                size /= 2
            else:
                break
            theta, (value, gradient, hessian) = moved, found
        return tuple(float(x) for x in theta), value

    def _derivatives(self, ends: Sequence[Array], theta: Array) -> tuple[float, Array, Array]:
        """The log likelihood, its gradient (k,) and Hessian (k, k), given rows (n, k) for the spans' two ends."""
        z_low, z_high = ends[0] @ theta, ends[1] @ theta
        flip = z_low + z_high > 0  # to the lower tail, where log_ndtr is precise
        with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
            log_upper = log_ndtr(np.where(flip, -z_low, z_high))
            log_lower = log_ndtr(np.where(flip, -z_high, z_low))
            value = log_upper + np.log1p(-np.exp(log_lower - log_upper))
            at_low, at_high = (np.exp(-z * z / 2 - LOG_ROOT_TAU - value) for z in (z_low, z_high))
            curve_low, curve_high = at_low * (z_low - at_low), -at_high * (z_high + at_high)
            curve_both = at_low * at_high
        exact = self.exact
        value[exact] = math.log(theta[0]) - LOG_ROOT_TAU - z_low[exact] ** 2 / 2
        at_low[exact], curve_low[exact] = z_low[exact], -1.0
        at_high[exact] = curve_high[exact] = curve_both[exact] = 0.0
        gradient = at_high @ ends[1] - at_low @ ends[0]
        mixed = (ends[1].T * curve_both) @ ends[0]
        hessian = (ends[0].T * curve_low) @ ends[0] + (ends[1].T * curve_high) @ ends[1] + mixed + mixed.T
        gradient[0] += exact.sum() / theta[0]
        hessian[0, 0] -= exact.sum() / theta[0] ** 2
        return float(value.sum()), gradient, hessian


def _newton_step(gradient: Array, hessian: Array) -> Array:
    """Uphill for a concave function: a trace of ridge keeps directions in which it is flat from blowing up."""
    ridge = 1e-9 * (1.0 - float(np.trace(hessian)))
    return np.asarray(np.linalg.solve(ridge * np.eye(len(gradient)) - hessian, gradient))
