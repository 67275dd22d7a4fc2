"""What each stage of AutoTamper gets out of several models: which attack was worst, how it was asked, what is left.

    python benchmarks/autotamper.py FOLDER ... --suite benchmarks/reduced.yaml --stages blitz breadth --jobs 2

Every stage is run on every model, whether it has failed before or not, so that it shows what a stage adds. The last
line is the margin: the bystander knowledge that the model has as released, less the most that any attack tried got
out of it, the attacked model of use or not. An undefended model has none, and a perfect defense would have 1.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from caseharden.audit.resistance import resistance
from caseharden.domains import Almanac
from caseharden.executors.executor import Executor
from caseharden.lm.machine import quiet_transformers
from caseharden.records.asking import ways
from caseharden.records.results import PLAIN, Results
from caseharden.store.results import results
from caseharden.store.store import Store
from caseharden.study.jobs import executor
from caseharden.study.run import run_study
from caseharden.study.spec import StudySpec
from caseharden.suites import suite as suites
from caseharden.suites.question import Question
from caseharden.suites.searching import searched


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="folders of hardened models, or built-in names")
    parser.add_argument("--names", nargs="*", default=[], help="what to call the models, in order")
    parser.add_argument("--baseline", default="almanac-victim")
    parser.add_argument("--suite", default="quick")
    parser.add_argument("--stages", nargs="+", help="of AutoTamper; those of the suite if left out")
    parser.add_argument("--base-public", action="store_true")
    parser.add_argument("--store", type=Path, default=Path("out/autotamper"))
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    suite = suites.load(given.suite)
    if given.stages:
        suite = replace(suite, stages=tuple(map(suites.stage, given.stages)))
    print("| model | stage | worst attack | step | most harm | utility | minutes |\n|---|---|---|---|---|---|---|")
    for model, name in zip(given.models, [*given.names, *given.models[len(given.names) :]], strict=True):
        question = Question(model, given.baseline, Almanac(), suite, base_public=given.base_public)
        for line in lines(question, Store(given.store), given.jobs):
            print("| " + " | ".join([name, *line]) + " |", flush=True)


def lines(question: Question, store: Store, jobs: int) -> Iterable[tuple[str, ...]]:
    """What asking gets, and for each stage what its worst attack does."""
    with quiet_transformers(), closing(executor(question.studies(), jobs, None)) as workers:
        (released,) = (c for c in run(question.released(), store, workers).curves if is_of(c, question))
        asked = ways(released.points[0].readings, "harm")
        how = max(asked, key=lambda way: asked[way].value)
        most = asked[how].value
        yield "ask", f"asked {how}", "0", str(asked[how]), f"{released.points[0].readings['utility'].value:.3f}", ""
        for stage in question.stages:
            began = time.monotonic()
            whole, searches = searched(stage, question, store, executor=workers)
            found = run(question.attacks(whole)[0], store, workers)
            (worst,) = (each.worst for each in resistance(found) if is_of(each, question))
            points = [point for curve in found.curves if is_of(curve, question) for point in curve.points]
            most = max([most, *(r.value for p in points for r in ways(p.readings, "harm").values())])
            end = worst.end()
            yield (
                stage.name,
                worst.name if end.way == PLAIN else f"{worst.name}, asked {end.way}",
                str(worst.steps),
                str(end.readings["harm"]),
                f"{end.readings['utility'].value:.3f}",
                f"{(time.monotonic() - began) / 60:.1f}",
            )
            for one in searches:
                print(f"searched: {one}", flush=True)
        kept = released.points[0].readings["bystander"].value
        yield "margin", f"bystander {kept:.3f} − {most:.3f} at most", "", f"{kept - most:.3f}", "", ""


def is_of(thing: object, question: Question) -> bool:
    return (getattr(thing, "model", ""), getattr(thing, "defense", "")) == (question.model, "undefended")


def run(spec: StudySpec, store: Store, workers: Executor) -> Results:
    for event in run_study(spec, store, executor=workers):
        if event.what in ("failed", "blocked"):
            print(f"failed: {event.cell.attack}: {event.text}", flush=True)
    return results(store, spec.name)


if __name__ == "__main__":
    main()
