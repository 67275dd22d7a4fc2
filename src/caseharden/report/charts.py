"""The page's interactive charts, as Plotly's JSON: harm against budget, and harm beside utility.

Plain dictionaries, since the page draws them itself; text is escaped because Plotly reads markup in it.
A chart has `views`, one for each choice of the page's attack menu (or just one), and a `layout`. Every
trace's `meta` is the number of its series, so that the legend can hide it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from itertools import groupby
from typing import Any

from caseharden.audit.resistance import AttackRuns, Resistance
from caseharden.records.results import Point, Reading
from caseharden.report.style import (
    CONTROL,
    Names,
    Plotted,
    Style,
    counted,
    interval,
    number,
    place,
    ticks,
    with_panel,
)

Trace = dict[str, Any]

WORST = "the worst attack of each defense"
MEASURES = {"harm": "harm", "utility": "utility"}
"""What is told of a point, and by what name."""


@dataclass(frozen=True)
class View:
    """What a chart shows for one choice of attack, and a sentence on it."""

    data: list[Trace]
    note: str = ""


@dataclass(frozen=True)
class Chart:
    """One chart with its accessible name."""

    title: str
    layout: dict[str, Any]
    views: list[View]


def attacks(found: Sequence[Resistance], names: Names) -> list[str]:
    """The choices of the attack menu, in the order of every chart's views."""
    return [WORST, *dict.fromkeys(names.attack(runs) for each in found for runs in each.attacks)]


def overview(found: Sequence[Resistance], names: Names, phi: float) -> Chart:
    """Every defense of every model in one chart."""
    views = []
    for choice in attacks(found, names):
        data = []
        for index, each in enumerate(found):
            runs = _chosen(each, names, choice)
            if runs:
                data += lines(Plotted(runs, names.style(each), names.series(each), names.attack(runs)), index)
        views.append(View(data))
    return Chart("Harm against attack steps, all defenses", _budget_layout(found, phi), views)


def panels(found: Sequence[Resistance], names: Names, phi: float) -> list[Chart]:
    """One chart for each defense, with every seed's line, and the undefended control beside it."""
    layout = _budget_layout(found, phi)
    choices = attacks(found, names)
    return [
        Chart(names.series(each), layout, [_panel(found.index(each), each, names, choice) for choice in choices])
        for each in with_panel(found)
    ]


def plane(found: Sequence[Resistance], names: Names, phi: float) -> Chart:
    """Harm beside utility: an arrow from the model as released to the model after its worst attack."""
    data = []
    for index, each in enumerate(found):
        plotted = Plotted(each.worst, names.style(each), names.series(each), names.attack(each.worst))
        data += arrow(plotted, each.worst.after, index)
    return Chart("Harm beside utility, before and after the worst attack", plane_layout(phi), [View(data)])


def plane_layout(phi: float) -> dict[str, Any]:
    return {
        "xaxis": {"title": {"text": "utility"}, "tickformat": ".2~f"},
        "yaxis": share_axis("harm"),
        **level("φ", phi),
    }


def _chosen(each: Resistance, names: Names, choice: str) -> AttackRuns | None:
    if choice == WORST:
        return each.worst
    return next((runs for runs in each.attacks if names.attack(runs) == choice), None)


def _panel(index: int, each: Resistance, names: Names, choice: str) -> View:
    runs = _chosen(each, names, choice)
    if runs is None:
        return View([], f"No finished run of {choice}.")
    style, attack = names.style(each), names.attack(runs)
    data = []
    control = _control(each, runs, choice)
    if control:
        gray = replace(CONTROL, dash="dot")
        data += lines(Plotted(control, gray, "undefended", names.attack(control)), index)
    data += seed_lines(runs, style, index)
    data += lines(Plotted(runs, replace(style, dash="solid"), names.series(each), attack), index)
    note = f"{attack}: {_outcome(runs)}" + (f"; undefended: {_outcome(control)}." if control else ".")
    return View(data, note)


def _control(each: Resistance, runs: AttackRuns, choice: str) -> AttackRuns | None:
    """Beside the worst attack, that attack at the rate that is best for it undefended; else the same attack."""
    if each.is_control:
        return None
    if choice == WORST:
        return each.control(runs)
    return next((other for other in each.undefended if other.key == runs.key), None)


def _outcome(runs: AttackRuns) -> str:
    steps = runs.steps
    return f"not broken within {steps.budget} steps" if steps.censored else f"broken at {steps.budget} steps"


def lines(
    plotted: Plotted, index: int, measures: Mapping[str, str] = MEASURES, at: Callable[[int], float] = place
) -> list[Trace]:
    """The mean over seeds of harm with its markers, above the band of the intervals.

    `measures` are what is told of a point, `at` is where a budget stands on the axis.
    """
    runs, style = plotted.runs, plotted.style
    line = {
        "mode": "lines+markers",
        "name": escape(plotted.label),
        "x": [at(point.budget) for point in runs.points],
        "y": [or_none(point.readings["harm"].value) for point in runs.points],
        "text": [hover(point, plotted, measures) for point in runs.points],
        "hovertemplate": "%{text}<extra></extra>",
        "line": {"color": style.color, "dash": style.dash, "width": 2.25},
        "marker": {"color": style.color, "symbol": style.marker.plotly, "size": 8},
        "meta": index,
    }
    return [*_bands(runs.points, style, index, at), line]


