"""Patcher: safety training under long simulated attacks, each reused for many steps."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from caseharden.attacks.bounded import drawn
from caseharden.attacks.sft import SFT
from caseharden.bilevel.attackers import Attacker, Sequential
from caseharden.bilevel.simulate import Population, SimulatedAttack, simulate
from caseharden.bilevel.watch import Watch
from caseharden.errors import CasehardenError, TrainingFailed
from caseharden.train.gradients import add, cosine, gradient
from caseharden.train.objectives import Imitate, Objective, StayNear
from caseharden.train.optim import Descends, Descent, Keep, snapshot
from caseharden.train.tuner import Counter, Metrics, Run, Tuner

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Patcher(Descends):
    """Trains safety under long simulated attacks, each reused for many steps.

    Wen et al. 2026 (arXiv 2606.07970). The first loop is plain safety fine-tuning. In every other one an
    adversary runs `attack_steps` from θ (one that is `Bounded` its own number), and `defense_steps` follow on
    α·safe(θ+v) + (1−α)·safe(θ), plus `benign` at θ, with its displacement v frozen. The optimizer's state is
    reset each loop; `schedule` spans all of them. docs/methods/patcher.md has the departures from the paper.
    """

    adversaries: tuple[Tuner, ...] = (SFT(lr=1e-4),)
    safe: Objective = field(default_factory=lambda: Imitate({"refusal": 2.0, "benign": 2.0, "contrast": 1.0}, 20))
    benign: Objective | None = field(default_factory=lambda: StayNear({"benign": 2.0, "contrast": 1.0}))
    alpha: float = 0.5
    loops: int = 32
    attack_steps: int = 60
    defense_steps: int = 15
    vectors: int = 1
    attacker: Attacker = field(default_factory=Sequential)
    lr: float = 1e-4
    random_vector: bool = False
    watch: Watch | None = None
    keep: Keep = "device"
    knobs: ClassVar = ("keep",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.adversaries or min(self.loops, self.attack_steps, self.defense_steps, self.vectors) < 1:
            raise CasehardenError(
                "patcher needs at least one adversary, loop, attack step, defense step and vector."
            )

    @property
    def max_steps(self) -> int:
        """Defense steps of all loops together."""
        return self.loops * self.defense_steps

    @property
    def max_age(self) -> int | None:
        """Steps after its launch for which an attack is used."""
        rounds = self.attacker.max_rounds
        return None if rounds is None else rounds * self.defense_steps

    def steps(self, run: Run) -> Iterator[Metrics]:
        safe = self.safe.prepare(run)
        benign = self.benign.prepare(run) if self.benign else None
        parameters = run.trainable()
        descent = run.track("descent", Descent(self, parameters, run.lm.memory))
        population = run.track("population", Population(self.vectors, run.lm.device, self.keep))
        attacked_steps = run.track("attacked_steps", Counter())
        theta: list[Tensor] = []  # where θ is kept while the parameters are θ+v
        with self.attacker.attacks(self, run) as new_attacks:
            for step in run.range(self.max_steps):
                loop, within = divmod(step, self.defense_steps)
                if within == 0:
                    descent.forget()
                    theta = []  # an attack has a copy of its own
                if self.alpha > 0 and loop > 0:  # loop 0 is plain safety fine-tuning
                    population.add(*new_attacks(step))
                attack = population.draw(run.seed_for("draw", step), step, self.max_age)
                metrics: Metrics = {}
                metrics["loss"], g = gradient(safe, step, parameters)  # ∇ L_safe(θ)
                if attack:
                    attacked_steps.value += 1
                    theta = theta or snapshot(parameters, self.keep)
                    with attack.vector.applied(parameters, theta):  # ∇ L_safe(θ+v) on the same batch, v frozen
                        metrics["attacked"], g_v = gradient(safe, step, parameters)
                    metrics |= {"cosine": cosine(g, g_v), "vector_norm": attack.vector.norm}
                    metrics |= {"staleness": float(step - attack.launched)} | attack.metrics
                    torch._foreach_mul_(g, 1 - self.alpha)
                    add(g, g_v, self.alpha)
                    del g_v
                elif self.alpha > 0 and loop > 1 and within == 0:
                    log.warning("step %d has no attack to meet: none has come in, or all are too old", step)
                if benign:
                    add(g, gradient(benign, step, parameters)[1])
                yield metrics | descent.step(g)
        if self.alpha > 0 and self.loops > 1 and attacked_steps.value == 0:
            raise TrainingFailed(
                "no step of patcher met a simulated attack: this was safety fine-tuning. Raise loops."
            )

    def attack(self, run: Run, launched: int) -> SimulatedAttack:
        """Simulate one attack on the θ of step `launched`, by an adversary drawn for it; or the random control."""
        adversary, length = drawn(self.adversaries, run.seed_for("adversary", launched), self.attack_steps)
        watch, number = self.watch, launched // self.defense_steps
        observe = (lambda adversary_run: watch.observe(number, adversary_run)) if watch else None
        found = simulate(run, launched, adversary, length, keep=self.keep, observe=observe)
        if self.random_vector:
            found.vector = found.vector.random_like(run.seed_for("random", launched))
        return found
