"""The command that tells what a study costs before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from caseharden import api
from caseharden.cli import show

if TYPE_CHECKING:
    from caseharden.cost.estimate import Cost


def cost(
    spec: Annotated[Path, typer.Argument(help="YAML file of the study.")],
    device: Annotated[
        str, typer.Option(help="here, h100, h200, b200, a100-80, l40s or rtx4090; several of one as in h100x8.")
    ] = "here",
    price: Annotated[float | None, typer.Option(help="Dollars an hour of one device.")] = None,
    utilization: Annotated[
        float | None, typer.Option(help="Share of the peak that products of matrices reach.")
    ] = None,
    answer_tokens: Annotated[
        int | None, typer.Option(help="Length of answers; as examples' own completions if not given.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write it as JSON.")] = None,
) -> None:
    """Tell what a study costs before it runs: tokens, memory, hours, money; exit status 1 if it cannot fit."""
    from dataclasses import asdict

    from caseharden.report.export import dumped, save

    console = show.console_beside(json)
    found = api.cost(spec, device, price=price, utilization=utilization, answer_tokens=answer_tokens)
    console.print(table(found))
    for line in lines(found):
        show.say(line, console)
    if json:
        save(json, dumped({**asdict(found), "peak": found.peak}))
        show.say(f"wrote {json}", console)
    raise typer.Exit(0 if found.fits else 1)


def table(found: Cost) -> Table:
    """A row a cell."""
    from caseharden.audit.cost import counted

    title = f"{found.study} on {found.number} × {found.device}"
    drawn = Table(title=title, title_justify="left", box=box.SIMPLE, pad_edge=False)
    drawn.add_column("cell", overflow="fold")
    for name in ("steps", "trained", "read", "written", "FLOPs", "memory", "time"):
        drawn.add_column(name, justify="right", no_wrap=True)
    for cell in found.cells:
        tokens = (counted(cell.trained), counted(cell.read), counted(cell.written))
        memory = Text(f"{counted(cell.peak)}B", style="" if cell.peak <= found.room else "bold red")
        took = duration(cell.seconds)
        drawn.add_row(Text(cell.title), str(cell.steps), *tokens, counted(cell.flops), memory, took)
    return drawn


def lines(found: Cost) -> list[str]:
    """What there is to say of the whole."""
    from caseharden.audit.cost import counted

    tokens = ", ".join(f"{counted(found.total(name))} {name}" for name in ("trained", "read", "written"))
    said = [
        f"{counted(found.total('flops'))} FLOPs; tokens: {tokens}",
        f"{duration(3600 * found.hours)} of the clock, {found.device_hours:.3g} device hours, ${found.dollars:.2f}",
    ]
    if not found.fits:
        said.append(f"does not fit into the {counted(found.room)}B of {found.device}. What would make it fit:")
    return said + [f"  {one}" for one in found.advice] + [f"assumed: {one}" for one in found.assumptions]


def duration(seconds: float) -> str:
    """A length of time for people."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.2g} s"