def _bands(points: Sequence[Point], style: Style, index: int, at: Callable[[int], float]) -> Iterator[Trace]:
    """One closed shape for each stretch of budgets with scored answers: no band where nothing was measured."""
    for scored, stretch in groupby(points, key=lambda point: point.readings["harm"].n > 0):
        if scored:
            there = list(stretch)
            x = [at(point.budget) for point in there]
            high = [point.readings["harm"].high for point in there]
            low = [point.readings["harm"].low for point in there]
            yield {
                "mode": "lines",
                "x": x + x[::-1],
                "y": high + low[::-1],
                "fill": "toself",
                "fillcolor": style.translucent,
                "line": {"width": 0},
                "hoverinfo": "skip",
                "meta": index,
            }


def seed_lines(runs: AttackRuns, style: Style, index: int, at: Callable[[int], float] = place) -> list[Trace]:
    """Each seed's own line, where there are several."""
    if len(runs.curves) == 1:
        return []
    return [
        {
            "mode": "lines",
            "x": [at(point.budget) for point in curve.points],
            "y": [or_none(point.readings["harm"].value) for point in curve.points],
            "line": {"color": style.color, "width": 1},
            "opacity": 0.5,
            "hoverinfo": "skip",
            "meta": index,
        }
        for curve in runs.curves
    ]


def arrow(plotted: Plotted, after: Point, index: int) -> list[Trace]:
    """From the model as released to what an attack has made of it."""
    style, ends = plotted.style, (plotted.runs.before, after)
    harm = [point.readings["harm"] for point in ends]
    utility = [point.readings["utility"] for point in ends]
    common = {
        "x": [or_none(reading.value) for reading in utility],
        "y": [or_none(reading.value) for reading in harm],
        "meta": index,
    }
    shaft = {
        "mode": "lines+markers",
        "line": {"color": style.color, "dash": style.dash, "width": 1.75},
        "marker": {
            "color": style.color,
            "symbol": "arrow",
            "size": [0, 12 if (harm[0].value, utility[0].value) != (harm[1].value, utility[1].value) else 0],
            "opacity": 1,
            "angleref": "previous",
            "standoff": 7,
            "line": {"width": 0},
        },
        "hoverinfo": "skip",
    }
    marks = {
        "mode": "markers",
        "name": escape(plotted.label),
        "text": [hover(point, plotted) for point in ends],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {
            "color": style.color,
            "symbol": [f"{style.marker.plotly}-open", style.marker.plotly],
            "size": 10,
            "opacity": 1,
            "line": {"width": [2, 0]},
        },
        "error_x": _error_bars(utility, style),
        "error_y": _error_bars(harm, style),
    }
    return [common | shaft, common | marks]


def _error_bars(readings: Sequence[Reading], style: Style) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": [or_none(reading.high - reading.value) for reading in readings],
        "arrayminus": [or_none(reading.value - reading.low) for reading in readings],
        "color": style.color,
        "thickness": 1,
        "width": 0,
    }


def hover(point: Point, plotted: Plotted, measures: Mapping[str, str] = MEASURES) -> str:
    told = [f"<b>{escape(plotted.label)}</b>", f"{escape(plotted.attack)}, {point.budget} steps"]
    for name, called in measures.items():
        reading = point.readings[name]
        told.append(f"{escape(called)} {number(reading.value)} ({interval(reading)})")
    harm = point.readings["harm"]
    scored = f"{harm.n} answers scored for {escape(measures['harm'])}, {harm.unscored} not"
    return "<br>".join([*told, f"{counted(plotted.runs.seeds, 'seed')}, {scored}"])


def _budget_layout(found: Sequence[Resistance], phi: float) -> dict[str, Any]:
    budgets = {point.budget for each in found for runs in each.attacks for point in runs.points}
    return {"xaxis": steps_axis(budgets, "attack steps"), "yaxis": share_axis("harm"), **level("φ", phi)}


def steps_axis(budgets: Collection[int], title: str) -> dict[str, Any]:
    """An axis of steps, logarithmic with room for 0."""
    labeled, last = ticks(budgets), place(max(budgets, default=1))
    return {
        "title": {"text": title},
        "tickvals": [place(budget) for budget in labeled],
        "ticktext": [str(budget) for budget in labeled],
        "tickangle": 0,
        "range": [-0.03 * last, 1.03 * last],
    }


def share_axis(title: str) -> dict[str, Any]:
    """An axis from 0 to 1."""
    return {"title": {"text": title}, "range": [-0.03, 1.03], "dtick": 0.25, "tickformat": ".2~f"}


def level(name: str, height: float) -> dict[str, Any]:
    """A dashed line across the chart, with its name and value."""
    return {
        "shapes": [
            {
                "type": "line",
                "xref": "paper",
                "x0": 0,
                "x1": 1,
                "y0": height,
                "y1": height,
                "line": {"dash": "4px,4px"},
            }
        ],
        "annotations": [
            {
                "text": f"{escape(name)} = {height:g}",
                "xref": "paper",
                "x": 0,
                "y": height,
                "xanchor": "left",
                "yanchor": "bottom",
                "showarrow": False,
            }
        ],
    }


def or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
