"""Simulate an attack from θ, and keep the newest few."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from caseharden.bilevel.excursion import Keep, excursion, path
from caseharden.bilevel.vector import AttackVector
from caseharden.train.optim import snapshot
from caseharden.train.tuner import Metrics, Run, Tuner


@dataclass
class Attack:
    """A simulated attack that is over: the defense's step at which it set out, where it got, what it reports."""

    launched: int
    vector: AttackVector
    metrics: Metrics


def simulate(
    run: Run,
    launched: int,
    adversary: Tuner,
    length: int,
    *,
    keep: Keep = "device",
    look: Callable[[Run], Metrics] | None = None,
) -> Attack:
    """Let `adversary` run for `length` steps from θ and come back: v, its last loss, and what `look` saw there."""
    parameters = list(run.lm.model.parameters())
    start = snapshot(parameters)
    with excursion(run, launched, keep=keep) as there:
        for _, metrics in path(there, adversary, length, [length]):
            found = {"attack_loss": metrics["loss"]} | (look(there) if look else {})
            there.finish()  # merges adapters into the parameters, so that v holds what they did
            vector = AttackVector.between(start, parameters)
    return Attack(launched, vector, found)


Arrivals = Callable[[int], Iterable[Attack]]
"""A defender's step, about to be taken, to the attacks that have come in since the last."""


class Simulates(Protocol):
    """A defense that simulates attacks, each from where a stretch of `defense_steps` begins."""

    @property
    def defense_steps(self) -> int: ...

    def attack(self, run: Run, launched: int) -> Attack:
        """Attack `run`'s weights, which are those of step `launched`, and put them back."""
        ...


class Population:
    """The newest attacks, at most `size` of them; the oldest makes room."""

    def __init__(self, size: int, device: torch.device | str = "cpu") -> None:
        self.size = size
        self.device = device
        self.attacks: list[Attack] = []

    def add(self, *attacks: Attack) -> None:
        self.attacks = [*self.attacks, *attacks][-self.size :]

    def draw(self, seed: int, step: int, max_age: int | None = None) -> Attack | None:
        """One of those launched at most `max_age` before `step`, by `seed`; None if there is none."""
        fresh = [attack for attack in self.attacks if max_age is None or step - attack.launched <= max_age]
        return random.Random(seed).choice(fresh) if fresh else None

    def state_dict(self) -> dict[str, Any]:
        return {"attacks": [(a.launched, a.vector.vector, a.metrics) for a in self.attacks]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.attacks = [
            Attack(launched, AttackVector([tensor.to(self.device) for tensor in vector]), metrics)
            for launched, vector, metrics in state["attacks"]
        ]
