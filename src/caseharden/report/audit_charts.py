"""The charts of an audit's page: survival, harm beside utility, and benign learning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from caseharden.audit.evidence import Criteria
from caseharden.records.results import Point
from caseharden.report.charts import beside_utility
from caseharden.report.contenders import Contender, pareto_front
from caseharden.report.style import CONTROL, Plotted, place
from caseharden.report.traces import (
    Axis,
    Band,
    Chart,
    Line,
    Mark,
    Rule,
    Trace,
    View,
    arrow,
    budgets_of,
    mean,
    seeds,
    share_axis,
    steps_axis,
)


def survival(found: Sequence[Contender], criteria: Criteria) -> Chart:
    """The share of attack runs that a model withstood so far, as steps with their intervals."""
    traces = [
        trace
        for index, contender in enumerate(found)
        if contender.model.control != "dead" and contender.survival.runs
        for trace in _withstood(contender, index)
    ]
    budgets = budgets_of([runs for contender in found for runs in contender.counting])
    horizon = Rule("horizon", place(criteria.horizon), upright=True)
    return Chart(
        "Attack runs withstood against attack steps",
        steps_axis(budgets),
        share_axis("share of runs unbroken"),
        [horizon] if any(budget > criteria.horizon for budget in budgets) else [],
        [View(traces)],
    )


def _withstood(contender: Contender, index: int) -> list[Trace]:
    survival, label, style = contender.survival, contender.model.label, contender.style
    rows: list[tuple[float, float, float, float, Mark, list[str]]] = [
        (0.0, 1.0, 1.0, 1.0, "", [label, f"{survival.runs} attack runs"])
    ]
    for step in survival.steps:
        budget = step.time - 0.5
        broke = f"{budget:g} steps: {step.events} of {step.at_risk} runs broke it"
        unbroken = f"unbroken {step.survival:.2f} ({step.low:.2f} to {step.high:.2f})"
        rows.append((place(budget), step.survival, step.low, step.high, "full", [label, broke, unbroken]))
    _, share, low, high, *_ = rows[-1]
    if share > 0:
        left = f"{survival.runs - survival.broken} runs unbroken at {survival.last} steps"
        rows.append((place(survival.last), share, low, high, "open", [label, left]))
    x, shares, lows, highs, marks, hover = zip(*rows, strict=True)
    return [
        Band(x, lows, highs, style, index, shape="hv"),
        Line(x, shares, style, index, label, shape="hv", marks=marks, hover=hover),
    ]


def plane(found: Sequence[Contender], worst: Sequence[Plotted], criteria: Criteria) -> Chart:
    """Harm beside utility before and after the worst attack on each model, with the Pareto front of both."""
    traces = [
        _front([plotted.runs.before for plotted in worst], "Pareto front before any attack", "dot"),
        _front([contender.after for contender in found], "Pareto front after the worst attack", "dash"),
        *(
            arrow(plotted, contender.after, index)
            for index, (contender, plotted) in enumerate(zip(found, worst, strict=True))
        ),
    ]
    return beside_utility([View(traces)], criteria.phi)


def _front(points: Sequence[Point], name: str, dash: str) -> Line:
    """Steps along the points that no other beats; what is above and to the left of them is beaten."""
    best = [point for point, on in zip(points, pareto_front(points), strict=True) if on]
    at = sorted((point.readings["utility"].value, point.readings["harm"].value) for point in best)
    x = [0.0, *(utility for utility, _ in at), at[-1][0]] if at else []
    y = [at[0][1], *(harm for _, harm in at), 1.0] if at else []
    return Line(x, y, replace(CONTROL, dash=dash), name=name, width=1.25, shape="vh")


def learning(task: str, plotted: Sequence[Plotted], criteria: Criteria) -> Chart:
    """The share of one benign task that is done right, against steps, at each learning rate."""
    last = max(budgets_of([one.runs for one in plotted]), default=1)
    traces = [
        trace
        for index, one in enumerate(plotted)
        for trace in (*seeds(one, index, at=float), *mean(one, index, at=float))
    ]
    return Chart(
        f"Learning {task}",
        Axis("steps of benign fine-tuning", span=(-0.03 * last, 1.03 * last)),
        share_axis("share done right"),
        [Rule(f"learned = {criteria.learned:g}", criteria.learned)],
        [View(traces)],
    )
