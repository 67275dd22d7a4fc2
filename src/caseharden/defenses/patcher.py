"""Patcher: safety training under a long simulated attack, reused for many steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from caseharden.attacks.sft import SFT
from caseharden.bilevel import AttackVector, Keep, add, excursion, gradient, path
from caseharden.defenses.aims import Aim, Imitate
from caseharden.errors import CasehardenError
from caseharden.optim import check_optimizer, make_optimizer, snapshot, update
from caseharden.tuner import Metrics, Run, Tuner


@dataclass(frozen=True)
class Patcher:
    """Wen et al. 2026 (arXiv 2606.07970), sequential form.

    The first loop is plain safety fine-tuning. Each later loop lets `adversary` run `attack_steps` from
    θ, freezes its displacement v, and takes `defense_steps` on α·L_safe(θ+v) + (1−α)·L_safe(θ), the same
    batch in both terms, plus `benign` at θ. The optimizer's state is reset each loop.

    Departures: a benign term (None gives the released code's form); θ+v is written and θ restored from a
    snapshot, where adding and subtracting would drift; `random_vector` replaces v by a random one of the
    same norm, the control that the paper lacks.
    """

    adversary: Tuner = field(default_factory=lambda: SFT(lr=1e-4))
    safe: Aim = field(default_factory=Imitate)
    benign: Aim | None = field(default_factory=lambda: Imitate({"benign": 2.0, "contrast": 1.0}))
    alpha: float = 0.5
    loops: int = 8
    attack_steps: int = 60
    defense_steps: int = 60
    lr: float = 1e-4
    optimizer: str = "adamw"
    clip: float | None = 1.0
    random_vector: bool = False
    keep: Keep = "device"

    def __post_init__(self) -> None:
        check_optimizer(self.optimizer)
        if min(self.loops, self.attack_steps, self.defense_steps) < 1:
            raise CasehardenError("patcher needs at least one loop, attack step and defense step.")

    @property
    def max_steps(self) -> int:
        """Defense steps of all loops together."""
        return self.loops * self.defense_steps

    def steps(self, run: Run) -> Iterator[Metrics]:
        safe = self.safe.asked(run)
        benign = self.benign.asked(run) if self.benign else None
        parameters = run.trainable()
        buffer = snapshot(parameters)
        vector = run.track("vector", AttackVector([torch.zeros_like(p) for p in parameters]))
        optimizer = run.track("optimizer", make_optimizer(self.optimizer, parameters, self.lr))
        for step in run.range(self.max_steps):
            loop, within = divmod(step, self.defense_steps)
            if within == 0 and loop > 0 and self.alpha > 0:
                vector.vector = self.attack(run, loop, parameters).vector
            if within == 0:
                optimizer.load_state_dict(make_optimizer(self.optimizer, parameters, self.lr).state_dict())
            alpha = self.alpha if loop > 0 else 0.0
            here, g = gradient(lambda: safe(step), parameters)  # noqa: B023
            there = 0.0
            if alpha > 0:
                with vector.applied(parameters, buffer):
                    there, g_v = gradient(lambda: safe(step), parameters)  # noqa: B023
                g = [(1 - alpha) * a + alpha * b for a, b in zip(g, g_v, strict=True)]
            if benign is not None:
                add(g, gradient(lambda: benign(step), parameters)[1])  # noqa: B023
            for parameter, total in zip(parameters, g, strict=True):
                parameter.grad = total
            norm = update(optimizer, self.clip)
            yield {"loss": here, "attacked": there, "grad_norm": norm, "vector_norm": vector.norm}

    def attack(self, run: Run, loop: int, parameters: list[torch.nn.Parameter]) -> AttackVector:
        """v = SFT_attack(θ) − θ, or the control of the same norm."""
        start = snapshot(parameters)
        with excursion(run, loop, keep=self.keep) as there:
            for _ in path(there, self.adversary, self.attack_steps, [self.attack_steps]):
                there.finish()  # merges adapters into the parameters, so that v holds what they did
                found = AttackVector.between(start, parameters)
        return found.random_like(run.seed_for("random", loop)) if self.random_vector else found
