"""Fit the attacks of a suite to what is audited: name the baseline in them, and leave out what cannot be run."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any

from caseharden.study.plan import named_models, traits
from caseharden.train.tuner import NamesModels, Tuner

BASELINE = "baseline"
"""What an attack in a suite calls the undefended model, which the suite does not know."""


def fitted(
    attacks: Iterable[Tuner], pools: Collection[str], baseline: str | None
) -> tuple[tuple[Tuner, ...], Counter[str]]:
    """The attacks that can be run, and for each reason how many cannot.

    An attack reads pools, which a domain may not have, and may read the weights of `baseline`, which are secret
    if that is None.
    """
    kept: list[Tuner] = []
    left_out: Counter[str] = Counter()
    for attack in attacks:
        lacking = sorted({*traits(attack, ()).pools} - {*pools})
        if lacking:
            left_out[f"the domain has no pool {', '.join(lacking)}"] += 1
        elif baseline is None and BASELINE in named_models(attack):
            left_out["the baseline's weights are secret"] += 1
        else:
            kept.append(_named(attack, baseline))
    return tuple(kept), left_out


def _named(thing: Any, baseline: str | None) -> Any:
    """`thing` with the baseline's name where a tuner in it names the baseline."""
    if isinstance(thing, tuple):
        named = tuple(_named(one, baseline) for one in thing)
        return thing if all(new is old for new, old in zip(named, thing, strict=True)) else named
    if not dataclasses.is_dataclass(thing) or isinstance(thing, type):
        return thing
    models = thing.other_models if isinstance(thing, NamesModels) else ()
    changed = {}
    for field in dataclasses.fields(thing):
        if field.init:
            value = getattr(thing, field.name)
            new = baseline if field.name in models and value == BASELINE else _named(value, baseline)
            if new is not value:
                changed[field.name] = new
    return dataclasses.replace(thing, **changed) if changed else thing
