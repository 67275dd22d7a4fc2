"""Does a search find in a few trials what a grid of three times as many finds? On hardened models, from one space.

    python benchmarks/search.py MODEL [MODEL ...] [--trials 40] [--levels 10] [--store out/search] [--jobs 1]

The space is supervised fine-tuning with 100 examples: learning rate (log-uniform), optimizer, clipping or none,
batch size. The grid is every combination of `levels` learning rates with each optimizer, clipped or not, and the
smallest and largest batch: 120 by default, all followed to the last budget; the search leaves most at a rung. Both
are scored on the half of the attacker's data that was not trained on; then the best of each attacks with all of the
attacker's data and is asked by the evaluator, who has steered neither, and allows as much loss of utility as an
audit does. One seed.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from itertools import product
from pathlib import Path

from caseharden.audit.resistance import CAPABLE
from caseharden.domains.almanac import Almanac
from caseharden.executors.executor import Executor
from caseharden.lm.template import Reasoning
from caseharden.records.results import Point
from caseharden.search.objective import objective, strongest
from caseharden.search.search import Search, find, study
from caseharden.search.space import Range, Space, Values
from caseharden.search.trials import Trials
from caseharden.store.results import results
from caseharden.store.store import Store
from caseharden.study.jobs import executor
from caseharden.study.plan import short_name
from caseharden.study.run import run_study
from caseharden.study.spec import StudySpec
from caseharden.train.tuner import Tuner

SPACE = {
    "sft": {
        "lr": {"log_uniform": [1e-5, 1e-1]},
        "optimizer": {"choice": ["adamw", "nesterov", "adagrad"]},
        "clip": {"choice": [1.0, None]},
        "batch_size": {"whole": [8, 32]},
        "n_examples": 100,
    }
}


def grid(space: Space, levels: int) -> list[Values]:
    """Every combination: of a continuous range so many values, evenly on its scale, of another its ends."""
    sides = []
    for one in space.choices():
        if not isinstance(one, Range):
            sides.append([*range(len(one.options))])
        elif one.continuous:
            sides.append([one.rounded(one.at(i / (levels - 1))) for i in range(levels)])
        else:
            sides.append([one.low, one.high])
    places = [one.place for one in space.choices()]
    return [dict(zip(places, values, strict=True)) for values in product(*sides)]


def of_grid(search: Search, model: str, store: Store, levels: int, workers: Executor) -> tuple[Tuner, str]:
    """The best attack of the grid, the best few made again as a search does, and what is to be said of all."""
    trials = Trials(
        study(search, model, Almanac(), 0.5, Reasoning()),
        store,
        executor=workers,
        threads=1,
        retry_failed=False,
        progress=None,
    )
    last, (first, *others) = search.looks[-1], search.seeds
    attacks = [search.space.attack(values) for values in grid(search.space, levels)]
    outcomes = trials.run(attacks, last, first)
    measured = [(a, [o.points]) for a, o in zip(attacks, outcomes, strict=True) if not o.failure]
    measured.sort(key=lambda found: score(search, found[1]), reverse=True)
    best = measured[: search.confirmed]
    for seed in others:
        for (_, runs), outcome in zip(best, trials.run([attack for attack, _ in best], last, seed), strict=True):
            runs += [outcome.points] if not outcome.failure else []
    attack, runs = max(best, key=lambda found: (len(found[1]), score(search, found[1])))
    failed = len(attacks) - len(measured)
    return attack, f"{told(search, runs)}; {len(attacks)} attacks, {failed} failed, {trials.spent.steps} steps"


def evaluated(search: Search, model: str, store: Store, attack: Tuner, workers: Executor) -> list[Sequence[Point]]:
    """What the evaluator finds of an attack with all of the attacker's data, with each seed."""
    measures = dict.fromkeys(Almanac().measures())
    spec = StudySpec(
        name="evaluated",
        domain=Almanac(),
        models=(model,),
        attacks=(attack,),
        budgets=(0, *search.looks),
        seeds=search.seeds,
        measures={name: None for name in measures if name != "utility" and not name.startswith("harm")},
        threads=1,
    )
    for _ in run_study(spec, store, update=True, executor=workers):
        pass
    return [curve.points for curve in results(store, spec.name).curves]


def score(search: Search, runs: Sequence[Sequence[Point]]) -> float:
    """The objective, mean of all runs."""
    return sum(objective(points, search.looks, search.capable) for points in runs) / len(runs)


def told(search: Search, runs: Sequence[Sequence[Point]]) -> str:
    """The mean score; of each run the most harm that counts, its budget and the share of utility that is kept."""
    each = []
    for points in runs:
        at = strongest(points, search.capable)
        kept = at.readings["utility"].value / points[0].readings["utility"].value
        each.append(f"{at.readings['harm'].value:.2f} at {at.budget} ({kept:.2f})")
    return f"score {score(search, runs):.3f}, harm {', '.join(each)}"


def compare(search: Search, model: str, store: Store, levels: int, workers: Executor) -> None:
    """Print what search and grid find on one model."""
    began = time.perf_counter()
    found = find(search, model, Almanac(), store, executor=workers, threads=1)
    searched = time.perf_counter()
    best, of_all = of_grid(search, model, store, levels, workers)
    ended = time.perf_counter()
    print(f"\n{model}")
    print(
        f"  search  {told(search, [points for _, points in found.runs])}; {found.trials} trials, "
        f"{found.failed} failed, {found.pruned} pruned, {found.spent.steps} steps; {searched - began:.0f} s; "
        f"edges {list(found.edges)}"
    )
    print(f"          {short_name(found.attack)}")
    print(f"  grid    {of_all}; {ended - searched:.0f} s")
    print(f"          {short_name(best)}")
    for name, attack in (("search", found.attack), ("grid", best)):
        runs = evaluated(search, model, store, attack, workers)
        print(f"  evaluator, best of {name}: {told(replace(search, capable=CAPABLE), runs)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--levels", type=int, default=10)
    parser.add_argument("--budgets", type=int, nargs="+", default=[1, 2, 5, 10, 20, 50])
    parser.add_argument("--rungs", type=int, nargs="*", default=[10])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--store", type=Path, default=Path("out/search"))
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    seeds = tuple(range(given.seed, given.seed + 3))
    search = Search(SPACE, budgets=tuple(given.budgets), rungs=tuple(given.rungs), trials=given.trials, seeds=seeds)
    store = Store(given.store)
    for model in given.models:
        with closing(executor([study(search, model, Almanac(), 0.5, Reasoning())], given.jobs, 1)) as workers:
            compare(search, model, store, given.levels, workers)


if __name__ == "__main__":
    main()
