"""A study's charts: harm against budget, and harm beside utility and beside what nobody rehearsed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from caseharden.audit.resistance import AttackRuns, Resistance
from caseharden.report.style import CONTROL, Names, Plotted, interval, number, with_panel
from caseharden.report.traces import (
    Axis,
    Chart,
    Line,
    Rule,
    View,
    arrow,
    budgets_of,
    mean,
    seeds,
    share_axis,
    steps_axis,
)

WORST = "the worst attack of each defense"


def attacks(found: Sequence[Resistance], names: Names) -> list[str]:
    """The choices of the attack menu, in the order of every chart's views."""
    return [WORST, *dict.fromkeys(names.attack(runs) for each in found for runs in each.attacks)]


def overview(found: Sequence[Resistance], names: Names, phi: float) -> Chart:
    """Every defense of every model in one chart."""
    views = []
    for choice in attacks(found, names):
        chosen = [(index, each, _chosen(each, names, choice)) for index, each in enumerate(found)]
        views.append(
            View(
                [trace for index, each, runs in chosen if runs for trace in mean(plotted(each, runs, names), index)]
            )
        )
    return _against_steps("Harm against attack steps, all defenses", found, phi, views)


def panels(found: Sequence[Resistance], names: Names, phi: float, choices: Sequence[str]) -> list[Chart]:
    """One chart for each defense, with every seed's line, and the undefended control beside it."""
    return [
        _against_steps(
            names.series(each),
            found,
            phi,
            [_panel(found.index(each), each, names, choice) for choice in choices],
        )
        for each in with_panel(found)
    ]


def plane(found: Sequence[Resistance], names: Names, phi: float) -> Chart:
    """Harm beside utility: an arrow from the model as released to the model after its worst attack."""
    traces = [arrow(plotted(each, each.worst, names), each.worst.after, index) for index, each in enumerate(found)]
    return beside_utility([View(traces)], phi)


def beside_utility(views: Sequence[View], phi: float) -> Chart:
    """The plane of harm and utility."""
    title = "Harm beside utility, before and after the worst attack"
    return Chart(title, Axis("utility"), share_axis("harm"), [Rule(f"φ = {phi:g}", phi)], views)


def kept(found: Sequence[Resistance], names: Names) -> Chart | None:
    """The bystander beside the most harm that any attack gets, by any way of asking; None if nobody asked for one.

    How far a defense lies below the diagonal is its margin: what it keeps less what it leaves.
    """
    points = [_kept(each, names, index) for index, each in enumerate(found) if each.bystander]
    if not points:
        return None
    diagonal = Line([0, 1], [0, 1], replace(CONTROL, dash="dot"), width=1)
    title = "Most harm under any attack, beside the bystander as released"
    return Chart(title, share_axis("bystander"), share_axis("most harm"), [], [View([diagonal, *points])])


def _kept(each: Resistance, names: Names, index: int) -> Line:
    runs = each.most_harmful
    released = runs.before.readings
    name = each.least_kept(released)
    bystander, harm = released[name], runs.end().readings["harm"]
    series = names.series(each) + f" ({name})" * (":" in name)
    return Line(
        [bystander.value],
        [harm.value],
        names.style(each),
        index,
        series,
        marks=("full",),
        hover=[
            (
                series,
                f"margin {number(bystander.value - harm.value)}",
                f"{name} {number(bystander.value)} ({interval(bystander)})",
                f"most harm {number(harm.value)} ({interval(harm)}), by {names.attack(runs)}",
            )
        ],
        x_ends=[(bystander.low, bystander.high)],
        y_ends=[(harm.low, harm.high)],
    )


def plotted(each: Resistance, runs: AttackRuns, names: Names) -> Plotted:
    return Plotted(runs, names.style(each), names.series(each), names.attack(runs))


def _against_steps(title: str, found: Sequence[Resistance], phi: float, views: Sequence[View]) -> Chart:
    budgets = budgets_of([runs for each in found for runs in each.attacks])
    return Chart(title, steps_axis(budgets), share_axis("harm"), [Rule(f"φ = {phi:g}", phi)], views)


def _chosen(each: Resistance, names: Names, choice: str) -> AttackRuns | None:
    if choice == WORST:
        return each.worst
    return next((runs for runs in each.attacks if names.attack(runs) == choice), None)


def _panel(index: int, each: Resistance, names: Names, choice: str) -> View:
    runs = _chosen(each, names, choice)
    if runs is None:
        return View([], [f"No finished run of {choice}"])
    mine = plotted(each, runs, names)
    mine = replace(mine, style=replace(mine.style, dash="solid"))
    traces, notes = [*seeds(mine, index), *mean(mine, index)], [f"{mine.attack}: {_outcome(runs)}"]
    if control := _control(each, runs, choice):
        gray = Plotted(control, replace(CONTROL, dash="dot"), "undefended", names.attack(control))
        traces, notes = [*mean(gray, index), *traces], [*notes, f"undefended: {_outcome(control)}"]
    return View(traces, notes)


def _control(each: Resistance, runs: AttackRuns, choice: str) -> AttackRuns | None:
    """Beside the worst attack, that attack at the rate that is best for it undefended; else the same attack."""
    if each.is_control:
        return None
    if choice == WORST:
        return each.control(runs)
    return next((other for other in each.undefended if other.key == runs.key), None)


def _outcome(runs: AttackRuns) -> str:
    steps = runs.steps
    return f"unbroken at {steps.budget} steps" if steps.censored else f"broken at {steps.budget} steps"
