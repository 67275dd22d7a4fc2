"""Commands that run studies and show what they found."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from caseharden import api
from caseharden.cli import show, terminal
from caseharden.errors import CasehardenError

if TYPE_CHECKING:
    from rich.console import Console

    from caseharden.records.results import Results
    from caseharden.store.store import Store
    from caseharden.study.run import Event

app = typer.Typer(help="Run studies: every model × defense × attack × seed of a spec file.", no_args_is_help=True)

Threads = Annotated[
    int | None,
    typer.Option(help="PyTorch threads on the CPU, of each job; otherwise left alone, or 1 of several jobs."),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        help="Cells to work on at a time, in processes of their own; if not given, one a core or GPU, or 1 where "
        "there is too little to do for so many or --threads is given."
    ),
]
On = Annotated[
    str | None,
    typer.Option(
        help="Ray cluster to work on: ray for one of this machine's own, auto for the one begun here, host:6379 or "
        "ray://host:10001."
    ),
]
Database = Annotated[
    str | None,
    typer.Option(
        envvar="CASEHARDEN_DATABASE", help="Database URL (PostgreSQL), instead of the store's own SQLite."
    ),
]
Retry = Annotated[bool, typer.Option("--retry-failed", help="Try failed cells again.")]
StoreFolder = Annotated[Path, typer.Argument(help="Folder of the store.")]
Study = Annotated[str | None, typer.Option(help="Name of the study; the last one run if not given.")]
Json = Annotated[Path | None, typer.Option(help="Write every curve as JSON.")]
DomainText = Annotated[str, typer.Option(help="Domain, as a spec would write it, or a .yaml file that does.")]
PrecisionText = Annotated[
    Literal["auto", "float32", "bfloat16", "bfloat16_weights"],
    typer.Option(
        help="What models compute in: auto is bfloat16 on GPUs that have it, and float32 elsewhere. With "
        "bfloat16_weights, weights are kept in it as well."
    ),
]
Checkpointing = Annotated[
    bool,
    typer.Option("--checkpointing", help="Compute layers twice in training, for less memory: the same results."),
]
Offload = Annotated[
    bool, typer.Option("--offload", help="Have optimizers work on the CPU, for less memory of a GPU.")
]
Thinking = Annotated[
    bool | None,
    typer.Option(
        "--thinking/--no-thinking",
        help="Let the model think before it answers, or not; left to its chat template if not given.",
    ),
]


@app.command()
def run(
    spec: Annotated[Path, typer.Argument(help="YAML file.")],
    store: Annotated[Path | None, typer.Option(help="Folder of the store; out/NAME if not given.")] = None,
    database: Database = None,
    update: Annotated[bool, typer.Option("--update", help="Accept a spec that was changed since it ran.")] = False,
    retry_failed: Retry = False,
    checkpoint_every: Annotated[float, typer.Option(help="Seconds of training that a crash may lose.")] = 120.0,
    threads: Threads = None,
    jobs: Jobs = None,
    on: On = None,
) -> None:
    """Run what is missing of a study. Interrupted at any moment, the same command goes on from there."""
    from caseharden.study.spec import load

    read = load(spec)
    folder = store or Path("out") / read.name
    found = api.run(
        read,
        opened(folder, database),
        update=update,
        retry_failed=retry_failed,
        checkpoint_every=checkpoint_every,
        threads=threads,
        jobs=jobs,
        on=on,
        progress=watch,
    )
    show.say(f"stored in {folder}; see it by: caseharden report {folder} --html report.html")
    raise typer.Exit(0 if found.complete else 1)


@app.command()
def status(store: StoreFolder, study: Study = None, database: Database = None) -> None:
    """How far a study is, what runs where, how long the rest will take, and what failed."""
    from caseharden.store.outlook import outlook
    from caseharden.store.results import results

    kept = opened(store, database, create=False)
    terminal.console().print(show.status(results(kept, study), outlook(kept, study)))


@app.command()
def clean(store: StoreFolder, database: Database = None) -> None:
    """Remove what interrupted cells have left: checkpoints, attacked weights among them. They begin anew."""
    from caseharden.store.leftovers import clean

    gone = clean(opened(store, database, create=False))
    busy = f"; {gone.busy} cells are at work, and were left alone" if gone.busy else ""
    show.say(f"removed what {gone.cells} cells had left, {gone.bytes / 2**20:.1f} MiB{busy}")


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the store and the report.")] = Path("out/demo"),
    threads: Threads = None,
    jobs: Jobs = None,
) -> None:
    """Run the whole way on the built-in world: undefended, hardened and never-learned models, attacked."""
    from dataclasses import replace

    from caseharden.study.spec import load
    from caseharden.suites.suite import ENSEMBLE, stage

    blitz = stage("blitz")
    spec = replace(load(Path(__file__).parents[1] / "study" / "demo.yaml"), attacks=blitz.attacks)
    show.say(f"attacks: {ENSEMBLE}, stage {blitz.name}")
    found = api.run(spec, opened(out), threads=threads, jobs=jobs, progress=watch)
    _report(found, html=out / "report.html", json=out / "report.json")
    raise typer.Exit(0 if found.complete else 1)


def harden(
    model: Annotated[str, typer.Argument(help="Built-in name, folder or hub id.")],
    defense: Annotated[
        str,
        typer.Argument(
            help='As a spec would write it: safety_sft, "{safety_sft: {lr: 1e-4}}", or a .yaml file that does.'
        ),
    ] = "reteach",
    *,
    output: Annotated[Path, typer.Option(help="Folder to write the hardened model to; must not exist.")],
    domain: DomainText = "almanac",
    seed: int = 0,
    store: Annotated[Path, typer.Option(help="Folder of the store.")] = Path("out/harden"),
    thinking: Thinking = None,
    precision: PrecisionText = "auto",
    checkpointing: Checkpointing = False,
    offload: Offload = False,
    json: Json = None,
    threads: Threads = None,
) -> None:
    """Harden a model, measure it before and after, and save it."""
    console = show.console_beside(json)
    hardened = api.harden(
        model,
        read(defense),
        output=output,
        domain=read(domain),
        seed=seed,
        reasoning={"thinking": thinking},
        precision=precision,
        memory={"checkpointing": checkpointing, "offload": offload},
        store=store,
        threads=threads,
        progress=partial(watch, console=console),
    )
    show.say(f"hardened model in {hardened.folder}\n", console)
    _readings(hardened.results, json, console)


def attack(
    model: Annotated[str, typer.Argument(help="Built-in name, folder or hub id.")],
    attack: Annotated[
        str,
        typer.Argument(help='As a spec would write it: sft, "{sft: {lr: 1e-4}}", or a .yaml file that does.'),
    ],
    domain: DomainText = "almanac",
    budgets: Annotated[str, typer.Option(help="Attack steps after which to measure.")] = "10,20,50,100",
    seed: int = 0,
    store: Annotated[Path, typer.Option(help="Folder of the store.")] = Path("out/attack"),
    thinking: Thinking = None,
    precision: PrecisionText = "auto",
    checkpointing: Checkpointing = False,
    offload: Offload = False,
    json: Json = None,
    threads: Threads = None,
    jobs: Jobs = None,
    on: On = None,
) -> None:
    """Attack a model and measure it at growing budgets."""
    console = show.console_beside(json)
    found = api.attack(
        model,
        read(attack),
        domain=read(domain),
        budgets=_numbers(budgets),
        seeds=[seed],
        reasoning={"thinking": thinking},
        precision=precision,
        memory={"checkpointing": checkpointing, "offload": offload},
        store=store,
        threads=threads,
        jobs=jobs,
        on=on,
        progress=partial(watch, console=console),
    )
    _readings(found, json, console)
    raise typer.Exit(0 if found.complete else 1)


def rescore(
    store: StoreFolder,
    measure: Annotated[str, typer.Option(help="Name of the measure whose answers are scored.")],
    judge: Annotated[str, typer.Option(help="Judge, as a spec would write it.")],
    study: Study = None,
    database: Database = None,
) -> None:
    """Let another judge score stored answers; no model runs. Reports show it as MEASURE@JUDGE."""
    from caseharden.judges.judge import Judge
    from caseharden.store.results import named
    from caseharden.study.build import build
    from caseharden.study.plan import judge_name
    from caseharden.study.rescore import rescore as run_judge
    from caseharden.study.spec import read_yaml

    kept = opened(store, database, create=False)
    name = named(kept, study)
    built = build(read_yaml(judge), Judge, "--judge")
    new = run_judge(kept, name, measure, built)
    show.say(f"{new} new records of {measure}, scored by {judge_name(built)}, in study {name}.")


def report(
    store: StoreFolder,
    study: Study = None,
    html: Annotated[Path | None, typer.Option(help="Write one self-contained HTML file.")] = None,
    json: Json = None,
    figures: Annotated[Path | None, typer.Option(help="Write PNG and SVG figures to this folder.")] = None,
    reveal: Annotated[
        bool, typer.Option("--reveal", help="Do not redact harmful answers in the HTML file.")
    ] = False,
    database: Database = None,
) -> None:
    """Print a study's scoreboard, and write its report."""
    from caseharden.store.results import results

    _report(results(opened(store, database, create=False), study), html, json, figures, reveal)


