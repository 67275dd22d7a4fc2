"""Patcher: safety training under long simulated attacks, each reused for many steps."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from caseharden.attacks.sft import SFT
from caseharden.bilevel.attackers import Attacker, InTurn
from caseharden.bilevel.excursion import Keep
from caseharden.bilevel.simulate import Attack, Population, simulate
from caseharden.bilevel.watch import Watch
from caseharden.errors import CasehardenError, TrainingFailed
from caseharden.train.gradients import add, cosine, gradient
from caseharden.train.objectives import Aim, Asked, Imitate, StayNear
from caseharden.train.optim import Descends, Descent, check_descent, snapshot
from caseharden.train.tuner import Counter, Metrics, Run, Tuner

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Patcher(Descends):
    """Wen et al. 2026 (arXiv 2606.07970).

    The first loop is plain safety fine-tuning. From then on an adversary, one of `adversaries`, sets out
    from θ once a loop for `attack_steps`; its displacement v is frozen, and the steps that follow take
    α·L_safe(θ+v) + (1−α)·L_safe(θ), the same batch in both terms, plus `benign` at θ. The optimizer's
    state is reset each loop; the learning rate's `schedule` spans all loops. `attacker` says who waits for
    whom: ``in_turn`` is the paper's sequential form, ``abreast`` its parallel one.

    Departures: a benign term (None gives the released code's form), and benign examples in L_safe, so
    that the attacked model learns what to refuse and not to refuse; θ+v is written and θ restored from a
    snapshot, where adding and subtracting would drift; `vectors` keeps the newest few attacks and draws
    one at each step; `random_vector` replaces v by a random one of the same norm, the control that the
    paper lacks.
    """

    adversaries: tuple[Tuner, ...] = (SFT(lr=1e-4),)
    safe: Aim = field(default_factory=lambda: Imitate({"refusal": 2.0, "benign": 2.0, "contrast": 1.0}, 20))
    benign: Aim | None = field(default_factory=lambda: StayNear({"benign": 2.0, "contrast": 1.0}))
    alpha: float = 0.5
    loops: int = 32
    attack_steps: int = 60
    defense_steps: int = 15
    vectors: int = 1
    attacker: Attacker = field(default_factory=InTurn)
    lr: float = 1e-4
    random_vector: bool = False
    watch: Watch | None = None
    keep: Keep = "device"
    knobs: ClassVar = ("keep",)

    def __post_init__(self) -> None:
        check_descent(self)
        if not self.adversaries or min(self.loops, self.attack_steps, self.defense_steps, self.vectors) < 1:
            raise CasehardenError(
                "patcher needs at least one adversary, loop, attack step, defense step and vector."
            )

    @property
    def max_steps(self) -> int:
        """Defense steps of all loops together."""
        return self.loops * self.defense_steps

    def steps(self, run: Run) -> Iterator[Metrics]:
        safe = self.safe.asked(run)
        benign = self.benign.asked(run) if self.benign else None
        parameters = run.trainable()
        buffer = snapshot(parameters)
        population = run.track("population", Population(self.vectors, run.lm.device))
        descent = run.track("descent", Descent(self, parameters))
        met = run.track("met", Counter())
        stretches = self.attacker.max_stretches
        max_age = None if stretches is None else stretches * self.defense_steps
        with self.attacker.at_work(self, run) as attacks:
            for step in run.range(self.max_steps):
                loop, within = divmod(step, self.defense_steps)
                if within == 0:
                    descent.forget()
                if self.alpha > 0 and loop > 0:
                    population.add(*attacks(step))
                attack = population.draw(run.seed_for("draw", step), step, max_age)
                met.value += attack is not None
                if self.alpha > 0 and attack is None and loop > 1 and within == 0:
                    log.warning("step %d has no attack to meet: none has come in, or all are too old", step)
                metrics, g = self.ask(step, attack, safe, benign, parameters, buffer)
                yield metrics | descent.step(g)
        if self.alpha > 0 and self.loops > 1 and met.value == 0:
            raise TrainingFailed(
                "no step of patcher met a simulated attack: this was safety fine-tuning. Raise loops."
            )

    def ask(
        self,
        step: int,
        attack: Attack | None,
        safe: Asked,
        benign: Asked | None,
        parameters: Sequence[nn.Parameter],
        buffer: Sequence[Tensor],
    ) -> tuple[Metrics, list[Tensor]]:
        """One step's gradient, of α·L_safe(θ+v) + (1−α)·L_safe(θ) + benign(θ)."""
        loss, g = gradient(lambda: safe(step), parameters)
        metrics = {"loss": loss}
        if attack:
            with attack.vector.applied(parameters, buffer):
                metrics["attacked"], g_v = gradient(lambda: safe(step), parameters)
            metrics |= {"cosine": cosine(g, g_v), "vector_norm": attack.vector.norm}
            metrics |= {"staleness": float(step - attack.launched)} | attack.metrics
            torch._foreach_mul_(g, 1 - self.alpha)
            add(g, g_v, self.alpha)
            del g_v
        if benign is not None:
            add(g, gradient(lambda: benign(step), parameters)[1])
        return metrics, g

    def attack(self, run: Run, launched: int) -> Attack:
        """What an adversary, drawn anew for each `launched`, does to θ from there; or the control for it."""
        adversary = random.Random(run.seed_for("adversary", launched)).choice(self.adversaries)
        look = self.watch.at(launched // self.defense_steps) if self.watch else None
        found = simulate(run, launched, adversary, self.attack_steps, keep=self.keep, look=look)
        if self.random_vector:
            found.vector = found.vector.random_like(run.seed_for("random", launched))
        return found
