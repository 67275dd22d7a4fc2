"""Simulate an attack from θ, and keep the newest few."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from caseharden.bilevel.excursion import excursion, trajectory
from caseharden.bilevel.vector import AttackVector
from caseharden.train.optim import Keep, keeping, snapshot
from caseharden.train.tuner import Metrics, Run, Tuner


@dataclass
class SimulatedAttack:
    """A simulated attack that has ended: the defense's step it was launched at, its displacement v, its metrics."""

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
    observe: Callable[[Run], Metrics] | None = None,
) -> SimulatedAttack:
    """Run `adversary` for `length` steps from θ and return to θ.

    Gives v = θ' − θ, with the adversary's last loss and what `observe` reports at θ'.
    """
    parameters = list(run.lm.model.parameters())
    start = snapshot(parameters, keep)
    with excursion(run, launched, kept=start) as adversary_run:
        for _, metrics in trajectory(adversary_run, adversary, length, [length]):
            found = {"attack_loss": metrics["loss"]} | (observe(adversary_run) if observe else {})
            adversary_run.finish()  # merges adapters into the parameters, so that v holds what they did
            with keeping("device"):  # until a `Population` takes it elsewhere
                vector = AttackVector.between(start, parameters)
    return SimulatedAttack(launched, vector, found)


NewAttacks = Callable[[int], Iterable[SimulatedAttack]]
"""From the number of the defender's next step to the attacks that have ended since the last."""


class SimulatesAttacks(Protocol):
    """A defense that simulates attacks, each from the θ at the beginning of a round of `defense_steps`."""

    @property
    def defense_steps(self) -> int: ...

    def attack(self, run: Run, launched: int) -> SimulatedAttack:
        """Attack `run`'s weights, which are those of step `launched`, and put them back."""
        ...


class Population:
    """The newest attacks, at most `size` of them; the oldest makes room. Their vectors lie where `keep` says."""

    def __init__(self, size: int, device: torch.device | str = "cpu", keep: Keep = "device") -> None:
        self.size = size
        self.device = device
        self.keep = keep
        self.attacks: list[SimulatedAttack] = []

    def add(self, *attacks: SimulatedAttack) -> None:
        self.attacks = [*self.attacks, *map(self._kept, attacks)][-self.size :]

    def _kept(self, attack: SimulatedAttack) -> SimulatedAttack:
        if self.keep == "device":
            attack.vector = AttackVector([tensor.to(self.device) for tensor in attack.vector.vector])
        else:
            attack.vector = AttackVector(snapshot(attack.vector.vector, self.keep))
        return attack

    def draw(self, seed: int, step: int, max_age: int | None = None) -> SimulatedAttack | None:
        """One of those launched at most `max_age` before `step`, by `seed`; None if there is none."""
        fresh = [attack for attack in self.attacks if max_age is None or step - attack.launched <= max_age]
        return random.Random(seed).choice(fresh) if fresh else None

    def state_dict(self) -> dict[str, Any]:
        return {"attacks": [(a.launched, a.vector.vector, a.metrics) for a in self.attacks]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.attacks = []
        self.add(*(SimulatedAttack(at, AttackVector(vector), metrics) for at, vector, metrics in state["attacks"]))
