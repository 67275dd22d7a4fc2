"""What a person sees while a study runs, and after."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
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
    """Show a study as it runs, with the time left."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    stored, begun = 0, 0.0
    with Progress(
        *columns,
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        speed_estimate_period=3600,
    ) as progress:
        total = progress.add_task("study", total=cells)
        current = progress.add_task("", total=1.0, visible=False)
        over = 0
        for event in events:
            title = escape(describe(event.cell.labels()))
            if event.what == "begun":
                begun = time.monotonic()
                progress.reset(current, description=title, visible=True)
            elif event.what == "stored":
                stored += 1
                progress.update(total, total=cells - stored)
            elif event.what in MARKS:
                over += 1
                progress.update(total, completed=over)
                took = (
                    f" in {time.monotonic() - begun:.0f} s" if event.what == "done" else f": {escape(event.text)}"
                )
                console.print(f"{title}: {MARKS[event.what]}{took}", highlight=False, soft_wrap=True)
            else:
                progress.update(current, completed=event.share)
                progress.update(total, completed=over + event.share)
        progress.update(current, visible=False)
    if stored:
        console.print(f"{stored} of {cells} were stored already.")


def describe(labels: Mapping[str, Any]) -> str:
    """A cell in words, from its labels."""
    names, seed = labels["names"], labels["defense_seed"]
    defense = f"{names['defense']} seed={seed}" if seed else names["defense"]
    endings = {"harden": "hardening", "release": "as released"}
    attack = f"{names['attack']} seed={labels['seed']}"
    return " · ".join([model_name(labels["model"]), defense, endings.get(labels["kind"], attack)])


def status(results: Results) -> Table:
    """How far a study is, and what failed."""
    table = Table(
        title=escape(results.study), title_justify="left", box=box.SIMPLE, show_header=False, pad_edge=False
    )
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for word, number in results.progress.items():
        table.add_row(word, str(number))
    for failure in results.failures:
        table.add_row("[red]failed[/]", escape(str(failure)))
    return table
