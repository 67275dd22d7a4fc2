"""A study's tables: the scoreboard, one line for each defense of each model, and every reading."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from rich.console import Group
from rich.text import Text

from caseharden.audit.evidence import Criteria
from caseharden.audit.recovered import AttackHarm, attack_harm
from caseharden.audit.resistance import AttackRuns, Ratio, Resistance, Steps, fields_key, resistance
from caseharden.records.asking import ways
from caseharden.records.names import model_name
from caseharden.records.results import PLAIN, Point, Reading, Results
from caseharden.report.grid import Column, Grid
from caseharden.report.style import Names, Style


@dataclass(frozen=True)
class Row:
    """One defense of one model: as released, and after the one attack that broke it first."""

    model: str
    defense: str
    style: Style
    is_control: bool
    attack: str
    way: str
    """How harm was asked for in the attack's figures: the way that told most; empty where plainly."""
    asked: tuple[str, Reading] | None
    """The further way of asking that told most before any attack, and what; None where there is no other way."""
    steps: Steps
    ratio: Ratio | None
    before: Mapping[str, Reading]
    """Harm, utility and, where there is one, bystander before the attack."""
    after: Mapping[str, Reading]
    """The same of that same attack at `budget`, where they were measured."""
    bystander: str
    """The measure shown as bystander: of several, the one that has lost most against the undefended model."""
    budget: int
    """The last that every seed reached."""
    peak: tuple[int, Reading] | None
    """Budget and harm of the worst moment, where harm has since fallen out of its interval there."""
    reached: AttackHarm
    """What the attack reached at which step, and the most harm."""
    seeds: int
    n: int
    """Scored answers behind `after`'s harm, over all seeds."""
    unscored: int
    failed: int
    """Runs of this defense on this model that did not finish."""


def rows(results: Results) -> list[Row]:
    """The scoreboard's lines: models in order, each one's undefended control first."""
    found = resistance(results)
    names = Names(found)
    failed = Counter((f.model, f.defense, fields_key(f.defense_fields)) for f in results.failures)
    criteria = Criteria(phi=results.phi, horizon=max([1, *(c.points[-1].budget for c in results.curves)]))
    return [_row(each, names, criteria, failed[each.model, *each.key]) for each in found]


def _row(each: Resistance, names: Names, criteria: Criteria, failed: int) -> Row:
    worst = each.worst
    harm = worst.after.readings["harm"]
    shown = {"harm": "harm", "utility": "utility", "bystander": each.bystander}
    before, after = (
        {called: point.readings[name] for called, name in shown.items() if name in point.readings}
        for point in (worst.before, worst.after)
    )
    return Row(
        model=each.model,
        defense=each.name,
        style=names.style(each),
        is_control=each.is_control,
        attack=names.attack(worst),
        way="" if worst.after.way == PLAIN else worst.after.way,
        asked=_asked(worst.before),
        steps=worst.steps,
        ratio=each.ratio,
        before=before,
        after=after,
        bystander=each.bystander,
        budget=worst.after.budget,
        peak=_peak(worst),
        reached=attack_harm(each.model, worst, criteria),
        seeds=worst.seeds,
        n=harm.n,
        unscored=harm.unscored,
        failed=failed,
    )


def _asked(before: Point) -> tuple[str, Reading] | None:
    further = [(how, found) for how, found in ways(before.readings, "harm").items() if how != PLAIN and found.n]
    return max(further, key=lambda one: one[1].value, default=None)


def _peak(runs: AttackRuns) -> tuple[int, Reading] | None:
    peak, last = runs.peak.readings["harm"], runs.after.readings["harm"]
    return (runs.peak.budget, peak) if last.value < peak.low else None


def scoreboard(results: Results) -> Group:
    """The scoreboard for the terminal, a section for each model."""
    if results.nothing:
        return readings(results)
    lines = rows(results)
    measures = [name for name in ("harm", "utility", "bystander") if any(name in row.before for row in lines)]
    asked = ["asked in\nanother way"] if any(row.asked for row in lines) else []
    numbers = (*asked, "steps to\nbreak", "times\ncontrol", *measures, "n")
    grid = Grid([Column("defense"), Column("worst attack"), *(Column(name, numbers=True) for name in numbers)])
    for model, group in groupby(lines, key=lambda row: row.model):
        section = grid.section(model_name(model))
        for row in group:
            changes = (f"{_short(row.before.get(name))}→{_short(row.after.get(name))}" for name in measures)
            told = [f"{row.asked[1].value:.2f}\n{row.asked[0]}" if row.asked else "–"] if asked else []
            attack = f"{row.attack}, asked {row.way}" if row.way else row.attack
            steps = (str(row.steps), str(row.ratio or "–"))
            section.append((row.defense, attack, *told, *steps, *changes, str(row.n)))
    return Group(
        Text(f"{results.study}: broken means harm above {results.phi:g}\n"),
        grid,
        Text(_caption(lines, len(results.failures)), style="dim"),
    )


def readings(results: Results) -> Group:
    """Every reading for the terminal: a section for each model and attack, a line for each budget."""
    names = list(dict.fromkeys(name for c in results.curves for point in c.points for name in point.readings))
    grid = Grid([Column(name, numbers=True) for name in ("steps", *names)])
    for curve in results.curves:
        attack = f" · {curve.attack_name} seed={curve.seed}" if curve.attack else ""
        section = grid.section(f"{model_name(curve.model)} · {curve.defense_name}{attack}")
        for point in curve.points:
            shown = (_with_interval(point.readings.get(name)) for name in names)
            section.append((str(point.budget), *shown))
    failures = [Text(f"failed: {failure}", style="red") for failure in results.failures]
    return Group(Text(results.nothing) if results.nothing else grid, *failures)


def _short(reading: Reading | None) -> str:
    return "–" if reading is None or math.isnan(reading.value) else f"{reading.value:.2f}"


def _with_interval(reading: Reading | None) -> str:
    """The number, and below it its interval."""
    if reading is None or reading.n == 0:
        return "–"
    return f"{reading.value:.3f}\n[{reading.low:.2f},{reading.high:.2f}]"


def _caption(lines: Sequence[Row], failed: int) -> str:
    last = sorted({row.budget for row in lines})
    stopped = f", which ended at {last[0]} to {last[-1]} steps" if len(last) > 1 else ""
    measures = "Harm, utility and bystander" if any(row.bystander for row in lines) else "Harm and utility"
    notes = [f"{measures} as released → with the worst attack's budget spent{stopped}."]
    if any(row.asked for row in lines):
        notes.append("Asked in another way: what a model tells without any attack, by the way that gets most.")
    if unscored := sum(row.unscored for row in lines):
        notes.append(f"Answers without a score, counted as nothing: {unscored}.")
    if failed:
        notes.append(f"Failed runs, never evidence of resistance: {failed}.")
    return "\n".join(notes)
