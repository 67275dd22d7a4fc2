"""Survival curves and time ratios: against lifelines, against Student's t, in simulations of a known truth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
import pytest
from lifelines import KaplanMeierFitter, LogNormalAFTFitter
from numpy.typing import NDArray
from scipy.stats import binom, ttest_ind

from caseharden.audit.survival import Span, TimeRatio, broken_share, kaplan_meier, ratio
from caseharden.errors import CasehardenError

INF = math.inf
BUDGETS = (1, 2, 5, 10, 20, 50, 100, 200)
SPANS = [Span(5, 10), Span(2, 5), Span(5, 10), Span(7, INF), Span(10, 20), Span(20, INF), Span(20, 50)]


def exact(times: Sequence[float]) -> list[Span]:
    return [Span(time, time) for time in times]


def on_grid(times: NDArray[np.float64], budgets: Sequence[int]) -> list[Span]:
    ends = [0, *budgets, INF]
    return [Span(ends[i], ends[i + 1]) for i in np.searchsorted(budgets, times)]


@pytest.mark.parametrize("confidence", [0.95, 0.8])
@pytest.mark.parametrize("spans", [SPANS, SPANS[:5], [*SPANS, Span(50, 100)]], ids=["7", "5", "none left"])
def test_the_survival_curve_is_that_of_lifelines(spans: list[Span], confidence: float) -> None:
    times = [span.low if span.censored else span.high for span in spans]
    other = KaplanMeierFitter(alpha=1 - confidence).fit(times, [not span.censored for span in spans])
    steps = kaplan_meier(spans, confidence)
    assert [step.time for step in steps] == sorted({span.high for span in spans if not span.censored})
    for step in steps:
        assert step.survival == pytest.approx(other.survival_function_.loc[step.time].item(), abs=1e-12)
        assert step.at_risk == other.event_table.at_risk[step.time]
        assert step.events == other.event_table.observed[step.time]
        if step.survival > 0:
            bounds = other.confidence_interval_.loc[step.time].tolist()
            assert [step.low, step.high] == pytest.approx(bounds, abs=1e-9)


def test_a_survival_of_zero_in_a_few_runs_is_not_taken_for_certain() -> None:
    (only,) = kaplan_meier([Span(0, 10)] * 3)
    assert (only.survival, only.low, only.high) == (0, 0, 1)
    *_, before, last = kaplan_meier([*SPANS, Span(50, 100)])
    assert (last.survival, last.low, last.high) == (0, 0, before.high) and 0 < before.high < 1


def test_no_step_where_nothing_broke() -> None:
    assert kaplan_meier([Span(10, INF), Span(20, INF)]) == kaplan_meier([]) == ()


@pytest.mark.parametrize("confidence", [0.95, 0.8])
@pytest.mark.parametrize("sizes", [(2, 1), (2, 2), (3, 5), (20, 20)])
def test_for_exact_times_the_interval_is_students(sizes: tuple[int, int], confidence: float) -> None:
    rng = np.random.default_rng(sizes)
    defended, undefended = (np.exp(rng.normal(mean, 0.4, n)) for mean, n in zip((4, 2), sizes, strict=True))
    found = ratio(exact(defended), exact(undefended), confidence)
    student = ttest_ind(np.log(defended), np.log(undefended)).confidence_interval(confidence)
    assert math.log(found.value) == pytest.approx(np.log(defended).mean() - np.log(undefended).mean(), abs=1e-4)
    assert [math.log(found.low), math.log(found.high)] == pytest.approx([student.low, student.high], abs=1e-3)


@pytest.mark.parametrize(
    ("defended", "undefended"),
    [
        ([Span(20, 50), Span(50, 100), Span(200, INF)], [Span(2, 5), Span(5, 10), Span(10, 20)]),
        (SPANS, [Span(1, 2), Span(2, 5), Span(2, 5), Span(5, 10), Span(10, 20)]),
        (
            [Span(20, 50), Span(50, 100), Span(100, INF), Span(100, INF)],
            [Span(0, 5), Span(5, 10), Span(10, 20), Span(20, 50)],
        ),
    ],
    ids=["three", "uneven", "much censored"],
)
def test_the_estimate_is_that_of_lifelines(defended: list[Span], undefended: list[Span]) -> None:
    groups = enumerate((undefended, defended))
    rows = [(max(span.low, 1e-12), span.high, name) for name, group in groups for span in group]  # it takes no 0
    table = pd.DataFrame(rows, columns=["low", "high", "defended"])
    other = LogNormalAFTFitter().fit_interval_censoring(table, "low", "high")
    expected = math.exp(other.params_["mu_"]["defended"])
    assert ratio(defended, undefended).value == pytest.approx(expected, rel=1e-3)


@cache
def _ratio(defended: tuple[Span, ...], undefended: tuple[Span, ...]) -> TimeRatio:
    """On a grid samples come again: a third to a half of those below."""
    return ratio(defended, undefended)


@dataclass(frozen=True)
class Scenario:
    """Undefended medians anywhere from `median` to twice that, so that none lies always at the edge of a span."""

    runs: int
    median: float
    budgets: tuple[int, ...]
    truth: float = 8.0
    sigma: float = 0.5
    repetitions: int = 1000

    @cache  # noqa: B019
    def simulated(self) -> tuple[NDArray[np.float64], float]:
        """Value, low and high (repetitions, 3), and the share of defended runs that were not broken."""
        rng = np.random.default_rng(0)
        found, censored = [], 0
        for _ in range(self.repetitions):
            median = self.median * 2 ** rng.random()
            undefended = on_grid(median * np.exp(rng.normal(0, self.sigma, self.runs)), self.budgets)
            defended = on_grid(self.truth * median * np.exp(rng.normal(0, self.sigma, self.runs)), self.budgets)
            result = _ratio(*(tuple(sorted(runs, key=lambda span: span.low)) for runs in (defended, undefended)))
            found.append((result.value, result.low, result.high))
            censored += sum(span.censored for span in defended)
        return np.array(found), censored / (self.repetitions * self.runs)


MILD, HEAVY, FEW = Scenario(8, 5, BUDGETS), Scenario(8, 8, BUDGETS[:-1]), Scenario(5, 5, BUDGETS)
ALL = pytest.mark.parametrize("scenario", [MILD, HEAVY, FEW], ids=["mild", "heavy", "few"])


@ALL
def test_the_interval_covers_the_truth_as_often_as_it_says(scenario: Scenario) -> None:
    _, low, high = scenario.simulated()[0].T
    assert 0.93 <= np.mean((low <= scenario.truth) & (scenario.truth <= high)) <= 0.97


@ALL
def test_a_ratio_is_seldom_claimed_to_be_above_what_it_is(scenario: Scenario) -> None:
    _, low, _ = scenario.simulated()[0].T
    assert (low > scenario.truth).sum() <= binom.ppf(0.999, scenario.repetitions, 0.025)


@pytest.mark.parametrize("scenario", [MILD, FEW], ids=["mild", "few"])
def test_the_grid_does_not_bias_the_estimate(scenario: Scenario) -> None:
    found, censored = scenario.simulated()
    error = np.log(found[:, 0] / scenario.truth)
    assert censored < 0.05 and np.isfinite(error).all()
    assert abs(error.mean()) < 3 * error.std() / math.sqrt(len(error))


def test_heavy_censoring_does_not_bias_the_median_estimate() -> None:
    """Infinite estimates, of samples where no defended run broke, count as above the truth: none is left out."""
    found, censored = HEAVY.simulated()
    assert 0.3 < censored < 0.5
    first, last = binom.ppf([0.001, 0.999], len(found), 0.5).astype(int)
    ordered = np.sort(found[:, 0])
    assert ordered[first] <= HEAVY.truth <= ordered[last]


def test_exchanging_the_groups_inverts_the_ratio() -> None:
    undefended = [Span(1, 2), Span(2, 5), Span(0, 1)]
    there, back = ratio(SPANS, undefended), ratio(undefended, SPANS)
    assert [there.value, there.low, there.high] == pytest.approx([1 / back.value, 1 / back.high, 1 / back.low])


def test_the_ratio_does_not_depend_on_the_unit_of_time() -> None:
    def scaled(spans: list[Span]) -> list[Span]:
        return [Span(1e6 * span.low, 1e6 * span.high) for span in spans]

    undefended = [Span(1, 2), Span(2, 5), Span(0, 1)]
    one, million = ratio(SPANS, undefended), ratio(scaled(SPANS), scaled(undefended))
    assert [one.value, one.low, one.high] == pytest.approx([million.value, million.low, million.high])


def test_if_no_defended_run_broke_the_ratio_has_a_lower_bound_only() -> None:
    undefended = [Span(2, 5), Span(5, 10), Span(5, 10), Span(10, 20)]
    found = ratio([Span(200, INF)] * 4, undefended)
    assert (found.value, found.high) == (INF, INF) and 10 < found.low < 40
    assert ratio([Span(400, INF)] * 4, undefended).low == pytest.approx(2 * found.low, rel=1e-3)
    mirrored = ratio(undefended, [Span(200, INF)] * 4)
    assert (mirrored.value, mirrored.low) == (0, 0) and mirrored.high == pytest.approx(1 / found.low, rel=1e-3)


def test_breaking_before_the_first_budget_sets_no_limit_to_the_ratio() -> None:
    found = ratio([Span(50, 100)] * 4, [Span(0, 1)] * 4)
    assert (found.value, found.high) == (INF, INF) and 10 < found.low <= 60
    limited = ratio([Span(50, 100)] * 4, [Span(0, 1)] * 3 + [Span(1, 2)])
    assert 25 < limited.low < limited.value < limited.high < 1000


@pytest.mark.parametrize(
    ("defended", "undefended"),
    [
        ([Span(200, INF)] * 4, [Span(100, INF)] * 4),
        ([Span(0, INF)] * 4, [Span(5, 10)] * 4),
        ([Span(0, 1)] * 4, [Span(0, 1)] * 4),
        ([], [Span(5, 10)] * 4),
    ],
    ids=["all censored", "not attacked", "all at once", "empty"],
)
def test_nothing_is_said_where_nothing_can_be(defended: list[Span], undefended: list[Span]) -> None:
    found = ratio(defended, undefended)
    assert math.isnan(found.value) and (found.low, found.high) == (0, INF)


def test_one_run_of_each_gives_an_estimate_without_an_interval() -> None:
    found = ratio([Span(50, 100)], [Span(5, 10)])
    assert (found.low, found.high) == (0, INF) and found.value == pytest.approx(10, rel=1e-3)


@pytest.mark.parametrize("runs", [2, 4, 10])
def test_where_all_runs_coincide_the_estimate_is_the_middle_of_what_fits(runs: int) -> None:
    found = ratio([Span(50, 100)] * runs, [Span(5, 10)] * runs)
    assert found.value == pytest.approx(10, rel=1e-3)
    assert found.low * found.high == pytest.approx(100, rel=1e-2)
    assert found.low < 5.1 and found.high > 19.6, "no ratio between 5 and 20 fits worse than another"


def test_spans_that_tell_nothing_change_nothing() -> None:
    assert ratio([*SPANS, Span(0, INF)], [Span(1, 2), Span(2, 5)]) == ratio(SPANS, [Span(1, 2), Span(2, 5)])


def test_a_narrow_span_is_as_good_as_an_exact_time() -> None:
    narrow = ratio([Span(50, 50.0000001), Span(60, 60.001)], [Span(5, 5.0000001), Span(4, 4.0001)])
    points = ratio(exact([50, 60]), exact([5, 4]))
    assert [narrow.value, narrow.low, narrow.high] == pytest.approx(
        [points.value, points.low, points.high], rel=1e-3
    )


def test_ratios_too_large_to_tell_count_as_infinite() -> None:
    found = ratio(exact([1e9, 1.1e9, 1.2e9]), exact([1, 1.1, 1.2]))
    assert found == TimeRatio(INF, found.low, INF) and 100 < found.low < 1e9


@pytest.mark.parametrize("ends", [(5, 2), (-1, 2), (0, 0), (INF, INF), (math.nan, 2), (1, math.nan)])
def test_what_is_no_span_is_refused(ends: tuple[float, float]) -> None:
    with pytest.raises(CasehardenError, match="not a span"):
        Span(*ends)


def test_the_share_that_would_break_is_clopper_and_pearsons() -> None:
    low, high = broken_share(3, 8)
    assert binom.sf(2, 8, low) == pytest.approx(0.025) and binom.cdf(3, 8, high) == pytest.approx(0.025)
    assert broken_share(0, 8) == pytest.approx((0, 1 - 0.025 ** (1 / 8)))
    assert broken_share(8, 8, 0.9) == pytest.approx((0.05 ** (1 / 8), 1))
    assert broken_share(0, 0) == (0, 1)
