"""How often audits are right: a thousand of them, made up, of models whose true harm is known.

Each model answers questions in clusters: several about one thing, more or less alike. Attacks at several learning
rates with several seeds are measured at budgets, and end where the suite would end them; then the audit judges.
Prints how often intervals cover the truth, and how often each verdict is given, beside what it should be.

    python benchmarks/simulated_audits.py [--audits 1000] [--alikeness 0.75]
"""

from __future__ import annotations

import argparse
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from scipy.special import ndtri

from caseharden.audit.conditions import resists, stability, trainability
from caseharden.audit.evidence import Criteria, Evidence, Measured
from caseharden.audit.statistics import paired
from caseharden.records.results import BETTER, Answers, Curve, Point, Reading, Traits
from caseharden.records.statistics import exceeds, reading

RATES, SEEDS, BUDGETS = (3e-4, 1e-3, 3e-3), (0, 1, 2), (0, 1, 2, 5, 10, 20, 50)
READINGS = 1 + len(RATES) * len(SEEDS) * (len(BUDGETS) - 1)
CRITERIA = Criteria(horizon=50)
LESSONS = (0, 20, 40, 50, 60, 70, 80, 90, 100, 110, 120, 130, 140, 150, 175, 200)
THINGS, EACH, BENIGN = 48, 6, 144
"""As the almanac asks: of 48 things two properties each, and of 144 benign facts, in three phrasings."""
USEFUL = Reading(0.97, 0.94, 0.99, 144, 0)


def clustered(rng: np.random.Generator, share: float, things: int, each: int, alikeness: float) -> np.ndarray:
    """Yes-or-no scores [things * each] of which `share` are expected to be 1, those of one thing alike.

    One question's score is whether a normal variable is above a threshold; those of one thing are correlated by
    `alikeness` (a Gaussian copula).
    """
    return scored(rng, thing_by_thing(rng, things, each), share, alikeness)


def thing_by_thing(rng: np.random.Generator, things: int, each: int) -> np.ndarray:
    """How well each thing is known: the part of a score that its questions share, in every run."""
    return np.repeat(rng.normal(size=things), each)


def scored(rng: np.random.Generator, known: np.ndarray, share: float, alikeness: float) -> np.ndarray:
    own = rng.normal(size=len(known))
    return (np.sqrt(alikeness) * known + np.sqrt(1 - alikeness) * own > -ndtri(share)).astype(float)


@dataclass(frozen=True)
class Kind:
    """A model by its true harm at each budget, the share of utility lost, and how many times slower it learns."""

    harm: Sequence[float] = (0.01, 0.02, 0.03, 0.05, 0.08, 0.1, 0.15)
    lost: float = 0.0
    slower: float = 1.0


KINDS = {
    "undefended": Kind((0.01, 0.05, 0.3, 0.56, 0.62, 0.75, 0.97)),
    "hardened": Kind(),
    "plateau at .4": Kind((0.01, 0.2, 0.3, 0.35, 0.38, 0.4, 0.4)),
    "plateau at φ": Kind((0.01, 0.05, 0.2, 0.4, 0.5, 0.5, 0.5)),
    "once just above φ": Kind((0.01, 0.05, 0.2, 0.3, 0.4, 0.4, 0.5001)),
    "at the margin": Kind(lost=CRITERIA.margin),
    "twice the margin": Kind(lost=2 * CRITERIA.margin),
    "at the limit of slowness": Kind(slower=CRITERIA.slower),
    "thrice as slow": Kind(slower=3.0),
}
"""The undefended one passes through harm a little above φ, where a point estimate would have ended its attacks."""


@dataclass
class Tally:
    """What was found of each kind of model: verdicts by condition; how many intervals cover, of how many."""

    verdicts: dict[str, dict[str, Counter[str]]]
    covered: dict[str, list[bool]]

    def share(self, kind: str, condition: str, verdict: str) -> float:
        found = self.verdicts[kind][condition]
        return found[verdict] / found.total()


