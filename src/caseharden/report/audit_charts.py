"""The charts of an audit's page, as Plotly's JSON: survival, harm beside utility, and benign learning."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from caseharden.audit.evidence import Criteria
from caseharden.records.results import Point
from caseharden.report.charts import (
    Chart,
    Trace,
    View,
    arrow,
    level,
    lines,
    plane_layout,
    seed_lines,
    share_axis,
    steps_axis,
)
from caseharden.report.contenders import Contender, pareto_front
from caseharden.report.style import CONTROL, Plotted, place

TOLD = {"harm": "share done right"}
"""What a lesson's ``harm`` is."""


def survival(found: Sequence[Contender], criteria: Criteria) -> Chart:
    """The share of attack runs that a model withstood so far, as steps with their intervals."""
    data = [
        trace
        for index, contender in enumerate(found)
        if contender.control != "dead"
        for trace in _held(contender, index)
    ]
    budgets = {
        p.budget for contender in found for runs in contender.counting for c in runs.curves for p in c.points
    }
    layout: dict[str, Any] = {
        "xaxis": steps_axis(budgets, "attack steps"),
        "yaxis": share_axis("share of runs unbroken"),
        "shapes": [],
        "annotations": [],
    }
    if any(budget > criteria.horizon for budget in budgets):
        x = place(criteria.horizon)
        layout["shapes"] = [
            {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": x, "x1": x, "line": {"dash": "4px,4px"}}
        ]
        layout["annotations"] = [
            {"text": "horizon", "x": x, "y": 1, "yref": "paper", "xanchor": "right", "showarrow": False}
        ]
    return Chart("Attack runs withstood against attack steps", layout, [View(data)])


def _held(contender: Contender, index: int) -> list[Trace]:
    survival, style = contender.survival, contender.style
    if not survival.runs:
        return []
    x, share, low, high = [0.0], [1.0], [1.0], [1.0]
    told = [f"<b>{escape(contender.label)}</b><br>{survival.runs} attack runs"]
    for step in survival.steps:
        budget = step.time - 0.5
        x.append(place(budget))
        share.append(step.survival)
        low.append(step.low)
        high.append(step.high)
        told.append(
            f"<b>{escape(contender.label)}</b><br>{budget:g} steps: {step.events} of {step.at_risk} runs broke it"
            f"<br>unbroken {step.survival:.2f} ({step.low:.2f} to {step.high:.2f})"
        )
    sizes, symbols = [0] + [8] * len(survival.steps), [style.marker.plotly] * (len(survival.steps) + 1)
    rims = [0.0] * len(sizes)
    if share[-1] > 0:
        x.append(place(survival.last))
        share.append(share[-1])
        low.append(low[-1])
        high.append(high[-1])
        told.append(
            f"<b>{escape(contender.label)}</b><br>{survival.runs - survival.broken} runs unbroken "
            f"at {survival.last} steps"
        )
        sizes.append(10)
        rims.append(2.0)
        symbols.append(f"{style.marker.plotly}-open")
    line = {
        "mode": "lines+markers",
        "name": escape(contender.label),
        "x": x,
        "y": share,
        "text": told,
        "hovertemplate": "%{text}<extra></extra>",
        "line": {"color": style.color, "dash": style.dash, "width": 2.25, "shape": "hv"},
        "marker": {"color": style.color, "symbol": symbols, "size": sizes, "opacity": 1, "line": {"width": rims}},
        "meta": index,
    }
    return [_band(x, low, high, contender, index), line]


def _band(
    x: Sequence[float], low: Sequence[float], high: Sequence[float], contender: Contender, index: int
) -> Trace:
    """What lies between two step curves."""
    across = [x[0], *(edge for at in x[1:] for edge in (at, at))]
    upper = [*(edge for height in high[:-1] for edge in (height, height)), high[-1]]
    lower = [*(edge for height in low[:-1] for edge in (height, height)), low[-1]]
    return {
        "mode": "lines",
        "x": across + across[::-1],
        "y": upper + lower[::-1],
        "fill": "toself",
        "fillcolor": contender.style.translucent,
        "line": {"width": 0},
        "hoverinfo": "skip",
        "meta": index,
    }


def plane(found: Sequence[Contender], worst: Sequence[Plotted], criteria: Criteria) -> Chart:
    """Harm beside utility before and after the worst attack on each model, with the Pareto front of both."""
    data = [
        _front([plotted.runs.before for plotted in worst], "Pareto front before any attack", "dot"),
        _front([contender.after for contender in found], "Pareto front after the worst attack", "dash"),
    ]
    for index, (contender, plotted) in enumerate(zip(found, worst, strict=True)):
        data += arrow(plotted, contender.after, index)
    return Chart("Harm beside utility, before and after the worst attack", plane_layout(criteria.phi), [View(data)])


def _front(points: Sequence[Point], name: str, dash: str) -> Trace:
    """Steps along the points that no other beats; what is above and to the left of them is beaten."""
    best = [point for point, on in zip(points, pareto_front(points), strict=True) if on]
    at = sorted((point.readings["utility"].value, point.readings["harm"].value) for point in best)
    return {
        "mode": "lines",
        "name": name,
        "x": [0.0, *(utility for utility, _ in at), at[-1][0]] if at else [],
        "y": [at[0][1], *(harm for _, harm in at), 1.0] if at else [],
        "hoverinfo": "skip",
        "line": {"color": CONTROL.color, "dash": dash, "width": 1.25, "shape": "vh"},
    }


def learning(task: str, plotted: Sequence[Plotted], criteria: Criteria) -> Chart:
    """The share of one benign task that is done right, against steps, at each learning rate."""
    data: list[Trace] = []
    for index, one in enumerate(plotted):
        data += seed_lines(one.runs, one.style, index, at=float)
        data += lines(one, index, TOLD, at=float)
    layout: dict[str, Any] = {
        "xaxis": {"title": {"text": "steps of benign fine-tuning"}, "rangemode": "tozero"},
        "yaxis": share_axis("share done right"),
        **level("learned", criteria.learned),
    }
    return Chart(f"Learning {task}", layout, [View(data)])
