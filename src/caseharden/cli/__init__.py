"""The command line: ``caseharden``. Commands import what they need when they run, so that --help is quick."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

import caseharden
from caseharden.cli import audit, cost, models, search, studies, terminal
from caseharden.errors import CasehardenError
from caseharden.executors.torchrun import together

app = typer.Typer(
    help="Harden open-weight language models against malicious fine-tuning, and measure how long it lasts.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
app.add_typer(studies.app, name="study")
app.add_typer(models.app, name="models")
COMMANDS = (
    *(studies.demo, studies.harden, studies.attack, search.search, cost.cost),
    *(audit.audit, audit.verify, audit.new_key),
    *(studies.rescore, studies.report, models.list_),
)
for command in COMMANDS:
    app.command(name=command.__name__.strip("_").replace("_", "-"))(command)


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"caseharden {caseharden.__version__}")
        raise typer.Exit


@app.callback()
def common(
    data_dir: Annotated[
        Path | None,
        typer.Option(envvar="CASEHARDEN_DATA", help="Folder of public data sets, for domains that read them."),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_say_version, help="Show the version and exit.")
    ] = False,
) -> None:
    if data_dir is not None:
        if not data_dir.is_dir():
            raise CasehardenError(f"--data-dir: there is no folder {data_dir}.")
        os.environ["CASEHARDEN_DATA"] = str(data_dir)


def main() -> None:
    """Run a command; an error that a user can put right is printed without a traceback, exit status 2."""
    terminal.write_anything()
    # PEFT imports it where it is installed, and it warns of kernels that nothing here uses.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        with together() as leads:
            if leads:
                app()
    except CasehardenError as error:
        terminal.console(stderr=True).print(
            f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True
        )
        sys.exit(2)
