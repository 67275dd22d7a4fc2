"""What a chart draws, as plain data: lines, bands and axes, for `plotly_charts` and `figures` to draw.

Positions on an axis of steps are logarithmic already (see `style.place`). NaN is a gap.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from caseharden.audit.resistance import AttackRuns
from caseharden.records.results import Point, is_bystander
from caseharden.report.style import Plotted, Style, counted, interval, number, place, ticks

Mark = Literal["", "full", "open"]
Shape = Literal["linear", "hv", "vh"]
"""How two points are joined: straight, or as a step, horizontal or vertical first."""
Ends = Sequence[tuple[float, float]]
"""The two ends of an interval at each point."""


@dataclass(frozen=True)
class Line:
    """Points joined in order; with `arrow`, an arrow from the first to the last.

    `series` is the number of what can be hidden in the legend, None for what is always there. `marks` and `hover`
    (lines of text, the first in bold) are one for each point, or none at all.
    """

    x: Sequence[float]
    y: Sequence[float]
    style: Style
    series: int | None = None
    name: str = ""
    width: float = 2.25
    opacity: float = 1.0
    shape: Shape = "linear"
    arrow: bool = False
    marks: Sequence[Mark] = ()
    hover: Sequence[Sequence[str]] = ()
    x_ends: Ends = ()
    y_ends: Ends = ()


@dataclass(frozen=True)
class Band:
    """What lies between two heights."""

    x: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    style: Style
    series: int | None = None
    shape: Shape = "linear"


Trace = Line | Band


@dataclass(frozen=True)
class Axis:
    """An axis: what it shows, which positions are labeled how, and from where to where it goes; else left open."""

    title: str
    ticks: Mapping[float, str] = field(default_factory=dict)
    span: tuple[float, float] | None = None


@dataclass(frozen=True)
class Rule:
    """A dashed line right across a chart, with its name."""

    text: str
    at: float
    upright: bool = False


@dataclass(frozen=True)
class View:
    """What a chart shows for one choice of attack, and what there is to say of it, the defense first."""

    traces: Sequence[Trace]
    notes: Sequence[str] = ()

    @property
    def note(self) -> str:
        return f"{'; '.join(self.notes)}." if self.notes else ""


@dataclass(frozen=True)
class Chart:
    """One chart with its accessible name, and a view for each choice of the page's attack menu, or just one."""

    title: str
    x: Axis
    y: Axis
    rules: Sequence[Rule]
    views: Sequence[View]


def mean(plotted: Plotted, series: int, at: Callable[[int], float] = place) -> list[Trace]:
    """The mean over seeds of what is watched, with markers, above the band of the intervals."""
    points, style = plotted.runs.points, plotted.style
    x = [at(point.budget) for point in points]
    readings = [point.readings[plotted.runs.watched] for point in points]
    return [
        Band(x, [reading.low for reading in readings], [reading.high for reading in readings], style, series),
        Line(
            x,
            [reading.value for reading in readings],
            style,
            series,
            plotted.label,
            marks=["full"] * len(points),
            hover=[hover(point, plotted) for point in points],
        ),
    ]


def seeds(plotted: Plotted, series: int, at: Callable[[int], float] = place) -> list[Trace]:
    """Each seed's own line, where there are several."""
    curves = plotted.runs.curves
    return [
        Line(
            [at(point.budget) for point in curve.points],
            [point.readings[curve.watched].value for point in curve.points],
            plotted.style,
            series,
            width=1,
            opacity=0.5,
        )
        for curve in curves
        if len(curves) > 1
    ]


def arrow(plotted: Plotted, after: Point, series: int) -> Line:
    """Harm beside utility, from the model as released to what an attack has made of it."""
    ends = (plotted.runs.before, after)
    harm = [point.readings["harm"] for point in ends]
    utility = [point.readings["utility"] for point in ends]
    return Line(
        [reading.value for reading in utility],
        [reading.value for reading in harm],
        plotted.style,
        series,
        plotted.label,
        width=1.75,
        arrow=True,
        marks=("open", "full"),
        hover=[hover(point, plotted) for point in ends],
        x_ends=[(reading.low, reading.high) for reading in utility],
        y_ends=[(reading.low, reading.high) for reading in harm],
    )


def hover(point: Point, plotted: Plotted) -> list[str]:
    """A point in words: its attack, what was measured there, and how many answers are behind it."""
    watched = plotted.runs.watched
    names = [watched, *(name for name in point.readings if name == "utility" or is_bystander(name))]
    behind = point.readings[watched]
    return [
        plotted.label,
        f"{plotted.attack}, {point.budget} steps",
        *(f"{name} {number(point.readings[name].value)} ({interval(point.readings[name])})" for name in names),
        f"{counted(plotted.runs.seeds, 'seed')}, {behind.n} answers scored for {watched}, {behind.unscored} not",
    ]


def steps_axis(budgets: Collection[int]) -> Axis:
    """An axis of attack steps, logarithmic with room for 0."""
    last = place(max(budgets, default=1))
    return Axis(
        "attack steps", {place(budget): str(budget) for budget in ticks(budgets)}, (-0.03 * last, 1.03 * last)
    )


def share_axis(title: str) -> Axis:
    """An axis from 0 to 1."""
    return Axis(title, {share / 4: f"{share / 4:g}" for share in range(5)}, (-0.03, 1.03))


def budgets_of(runs: Sequence[AttackRuns]) -> set[int]:
    """Every budget at which a run was looked at."""
    return {point.budget for each in runs for curve in each.curves for point in curve.points}
