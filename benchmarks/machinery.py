"""What of a study's time is machinery: a hundred cells through the study, and as one would write them by hand.

    python benchmarks/machinery.py [--cells 100] [--steps 100] [--repeats 1]

By hand is a loop over the seeds: load the model, train, ask at each budget, score; nothing is stored, logged,
checkpointed or checked. Contenders take turns in a process of their own each, with one thread.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

from caseharden.attacks import SFT
from caseharden.data.stream import derive_seed
from caseharden.domains.almanac import Almanac
from caseharden.judges.judge import judged
from caseharden.lm.lm import LM
from caseharden.lm.machine import computing, quiet_transformers
from caseharden.lm.sources import resolve
from caseharden.store.store import Store
from caseharden.study.run import run_study
from caseharden.study.spec import StudySpec
from caseharden.train.tuner import Run
from contenders import show, take_turns

MODEL, ATTACK = "almanac-victim", SFT(lr=1e-4)


def study(spec: StudySpec) -> None:
    with tempfile.TemporaryDirectory() as folder:
        done = sum(event.what == "done" for event in run_study(spec, Store(Path(folder))))
    assert done == len(spec.seeds) + 1, "the model as released, and every attack"


def by_hand(spec: StudySpec) -> None:
    folder, cpu = resolve(MODEL), torch.device("cpu")
    with computing(cpu, 1):
        ask(LM.load(folder), spec, 0)
        for seed in spec.seeds:
            run = Run(LM.load(folder), spec.domain, "attacker", seed)
            for _ in run.drive(ATTACK):
                if run.step in spec.budgets:
                    with run.evaluating() as lm:
                        ask(lm, spec, run.step)
                if run.step == spec.budgets[-1]:
                    break


def ask(lm: LM, spec: StudySpec, step: int) -> None:
    """Every measure's answers, scored."""
    for name, measure in spec.all_measures().items():
        assert measure.judge is not None
        judged(measure.judge, measure.answers(lm, spec.domain, derive_seed(0, name, step), spec.engine))


CONTENDERS = {"study": study, "by hand": by_hand}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=100)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--one", choices=CONTENDERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.one:
        found = take_turns(__file__, CONTENDERS, args.repeats)
        pairs = zip(found["study"], found["by hand"], strict=True)
        show({"share of time": [1 - hand["seconds"] / whole["seconds"] for whole, hand in pairs]})
        return
    own = {name: None for name in Almanac().measures() if name not in ("harm", "utility")}
    spec = StudySpec(
        name="machinery",
        domain=Almanac(),
        models=(MODEL,),
        attacks=(ATTACK,),
        seeds=tuple(range(args.cells)),
        budgets=(0, args.steps // 5, args.steps // 2, args.steps),
        measures=own,
        threads=1,
    )
    with quiet_transformers():
        start = time.perf_counter()
        CONTENDERS[args.one](spec)
        print(json.dumps({"seconds": time.perf_counter() - start}))


if __name__ == "__main__":
    main()
