"""What several jobs are worth: equal cells run one after another, and in processes (or Ray's) of a thread each.

    python benchmarks/jobs.py [--model almanac-victim] [--cells 24] [--steps 200] [--jobs 2] [--on ray]

Contenders take turns in a process of their own each, one thread a cell. Starting workers counts, opening the store
and checking the model as well; importing PyTorch into the first process does not. The records have to be the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from sqlalchemy import select

from caseharden.attacks import SFT
from caseharden.domains.almanac import Almanac
from caseharden.lm.machine import quiet_transformers
from caseharden.store.store import Store
from caseharden.store.tables import GenerationRow, RecordRow
from caseharden.study.jobs import cores, executor
from caseharden.study.run import run_study
from caseharden.study.spec import StudySpec
from contenders import ratios, show, take_turns

ONE, SEVERAL = "one job", "several jobs"


def measure(jobs: int, model: str, cells: int, steps: int, on: str | None = None) -> dict[str, float]:
    """Seconds for a study of that many attacks, which differ by their seed, and a number for all that it stored."""
    measures = dict.fromkeys(Almanac().measures())
    spec = StudySpec(
        name="jobs",
        domain=Almanac(),
        models=(model,),
        attacks=(SFT(lr=1e-4),),
        seeds=tuple(range(cells)),
        budgets=(0, steps),
        measures={name: None for name in measures if name not in ("harm", "utility")},
        threads=1,
    )
    with tempfile.TemporaryDirectory() as folder, quiet_transformers():
        start = time.perf_counter()
        store = Store(Path(folder))
        with closing(executor([spec], jobs, None, on=on)) as workers:
            done = sum(event.what == "done" for event in run_study(spec, store, executor=workers))
        seconds = time.perf_counter() - start
        assert done == cells + 1, "the model as released, and every attack"
        return {"seconds": seconds, "records": _number(store)}


def _number(store: Store) -> float:
    """A number that stands for every record and answer."""
    readings = select(
        RecordRow.cell, RecordRow.measure, RecordRow.step, RecordRow.value, RecordRow.low, RecordRow.high
    )
    answers = select(GenerationRow.cell, GenerationRow.measure, GenerationRow.step, GenerationRow.item)
    answers = answers.add_columns(GenerationRow.output, GenerationRow.score)
    with store.session() as session:
        rows = sorted(repr(tuple(row)) for query in (readings, answers) for row in session.execute(query))
    return float(int(hashlib.sha256("\n".join(rows).encode()).hexdigest()[:12], 16))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="almanac-victim")
    parser.add_argument("--cells", type=int, default=24)
    parser.add_argument("--steps", type=int, default=200, help="of each attack")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--on", help="the address of a Ray cluster for several jobs")
    parser.add_argument("--one", choices=(ONE, SEVERAL), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        how = {"jobs": 1} if args.one == ONE else {"jobs": args.jobs, "on": args.on}
        print(json.dumps(measure(model=args.model, cells=args.cells, steps=args.steps, **how)))
        return
    found = take_turns(__file__, (ONE, SEVERAL), args.repeats)
    if len({run["records"] for runs in found.values() for run in runs}) > 1:
        sys.exit("the records differ")
    each = statistics.median(run["seconds"] for run in found[ONE]) / args.cells
    print(f"{args.model}, {args.cells} attacks of {args.steps} steps, {each:.1f} s each; the same records")
    print(f"{args.jobs} jobs on {cores()} cores")
    show(ratios(found, ONE, SEVERAL, "seconds"))


if __name__ == "__main__":
    main()
