"""When simulated attacks are made: in turn with the defender's steps, or in a process of their own beside it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from caseharden.bilevel.asynchronous import Asynchronous
from caseharden.bilevel.simulate import NewAttacks, SimulatesAttacks
from caseharden.train.tuner import Run


@runtime_checkable
class Attacker(Protocol):
    """How a defense gets its simulated attacks. A frozen dataclass."""

    @property
    def max_rounds(self) -> int | None:
        """An attack launched more rounds of `defense_steps` ago than this is not used any more."""
        ...

    def attacks(self, defense: SimulatesAttacks, run: Run) -> AbstractContextManager[NewAttacks]:
        """Simulate `defense`'s attacks on `run` inside the context."""
        ...


@dataclass(frozen=True)
class Sequential:
    """Attack at the beginning of every round of `defense_steps`, while the defender waits."""

    @property
    def max_rounds(self) -> None:
        return None

    @contextmanager
    def attacks(self, defense: SimulatesAttacks, run: Run) -> Iterator[NewAttacks]:
        yield lambda step: [defense.attack(run, step)] if step % defense.defense_steps == 0 else []


TABLE: dict[str, type] = {
    "asynchronous": Asynchronous,
    "sequential": Sequential,
}
"""Attackers, by the name that a spec file gives them."""
