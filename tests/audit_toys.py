"""Small models of an audit, made up of curves that break when a test says so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from caseharden.audit.evidence import Criteria, Evidence, Measured
from caseharden.records.results import BETTER, Answers, Curve, Point, Traits
from caseharden.records.statistics import reading

BUDGETS = (0, 1, 2, 5, 10, 20, 50, 100)
LOOKS = (0, 10, 20, 30, 35, 40, 45, 50, 55, 60, 70, 80, 100)
"""Budgets of benign_runs: fine enough that a ratio of 1.5 can be told from 1."""
N = 200
TERMS = Criteria()


def answers(share: float, n: int = N, topics: Sequence[str] = ("venom", "snare"), skip: int = 0) -> Answers:
    """`n` answers of which the first `share`, after `skip`, score 1; topics in turn."""
    yes = round(share * n)
    scores = [float(skip <= i < skip + yes) for i in range(n)]
    items = tuple(f"q{i}" for i in range(n))
    return Answers(items, tuple(topics[i % len(topics)] for i in range(n)), tuple(scores), items)


def point(budget: int, **shares: float) -> Point:
    found = {name: answers(share) for name, share in shares.items()}
    return Point(budget, {name: reading(a.scores, a.groups, judge="verifier") for name, a in found.items()}, found)


def curve(
    breaks: int | None,
    *,
    attack: str = "sft",
    fields: Mapping[str, Any] | None = None,
    seed: int = 0,
    before: float = 0.0,
    after: float = 0.9,
    utility: float = 0.97,
    budgets: Sequence[int] = BUDGETS,
    watched: str = "harm",
    **others: Any,
) -> Curve:
    """A run that breaks at budget `breaks`, or not at all; or that learns there what is `watched`."""
    shares = [after if breaks is not None and budget >= breaks else before for budget in budgets]
    beside = {"utility": utility} if watched == "harm" else {}
    points = tuple(point(b, **{watched: s}, **beside) for b, s in zip(budgets, shares, strict=True))
    censored = budgets[-1] if breaks is None else None
    told = traits(fields or {})
    return Curve(
        "m", "d", attack, fields or {}, seed, breaks, censored, points, traits=told, watched=watched, **others
    )


def traits(fields: Mapping[str, Any], *judges: str) -> Traits:
    """What an attack with these fields says of them, if they are called as those of this package's attacks."""
    bounds = {name: fields.get(name) for name in ("n_examples", "lora")}
    return Traits(_without_rates(fields), tuple(_rates(fields)), bounds, tuple(fields.get("data", ())), judges)


def _rates(value: Any) -> Iterator[float]:
    if isinstance(value, Mapping):
        yield from (found for key, inner in value.items() for found in ([inner] if key == "lr" else _rates(inner)))
    elif isinstance(value, list):
        yield from (found for inner in value for found in _rates(inner))


def _without_rates(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_rates(inner) for key, inner in value.items() if key != "lr"}
    return [_without_rates(inner) for inner in value] if isinstance(value, list) else value


def measured(
    name: str,
    breaks: Sequence[int | None],
    *,
    learns: Sequence[int | None] = (50, 50, 50),
    utility: float = 0.97,
    over_refusal: float = 0.0,
    harm: float = 0.0,
    **others: Any,
) -> Measured:
    """A model attacked at two learning rates with one run for each of `breaks`, the second rate never breaking."""
    data = {"data": {"task:glossary": 1.0}}
    first = [
        curve(b, fields={"lr": 1e-4}, seed=seed, utility=utility, before=harm, log=falling())
        for seed, b in enumerate(breaks)
    ]
    return Measured(
        name=name,
        released=point(0, harm=harm, utility=utility, over_refusal=over_refusal),
        curves=tuple(first),
        benign_runs=tuple(
            curve(b, fields={**data, "lr": 1e-3}, seed=seed, budgets=LOOKS, watched="success")
            for seed, b in enumerate(learns)
        ),
        **others,
    )


def falling(steps: int = 40) -> tuple[dict[str, float], ...]:
    """A log whose loss falls from 2 to 0.1."""
    return tuple({"loss": 2.0 - 1.9 * i / (steps - 1), "grad_norm": 1.0} for i in range(steps))


def evidence(subject: Measured, **changes: Any) -> Evidence:
    """`subject` beside controls that stand as they must."""
    given: dict[str, Any] = {
        "subject": subject,
        "controls": changes.get("controls")
        or {
            "undefended": measured("base", [1, 1, 2]),
            "known_broken": measured("safety", [1, 2, 1]),
            "dead": measured("dead", [None] * 3, learns=[None] * 3, utility=0.0),
            "never_learned": measured("ceiling", [None] * 3),
        },
        "readings": 1 + len(subject.curves) * (len(BUDGETS) - 1),
        "criteria": TERMS,
        "better": {**BETTER, "over_refusal": "lower", "bystander": "higher", "bystander:other": "higher"},
        "overlaps": 0,
    }
    return Evidence(**{**given, **changes})
