"""Who waits for whom: a defender that stops for each simulated attack, or an attacker at work beside it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from caseharden.bilevel.abreast import Abreast
from caseharden.bilevel.simulate import Arrivals, Simulates
from caseharden.train.tuner import Run


@runtime_checkable
class Attacker(Protocol):
    """How a defense comes by its simulated attacks. A frozen dataclass."""

    @property
    def max_stretches(self) -> int | None:
        """An attack launched more stretches of `defense_steps` ago than this is not used any more."""
        ...

    def at_work(self, defense: Simulates, run: Run) -> AbstractContextManager[Arrivals]: ...


@dataclass(frozen=True)
class InTurn:
    """The defender waits: one attack at the beginning of every stretch of `defense_steps`."""

    @property
    def max_stretches(self) -> None:
        return None

    @contextmanager
    def at_work(self, defense: Simulates, run: Run) -> Iterator[Arrivals]:
        yield lambda step: [defense.attack(run, step)] if step % defense.defense_steps == 0 else []


TABLE: dict[str, type] = {
    "abreast": Abreast,
    "in_turn": InTurn,
}
"""Attackers, by the name that a spec file gives them."""