# ---- shared ---------------------------------------------------------------------------------------------


def opened(folder: Path, database: str | None = None, *, create: bool = True) -> Store:
    """The store in `folder`, or with its database elsewhere."""
    from caseharden.store.store import Store

    return Store(folder, database, create=create)


def read(given: str) -> Any:
    """What is written in the file `given`, if that is the name of one in YAML, and else in `given` itself."""
    from caseharden.study.spec import read_yaml

    return read_yaml(written_in(given))


def written_in(given: str) -> str:
    """The text of the YAML file of that name; `given` itself if it is no such name."""
    if not given.endswith((".yaml", ".yml")):
        return given
    try:
        return Path(given).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CasehardenError(f"cannot read {given}: {error}") from error


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise CasehardenError(f"--budgets: expected numbers with commas between, not {text!r}.") from None


def watch(events: Iterable[Event], cells: int, console: Console | None = None) -> None:
    """Show a study as it runs."""
    try:
        show.follow(events, cells, console or terminal.console())
    except KeyboardInterrupt:
        said = "stopped; what was stored is safe, and the same command goes on from there"
        terminal.console(stderr=True).print(said)
        raise typer.Exit(130) from None


def _readings(found: Results, json: Path | None, console: Console) -> None:
    """Print every reading, and write the JSON file if one is asked for."""
    from caseharden.report.export import write_json
    from caseharden.report.table import readings

    console.print(readings(found))
    if json:
        write_json(found, json)
        show.say(f"wrote {json}", console)


def _report(
    found: Results,
    html: Path | None = None,
    json: Path | None = None,
    figures: Path | None = None,
    reveal: bool = False,
) -> None:
    from caseharden.report.export import write_json
    from caseharden.report.table import scoreboard

    console = show.console_beside(json, html)
    console.print(scoreboard(found))
    if json:
        write_json(found, json)
    if figures:
        from caseharden.report.figures import write_figures

        write_figures(found, figures)
    if html:
        from caseharden.report.html import write_html

        write_html(found, html, reveal)
    for path in (html, json, figures):
        if path:
            show.say(f"wrote {path}", console)
