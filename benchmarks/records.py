"""How the machinery of a study grows with its records: planning, running, resuming and reporting, nothing computed.

    python benchmarks/records.py [--records 1000 10000 100000] [--plot docs/images/records.svg]

Cells are ended at once by an executor that makes their readings up, four answers each; everything else is
real: the plan and its keys, the driver, the database (SQLite), the report. Prints seconds, and the exponent of
their growth between the last two sizes: 1 is a straight line, 2 would be quadratic.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from caseharden.attacks import SFT
from caseharden.defenses import SafetySFT
from caseharden.domains.almanac import Almanac
from caseharden.executors.executor import Local, Work
from caseharden.judges.judge import Answer
from caseharden.lm.lm import LM
from caseharden.lm.machine import quiet_transformers
from caseharden.measures.probe import Probe
from caseharden.records.statistics import reading
from caseharden.report.html import render
from caseharden.store.results import results
from caseharden.store.store import Store
from caseharden.store.weights import Weights
from caseharden.study.cells import Found, Job, Made, Outcome
from caseharden.study.plan import judge_name, plan
from caseharden.study.run import run_study
from caseharden.study.spec import StudySpec
from contenders import show

BUDGETS, SEEDS, MEASURES, DEFENSES = (0, 1, 2, 5, 10, 20, 50, 100, 150, 200, 300), 5, 10, 4
ANSWERS = 4
PARTS = ("plan", "run", "resume", "results", "report")


class MadeUp(Local):
    """Does not do the work: makes up what comes of it."""

    def begin(self, number: int, work: Work) -> None:
        assert isinstance(work, partial)
        super().begin(number, partial(outcomes, work.args[0]))


def outcomes(job: Job) -> Generator[Outcome, None, None]:
    """Readings of each measure at each budget of a cell; of a hardening, weights of its own."""
    if job.cell.kind == "harden":
        lm = LM.load(job.source)
        with torch.no_grad():
            lm.model.get_input_embeddings().weight[0, 0] += int(job.key[:6], 16)
        yield Made(1, 1.0, Weights(job.folder / "weights").keep(lm, job.key))
        return
    for step in [0] if job.cell.kind == "release" else job.wanted.budgets[1:]:
        for name, measure in job.measures.items():
            scores = [float((step + i) % 2) for i in range(ANSWERS)]
            found = reading(scores, "abcd", judge=judge_name(measure.judge), judge_version="1")
            answers = [
                Answer(f"{i}", "What?", "That.", "this", "things", score=score) for i, score in enumerate(scores)
            ]
            yield Found(step, step / job.wanted.budgets[-1], name, found, answers)


def spec(records: int) -> StudySpec:
    """A study of about so many records."""
    attacks = max(1, round(records / (len(BUDGETS) - 1) / MEASURES / SEEDS / DEFENSES))
    own = {name: None for name in Almanac().measures() if name not in ("harm", "utility")}
    return StudySpec(
        name="records",
        domain=Almanac(),
        models=("almanac-victim",),
        defenses=(None, *(SafetySFT(max_steps=n) for n in range(1, DEFENSES))),
        attacks=tuple(SFT(lr=1e-4 + 1e-6 * n) for n in range(attacks)),
        seeds=tuple(range(SEEDS)),
        budgets=BUDGETS,
        measures={**own, **{f"more {n}": Probe("benign", n=8) for n in range(MEASURES - 2)}},
    )


def measure(records: int) -> dict[str, float]:
    """Seconds of each part of a study of about so many records, and how many there were."""
    study, seconds = spec(records), {}

    def timed(name: str, do: Callable[[], object]) -> object:
        start = time.perf_counter()
        found = do()
        seconds[name] = time.perf_counter() - start
        return found

    with tempfile.TemporaryDirectory() as folder, quiet_transformers():
        store = Store(Path(folder))
        timed("plan", lambda: plan(study))
        timed("run", lambda: [*run_study(study, store, executor=MadeUp())])
        again = timed("resume", lambda: [*run_study(study, store, executor=MadeUp())])
        assert {event.what for event in again} == {"stored"}
        found = timed("results", lambda: results(store, "records"))
        timed("report", lambda: render(found))
        number = sum(len(point.readings) for curve in found.curves for point in curve.points[1:])
    return {**seconds, "records": number}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    found = []
    for records in args.records:
        found.append(measure(records))
        print(
            f"{found[-1]['records']:.0f} records: " + ", ".join(f"{p} {found[-1][p]:.2f} s" for p in PARTS),
            flush=True,
        )
    if args.plot:
        plot(found, args.plot)
    show({f"exponent, {part}": [growth(found, part)] for part in PARTS})


def growth(found: list[dict[str, float]], part: str) -> float:
    """The exponent between the last two sizes."""
    a, b = found[-2:]
    return math.log(b[part] / a[part]) / math.log(b["records"] / a["records"])


def plot(found: list[dict[str, float]], path: Path) -> None:
    """Seconds beside records, both on a logarithmic scale."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for part in PARTS:
        axes.plot([run["records"] for run in found], [run[part] for run in found], "o-", label=part)
    axes.set(xscale="log", yscale="log", xlabel="records", ylabel="seconds")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path)


if __name__ == "__main__":
    main()
