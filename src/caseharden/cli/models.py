"""Commands about what there is: methods by name, and models."""

from __future__ import annotations

import inspect
from enum import StrEnum
from typing import Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from caseharden.cli import show, terminal

app = typer.Typer(help="Get models.", no_args_is_help=True)


class Kind(StrEnum):
    """What can be listed."""

    attacks = "attacks"
    defenses = "defenses"
    domains = "domains"
    engines = "engines"
    judges = "judges"
    measures = "measures"
    models = "models"


def list_(kind: Annotated[Kind | None, typer.Argument(help="Only these.")] = None) -> None:
    """List methods, domains, engines, judges, measures and models by the names that a study gives them."""
    console = terminal.console()
    for one in [kind] if kind else list(Kind):
        table = Table(title=one.value, title_justify="left", box=box.SIMPLE, show_header=False, pad_edge=False)
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for name, what in _entries(one).items():
            table.add_row(Text(name), Text(what))
        console.print(table)


def _entries(kind: Kind) -> dict[str, str]:
    from caseharden import attacks, defenses, domains, engines, judges, measures
    from caseharden.lm import sources as models

    if kind is Kind.models:
        shipped = dict.fromkeys(models.packaged(), "ships with the package")
        return {**shipped, **dict.fromkeys(models.fetched(), "fetched")}
    tables = {
        Kind.attacks: attacks.TABLE,
        Kind.defenses: defenses.TABLE,
        Kind.domains: domains.TABLE,
        Kind.engines: engines.TABLE,
        Kind.judges: judges.TABLE,
        Kind.measures: measures.TABLE,
    }
    return {
        name: (inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " ") for name, cls in tables[kind].items()
    }


@app.command()
def get(
    name: Annotated[str, typer.Argument(help="Hub id, for example HuggingFaceTB/SmolLM2-135M-Instruct.")],
) -> None:
    """Fetch a model, so that a study finds it by its hub id without the network."""
    from caseharden.engines.engine import check_answers
    from caseharden.engines.native import Native
    from caseharden.lm import sources as models
    from caseharden.lm.lm import LM
    from caseharden.lm.machine import quiet_transformers

    console = terminal.console()
    with quiet_transformers(), console.status(Text(f"fetching {name}")):
        folder = models.resolve(name)
        check_answers(Native(), LM.load(folder))
    show.say(f"{name} is in {folder}", console)
