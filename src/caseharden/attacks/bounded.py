"""An attack of a length of its own, among others: how a defense is told what to train against, and for how long."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

from caseharden.errors import CasehardenError
from caseharden.train.tuner import Metrics, Run, Tuner


@dataclass(frozen=True)
class Bounded:
    """Runs `attack` for a number of steps that is drawn: `steps_between` are the least and the most.

    Among the adversaries of a defense it is drawn `weight` times as often as one of weight 1.
    """

    attack: Tuner
    steps_between: tuple[int, int]
    weight: float = 1.0
    rates: ClassVar[tuple[str, ...]] = ()
    bounds: ClassVar[tuple[str, ...]] = ()
    mixes: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        least, most = self.steps_between
        if not 1 <= least <= most:
            raise CasehardenError(
                f"steps_between is the least number of steps, from 1, and the most, not {least}, {most}."
            )
        if not self.weight > 0:
            raise CasehardenError(f"weight={self.weight} must be above 0.")

    @property
    def max_steps(self) -> int:
        """The most steps that may be drawn."""
        return self.steps_between[1]

    def steps(self, run: Run) -> Iterator[Metrics]:
        return islice(self.attack.steps(run), self.length(run.seed_for("length")) - run.step)

    def length(self, seed: int) -> int:
        """The number of steps that `seed` draws."""
        return random.Random(seed).randint(*self.steps_between)


def drawn(adversaries: Sequence[Tuner], seed: int, length: int) -> tuple[Tuner, int]:
    """One of the adversaries, by weight, and how many steps it runs: `length` unless it has a length of its own."""
    weights = [one.weight if isinstance(one, Bounded) else 1.0 for one in adversaries]
    dice = random.Random(seed)
    found = dice.choice(adversaries) if len({*weights}) == 1 else dice.choices(adversaries, weights)[0]
    return (found.attack, found.length(seed)) if isinstance(found, Bounded) else (found, length)
