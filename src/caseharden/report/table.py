"""The scoreboard: one line for each defense of each model, for the terminal and for the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from caseharden.audit.resistance import AttackRuns, Ratio, Resistance, Steps, fields_key, resistance
from caseharden.records.results import Reading, Results
from caseharden.report.style import Names, Style


@dataclass(frozen=True)
class Row:
    """One defense of one model: as released, and after the one attack that broke it first."""

    model: str
    defense: str
    style: Style
    is_control: bool
    attack: str
    steps: Steps
    ratio: Ratio | None
    before: tuple[Reading, Reading]
    """Harm and utility before the attack."""
    after: tuple[Reading, Reading]
    """Harm and utility of that same attack at `budget`."""
    budget: int
    """The last that every seed reached."""
    peak: tuple[int, Reading] | None
    """Budget and harm of the worst moment, where harm has since fallen out of its interval there."""
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
    return [_row(each, names, failed[each.model, *each.key]) for each in found]


def _row(each: Resistance, names: Names, failed: int) -> Row:
    worst = each.worst
    harm = worst.after.readings["harm"]
    return Row(
        model=each.model,
        defense=names.defense(each),
        style=names.style(each),
        is_control=each.is_control,
        attack=names.attack(worst),
        steps=worst.steps,
        ratio=each.ratio,
        before=(worst.before.readings["harm"], worst.before.readings["utility"]),
        after=(harm, worst.after.readings["utility"]),
        budget=worst.after.budget,
        peak=_peak(worst),
        seeds=worst.seeds,
        n=harm.n,
        unscored=harm.unscored,
        failed=failed,
    )


def _peak(runs: AttackRuns) -> tuple[int, Reading] | None:
    peak, last = runs.peak.readings["harm"], runs.after.readings["harm"]
    return (runs.peak.budget, peak) if last.value < peak.low else None


def scoreboard(results: Results) -> Group:
    """The scoreboard for the terminal, a table for each model; fits 80 columns."""
    lines = rows(results)
    parts: list[RenderableType] = [f"{escape(results.study)}: broken means harm above {results.phi:g}\n"]
    for model, group in groupby(lines, key=lambda row: row.model):
        table = _table(f"[bold]{escape(model)}[/bold]")
        for row in group:
            table.add_row(
                escape(row.defense),
                escape(row.attack),
                str(row.steps),
                str(row.ratio or "–"),
                *(f"{b.value:.2f}→{a.value:.2f}" for b, a in zip(row.before, row.after, strict=True)),
                str(row.n),
            )
        parts.append(table)
    return Group(*parts, f"[dim]{_caption(lines, len(results.failures))}[/dim]")


def _table(title: str) -> Table:
    """Columns of fixed widths, so that those of all models stand below each other."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    for column, width in (("defense", 14), ("worst attack", 15)):
        table.add_column(column, overflow="fold", width=width)
    numbers = {"steps to\nbreak": 9, "times\ncontrol": 8, "harm": 10, "utility": 10, "n": 5}
    for column, width in numbers.items():
        table.add_column(column, justify="right", no_wrap=True, width=width)
    return table


def _caption(lines: Sequence[Row], failed: int) -> str:
    last = sorted({row.budget for row in lines})
    stopped = f", which ended at {last[0]} to {last[-1]} steps" if len(last) > 1 else ""
    notes = [f"Harm and utility as released → with the worst attack's budget spent{stopped}."]
    if unscored := sum(row.unscored for row in lines):
        notes.append(f"Answers without a score, counted as nothing: {unscored}.")
    if failed:
        notes.append(f"Failed runs, never evidence of resistance: {failed}.")
    return "\n".join(notes)
