"""Fit the attacks of a suite to what is audited: name the baseline in them, and leave out what cannot be run."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import replace
from typing import Any

from caseharden.domains.attacker_only import AttackerOnly
from caseharden.domains.domain import Domain
from caseharden.errors import CasehardenError
from caseharden.study.plan import named_models, traits
from caseharden.suites.suite import Stage
from caseharden.train.tuner import NamesModels, Tuner

BASELINE = "baseline"
"""What an attack in a suite calls the undefended model, which the suite does not know."""


def fitted(stage: Stage, domain: Domain, baseline: str | None) -> tuple[Stage, Counter[str]]:
    """The stage with what of it can be run, and for each reason how many attacks and searches cannot.

    An attack reads pools, which `domain` may not have, and may read the weights of `baseline`, which are secret
    if that is None. A search needs pools of the attacker's own to ask for harm and utility (see `AttackerOnly`).
    """
    kept: list[Tuner] = []
    left_out: Counter[str] = Counter()
    pools = domain.pools("attacker")
    for attack, its in zip(stage.attacks, traits(stage.attacks), strict=True):
        lacking = sorted({*its.pools} - {*pools})
        if lacking:
            left_out[f"the domain has no pool {', '.join(lacking)}"] += 1
        elif baseline is None and BASELINE in named_models(attack):
            left_out["the baseline's weights are secret"] += 1
        else:
            kept.append(_named(attack, baseline))
    searches = stage.searches if stage.searches and _can_be_searched(domain) else ()
    if lost := len(stage.searches) - len(searches):
        left_out["the attacker has no pools of its own to steer a search by"] += lost
    return replace(stage, attacks=tuple(kept), searches=searches), left_out


def _can_be_searched(domain: Domain) -> bool:
    try:
        AttackerOnly(domain).measures()
    except CasehardenError:
        return False
    return True


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
    return replace(thing, **changed) if changed else thing
