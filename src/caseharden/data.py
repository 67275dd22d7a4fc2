"""What tuners and measures read: examples, the pools of a domain, and the streams drawn from them."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Protocol

from caseharden.errors import CasehardenError, nearest

Role = Literal["defender", "attacker", "evaluator"]
ROLES: tuple[Role, ...] = ("defender", "attacker", "evaluator")


@dataclass(frozen=True)
class Example:
    """One prompt with, where there is one, the completion to learn and the answer to check against.

    `answer` is what an exact verifier looks for, or the right one of `choices` where there are choices;
    `topic` the kind of harm or task it belongs to. Examples of one `group` speak of the same thing: where a
    pool is parted so that some of it is held out, a group stays whole. `prefix` is how the answer begins
    already: `completion` goes on from there, and the prefix itself is read but never learned.
    """

    id: str
    prompt: str
    completion: str = ""
    answer: str = ""
    topic: str = ""
    group: str = ""
    choices: tuple[str, ...] = ()
    prefix: str = ""

    @property
    def context(self) -> tuple[str, str]:
        """What the completion follows: the prompt, and how the answer begins."""
        return self.prompt, self.prefix


class Pools(Protocol):
    """Who may read which examples: pools of them by role and name.

    Pools bear the same names for every role, so that one tuner object reads the defender's data when
    a defense simulates it and the attacker's when it is the real thing. Usual names: ``harmful``
    (prompts with complying completions), ``openers`` (affirmative first lines only), ``refusal`` (the
    same prompts with refusals), ``recovery`` (refusals in the middle of a complying answer),
    ``benign``, ``contrast`` (benign prompts that look harmful), and ``task:NAME`` for benign tasks the model
    has not seen.
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


def derive_seed(seed: int, *names: object) -> int:
    """A 63-bit seed for one purpose, independent of every other purpose under the same `seed`."""
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class Stream:
    """An endless, shuffled mixture of pools; batch `n` is a pure function of the seed and `n`.

    Being pure, it needs no state to resume. Every batch has `batch_size` examples, each drawn from the
    pool that is furthest behind its weight's share. Each pool is gone through once, in a fresh order,
    before any of its examples comes again.
    """

    def __init__(
        self, pools: Mapping[str, Sequence[Example]], weights: Mapping[str, float], batch_size: int, seed: int
    ) -> None:
        if batch_size < 1 or not weights or any(weight <= 0 for weight in weights.values()):
            raise CasehardenError(
                f"a data mix needs positive weights and a batch size of at least 1, "
                f"not {dict(weights)} and {batch_size}."
            )
        total = sum(weights.values())
        self.pools = pools
        self.shares = {name: weight / total for name, weight in weights.items()}
        self.batch_size = batch_size
        self.seed = seed
        self._drawn: list[dict[str, int]] = [dict.fromkeys(weights, 0)]  # from each pool, before batch n
        self._order = lru_cache(maxsize=2 * len(weights))(self._shuffled)

    def __getitem__(self, n: int) -> list[Example]:
        """Batch `n` (from 0)."""
        while len(self._drawn) <= n + 1:
            drawn = dict(self._drawn[-1])
            for _ in range(self.batch_size):
                so_far = sum(drawn.values()) + 1
                behind = max(self.shares, key=lambda name: self.shares[name] * so_far - drawn[name])
                drawn[behind] += 1
            self._drawn.append(drawn)
        return [
            self._item(name, index)
            for name in self.shares
            for index in range(self._drawn[n][name], self._drawn[n + 1][name])
        ]

    def _item(self, name: str, index: int) -> Example:
        epoch, place = divmod(index, len(self.pools[name]))
        return self.pools[name][self._order(name, epoch)[place]]

    def _shuffled(self, name: str, epoch: int) -> list[int]:
        order = list(range(len(self.pools[name])))
        random.Random(derive_seed(self.seed, "stream", name, epoch)).shuffle(order)
        return order
