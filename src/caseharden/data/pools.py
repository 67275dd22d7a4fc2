"""Pools: who may read which examples."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from caseharden.data.example import Example
from caseharden.errors import CasehardenError, nearest

Role = Literal["defender", "attacker", "evaluator"]


ROLES: tuple[Role, ...] = ("defender", "attacker", "evaluator")


class Pools(Protocol):
    """Who may read which examples: pools of them by role and name.

    Pools bear the same names for every role, so that one tuner object reads the defender's data when
    a defense simulates it and the attacker's when it is the real thing. Usual names: ``harmful``
    (prompts with complying completions), ``openers`` (affirmative first lines only), ``refusal`` (the
    same prompts with refusals), ``recovery`` (refusals in the middle of a complying answer), ``wrapped``
    (harmful prompts within other words, with complying completions), ``benign``, ``contrast`` (benign prompts
    that look harmful), and ``task:NAME`` for benign tasks the model has not seen.
    """

    @property
    def name(self) -> str: ...

    def pools(self, role: Role) -> Mapping[str, Sequence[Example]]:
        """Every pool that `role` may read, by name. No example is in two roles' harmful pools."""
        ...


def pool(domain: Pools, role: Role, name: str) -> Sequence[Example]:
    """One pool of `domain` for `role`; an error names the nearest if there is none, or if it is empty."""
    pools = domain.pools(role)
    if name not in pools:
        raise CasehardenError(f"domain {domain.name!r} has no pool {name!r} for the {role}.{nearest(name, pools)}")
    if not pools[name]:
        raise CasehardenError(f"pool {name!r} of domain {domain.name!r} is empty for the {role}.")
    return pools[name]


def fingerprint(domain: Pools) -> str:
    """SHA-256 over every example of every role: changes whenever the data do."""
    digest = hashlib.sha256()
    for role in ROLES:
        for name, examples in sorted(domain.pools(role).items()):
            digest.update(f"\0{role}\0{name}\0".encode())
            for example in examples:
                digest.update(repr(example).encode())
    return digest.hexdigest()