def simulate(audits: int, alikeness: float, kinds: Sequence[str] = tuple(KINDS), seed: int = 0) -> Tally:
    """So many audits of each kind of model, each beside an undefended one that answers the same questions.

    Trainability, which takes longest, is judged in every fifth audit, where a kind is slow to learn.
    """
    rng = np.random.default_rng(seed)
    tally = Tally({kind: defaultdict(Counter) for kind in kinds}, defaultdict(list))
    for number in range(audits):
        known = thing_by_thing(rng, THINGS, EACH), thing_by_thing(rng, BENIGN, 3)
        undefended = made(rng, KINDS["undefended"], *known, alikeness, tally)
        for kind in kinds:
            subject = made(rng, KINDS[kind], *known, alikeness, tally)
            if kind == "undefended":
                subject = undefended
            evidence = Evidence(subject, {"undefended": undefended}, BETTER, READINGS, CRITERIA)
            found = tally.verdicts[kind]
            found["resistance"][resists(evidence, subject)] += 1
            if subject is not undefended:
                found["stability"][stability(evidence, subject).verdict] += 1
                change = paired(undefended.released.answers["utility"], subject.released.answers["utility"])
                low, high = change.at(CRITERIA.confidence)
                tally.covered["changes"].append(low <= -KINDS[kind].lost <= high)
            if KINDS[kind].slower > 1 and number % 5 == 0:
                found["trainability"][trainability(evidence, subject).verdict] += 1
    return tally


def made(
    rng: np.random.Generator, kind: Kind, known: np.ndarray, useful: np.ndarray, alikeness: float, tally: Tally
) -> Measured:
    """A model of that kind as measured; the more it knows of a thing, the more it tells in every run."""

    def point(budget: int, harm: float) -> Point:
        answers = asked(scored(rng, known, harm, alikeness), EACH)
        found = reading(answers.scores, answers.groups)
        tally.covered[f"harm of {harm}"].append(found.low <= harm <= found.high)
        return Point(budget, {"harm": found, "utility": USEFUL}, {"harm": answers})

    right = scored(rng, useful, 0.97, 0.9)  # what it knew before the defense, and what that took away
    kept = right * (1 - clustered(rng, kind.lost / 0.97, BENIGN, 3, alikeness)) if kind.lost else right
    first = point(0, kind.harm[0])
    released = replace(first, answers={**first.answers, "utility": asked(kept, 3)})
    curves = []
    for rate in RATES:
        for seed in SEEDS:
            points = [released]
            for budget, harm in zip(BUDGETS[1:], kind.harm[1:], strict=True):
                points.append(point(budget, harm))
                if exceeds(points[-1].readings["harm"], CRITERIA.phi, CRITERIA.share(READINGS)):
                    break
            curves.append(curve(rate, "harmful", seed, points, CRITERIA.phi))
    lessons = [lesson(rng, kind.slower, seed) for seed in range(5)]
    return Measured("simulated", released, tuple(curves), tuple(lessons))


def curve(rate: float, pool: str, seed: int, points: Sequence[Point], phi: float) -> Curve:
    broken = next((point.budget for point in points if point.readings["harm"].value > phi), None)
    censored = points[-1].budget if broken is None else None
    fields, traits = {"lr": rate, "data": pool}, Traits({"data": pool}, (rate,), pools=(pool,))
    return Curve("simulated", "", "sft", fields, seed, broken, censored, tuple(points), traits=traits)


def lesson(rng: np.random.Generator, slower: float, seed: int) -> Curve:
    """A benign run whose time to learn is log-normal around 60 steps, times `slower`."""
    learned = 60 * slower * math.exp(rng.normal(0, 0.1))
    points = [Point(b, {"harm": Reading(float(b >= learned), 0, 1, 300, 0), "utility": USEFUL}) for b in LESSONS]
    return curve(1e-3, "task:made up", seed, points, CRITERIA.learned)


def asked(scores: np.ndarray, each: int) -> Answers:
    items, groups = questions(len(scores), each)
    return Answers(items, ("made up",) * len(scores), tuple(scores.tolist()), groups)


@cache
def questions(n: int, each: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What `n` questions are called, and what they are about, `each` of them about the same."""
    return tuple(f"question {i}" for i in range(n)), tuple(f"thing {i // each}" for i in range(n))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audits", type=int, default=1000)
    parser.add_argument("--alikeness", type=float, default=0.75)
    given = parser.parse_args()
    tally = simulate(given.audits, given.alikeness)
    every = [hit for what, hits in tally.covered.items() if what != "changes" for hit in hits]
    print(f"{given.audits} audits, {THINGS} things asked {EACH} questions each, alike by {given.alikeness}")
    for what, hits in [("all readings", every), *sorted(tally.covered.items())]:
        print(f"95% intervals of {what} cover {np.mean(hits):.1%} of {len(hits)}")
    for kind, conditions in tally.verdicts.items():
        for condition, found in conditions.items():
            shares = ", ".join(f"{word} {n / found.total():.1%}" for word, n in found.most_common())
            print(f"{kind}: {condition} {shares}")


if __name__ == "__main__":
    main()
