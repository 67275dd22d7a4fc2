"""What a person sees while a study runs, and after."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from caseharden.cli import terminal
from caseharden.errors import CasehardenError
from caseharden.records.names import model_name
from caseharden.records.results import Results

if TYPE_CHECKING:
    from rich.console import Console

    from caseharden.search.search import Found
    from caseharden.store.outlook import Outlook
    from caseharden.study.run import Event

MARKS = {"done": "[green]done[/]", "failed": "[red]failed[/]", "blocked": "[yellow]blocked[/]"}


def console_beside(*files: Path | None) -> Console:
    """Where a command speaks to people: standard error if one of its files goes to standard output."""
    from caseharden.report.export import standard_stream

    taken = [file for file in files if file and standard_stream(file) is sys.stdout]
    if len(taken) > 1:
        raise CasehardenError(
            f"{' and '.join(map(str, taken))} are both standard output. Name a file for one of them."
        )
    return terminal.console(stderr=bool(taken))


def say(text: str, console: Console | None = None) -> None:
    """Print a line as it is: brackets and colons in a name are no markup."""
    (console or terminal.console()).print(Text(text), soft_wrap=True)


def follow(events: Iterable[Event], cells: int, console: Console) -> None:
    """Show a study as it runs, and each cell under way, with the time left."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    stored = over = 0
    bars: dict[int, TaskID] = {}
    with Progress(
        *columns,
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        speed_estimate_period=3600,
    ) as progress:
        total = progress.add_task("study", total=cells)
        for event in events:
            title, bar = escape(describe(event.cell.labels())), bars.get(event.position)
            if event.what == "stored":
                stored += 1
                progress.update(total, total=cells - stored)
            elif event.what in MARKS:
                over += 1
                said = f": {escape(event.text)}"
                if bar is not None:
                    took = progress.tasks[progress.task_ids.index(bar)].elapsed or 0.0
                    said = f" in {took:.0f} s" if event.what == "done" else said
                    progress.remove_task(bars.pop(event.position))
                console.print(f"{title}: {MARKS[event.what]}{said}", highlight=False, soft_wrap=True)
            elif bar is None:
                bars[event.position] = progress.add_task(title, total=1.0)
            else:
                progress.update(bar, completed=event.share)
            under_way = sum(task.completed for task in progress.tasks if task.id in bars.values())
            progress.update(total, completed=over + under_way)
    if stored:
        console.print(f"{stored} of {cells} were stored already.")


def describe(labels: Mapping[str, Any]) -> str:
    """A cell in words, from its labels."""
    names, seed = labels["names"], labels["defense_seed"]
    defense = f"{names['defense']} seed={seed}" if seed else names["defense"]
    endings = {"harden": "hardening", "release": "as released"}
    attack = f"{names['attack']} seed={labels['seed']}"
    return " · ".join([model_name(labels["model"]), defense, endings.get(labels["kind"], attack)])


def status(results: Results, outlook: Outlook) -> Table:
    """How far a study is, what runs where, how long the rest will take, and what failed."""
    rows = [(word, str(number)) for word, number in results.progress.items()]
    for one in outlook.running:
        since = timedelta(seconds=round(one.seconds))
        rows.append(
            ("running", f"{describe(one.labels)}, {f'on {one.machine}, ' if one.machine else ''}for {since}")
        )
    if outlook.left:
        rows.append(
            ("left", f"about {timedelta(seconds=round(outlook.left))}, with as many cells at a time as now")
        )
    if outlook.checkpoints:
        what = "cells, attacked weights among them; `caseharden study clean` removes them"
        rows.append(("checkpoints", f"of {outlook.checkpoints} {what}"))
    return _pairs(results.study, [*rows, *(("[red]failed[/]", str(failure)) for failure in results.failures)])


def found(one: Found) -> Table:
    """What a search found, and what it was."""
    from caseharden.study.plan import short_name

    before, spent = one.points[0].readings, one.spent
    tokens = f"{_count(spent.trained)} tokens trained on and {_count(spent.read)} read"
    rows = [
        ("attack", short_name(one.attack)),
        ("harm", f"{one.harm} after {one.at.budget} steps, {before['harm']} before"),
        ("utility", f"{one.utility}, {before['utility']} before"),
        ("score", f"{one.score:.3f}, the mean of {len(one.runs)} seeds"),
        ("trials", f"{one.trials}, of which {one.pruned} ended early and {one.failed} failed"),
        ("confirmations", f"{one.confirmations}, of which {one.confirmations_failed} failed"),
        ("at an edge", ", ".join(one.edges) or "nothing"),
        ("cost", f"{spent.steps} steps, {_count(spent.examples)} examples, {tokens}"),
        *(("[red]failed[/]", f"{number} times: {reason}") for reason, number in one.failures.items()),
    ]
    return _pairs("The strongest attack found, by the attacker's own data", rows)


def _count(number: float) -> str:
    return "an unknown number of" if math.isnan(number) else f"{number:,.0f}"


def _pairs(title: str, rows: Iterable[tuple[str, str]]) -> Table:
    """Two columns: a word, which may have markup, and what there is to say of it."""
    table = Table(title=escape(title), title_justify="left", box=box.SIMPLE, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for word, said in rows:
        table.add_row(word, escape(said))
    return table
