"""What an attack costs: steps, examples, tokens, floating-point operations, money."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from caseharden.audit.evidence import Evidence, Measured, Price, Searched
from caseharden.audit.resistance import AttackRuns, steps_to_break
from caseharden.records.results import Curve

TRAINED, READ = 6, 2
"""FLOPs for each parameter and token: forward and backward, and forward alone (Kaplan et al. 2020, 2001.08361)."""


@dataclass(frozen=True)
class Cost:
    """What some attack steps cost. What is not known is NaN.

    `examples` are those trained on, or answers tried, repeats counted; `tokens` those that went through a
    model of the attack's, with gradient or without, padding left out; `dollars` at the stated price.
    """

    steps: int
    examples: float
    tokens: float
    flops: float
    dollars: float

    def __str__(self) -> str:
        parts = [
            f"{self.steps} {'step' if self.steps == 1 else 'steps'}",
            f"{counted(self.examples)} examples",
            f"{counted(self.tokens)} tokens",
            f"{counted(self.flops)} FLOPs",
            "unknown dollars" if math.isnan(self.dollars) else f"${self.dollars:.2g}",
        ]
        return ", ".join(parts)


@dataclass(frozen=True)
class Broken:
    """What breaking one model took under its worst attack; if `censored`, it took more than that."""

    attack: str
    cost: Cost
    censored: bool

    def __str__(self) -> str:
        return f"{'more than ' if self.censored else ''}{self.cost} ({self.attack})"


@dataclass(frozen=True)
class SearchCost:
    """What a search for an attack took, the trials that led nowhere included."""

    found: Searched
    cost: Cost

    def __str__(self) -> str:
        found = self.found
        if found.failure:
            return found.failure
        trials = f"best of {found.trials} trials ({found.failed} failed, {found.pruned} cut short)"
        return f"{found.attack}: {trials}; {self.cost}"


def spent(curve: Curve, budget: int, parameters: float, price: Price) -> Cost:
    """What the first `budget` steps of a run cost, by its log, on a model of so many parameters.

    6·N FLOPs a token with gradient and 2·N without; a leading-order estimate, without attention's own share,
    and too high by up to a half for LoRA, whose frozen weights take no gradient of their own.
    """
    log = curve.log[:budget]
    trained, read, examples = (
        _total(log, name) if len(log) == budget else math.nan for name in ("tokens", "tokens_read", "examples")
    )
    return _cost(budget, examples, trained, read, parameters, price)


def search_costs(evidence: Evidence) -> tuple[SearchCost, ...]:
    """What each search for an attack on the model under audit took."""
    parameters, price = evidence.subject.facts.get("parameters", math.nan), evidence.criteria.price
    return tuple(
        SearchCost(one, _cost(one.steps, one.examples, one.trained, one.read, parameters, price))
        for one in evidence.searches
    )


def _cost(steps: int, examples: float, trained: float, read: float, parameters: float, price: Price) -> Cost:
    flops = parameters * (TRAINED * trained + READ * read)
    return Cost(steps, examples, trained + read, flops, price.of(flops))


def costs(evidence: Evidence) -> Mapping[str, Broken]:
    """To break the model under audit (``subject``) and the ``undefended`` one, each at the attacker's best rate.

    Both under the attack that is worst for the model under audit; of several seeds, that of the median run.
    Nothing if no attack counts.
    """
    subject, undefended = evidence.subject, evidence.undefended
    counting, price = evidence.counting(subject), evidence.criteria.price
    if not counting:
        return {}
    worst = evidence.worst(counting)
    found = {"subject": to_break(subject, worst, price)}
    if twins := evidence.same_attack_undefended(worst):
        found["undefended"] = to_break(undefended, evidence.worst(twins), price)
    return found


def to_break(of: Measured, runs: AttackRuns, price: Price) -> Broken:
    """What the run of median length cost until it broke the model, or in all if it did not."""
    median = next(curve for curve in runs.curves if steps_to_break(curve) == runs.steps)
    cost = spent(median, runs.steps.budget, of.facts.get("parameters", math.nan), price)
    return Broken(runs.name, cost, runs.steps.censored)


def _total(log: tuple[Mapping[str, float], ...], name: str) -> float:
    return math.fsum(step.get(name, math.nan) for step in log)


PREFIXES = ((1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def counted(value: float) -> str:
    """Three digits, with the prefix of a power of a thousand."""
    if math.isnan(value):
        return "unknown"
    for size, prefix in PREFIXES:
        if value >= size:
            return f"{value / size:.3g} {prefix}"
    return f"{value:.3g}"
