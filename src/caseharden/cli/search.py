"""The command that searches for an attack, by the attacker's own data."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from caseharden import api
from caseharden.cli import show, studies


def search(
    model: Annotated[str, typer.Argument(help="Built-in name, folder or hub id.")],
    family: Annotated[
        str,
        typer.Argument(help="YAML file: `attack`, with ranges in the place of values, and how to search."),
    ],
    domain: studies.DomainText = "almanac",
    store: Annotated[Path, typer.Option(help="Folder of the store.")] = Path("out/search"),
    output: Annotated[
        Path | None, typer.Option(help="Write the attack to this file, for `caseharden attack`.")
    ] = None,
    thinking: studies.Thinking = None,
    retry_failed: studies.Retry = False,
    threads: studies.Threads = None,
    jobs: studies.Jobs = None,
    on: studies.On = None,
) -> None:
    """Search for the strongest attack of a family on one model. Interrupted, the same command goes on."""
    from caseharden.report.export import save
    from caseharden.study.build import written
    from caseharden.study.spec import as_yaml
    from caseharden.train.tuner import Tuner

    console = show.console_beside(output)
    found = api.find_attack(
        model,
        studies.read(family),
        domain=studies.read(domain),
        reasoning={"thinking": thinking},
        store=store,
        threads=threads,
        jobs=jobs,
        on=on,
        retry_failed=retry_failed,
        progress=partial(studies.watch, console=console),
    )
    console.print(show.found(found))
    if output:
        save(output, as_yaml(written(found.attack, Tuner, all_fields=False)))
        show.say(f"wrote {output}", console)
