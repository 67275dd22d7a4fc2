"""TAR: tamper-resistant safeguards by first-order meta-learning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from caseharden.attacks.bounded import drawn
from caseharden.attacks.sft import SFT
from caseharden.bilevel.excursion import excursion, trajectory
from caseharden.bilevel.watch import Watch
from caseharden.errors import CasehardenError
from caseharden.train.gradients import add, cosine, global_norm, gradient
from caseharden.train.objectives import Imitate, Objective, StayNear
from caseharden.train.optim import Descends, Descent, Keep
from caseharden.train.tuner import Metrics, Run, Tuner


@dataclass(frozen=True)
class TAR(Descends):
    """Trains against short simulated attacks, a new one at each step: first-order meta-learning.

    Tamirisa et al. 2024 (arXiv 2408.00761), Algorithm 1. `tamper` is asked for along the trajectory of an
    adversary, at every `checkpoint_every`-th of its `inner_steps`, with weights that grow as
    exp(`checkpoint_decay`·k) and sum to `tamper_weight`; `retain` at θ. docs/methods/tar.md has the
    departures from the paper.
    """

    adversaries: tuple[Tuner, ...] = (SFT(lr=3e-5), SFT(lr=1e-4), SFT(lr=3e-4))
    tamper: Objective = field(default_factory=lambda: Imitate({"refusal": 2.0, "benign": 2.0, "contrast": 1.0}, 20))
    retain: Objective = field(default_factory=StayNear)
    tamper_weight: float = 1.0
    max_steps: int = 160
    inner_steps: int = 16
    checkpoint_every: int = 4
    checkpoint_decay: float = 0.0625
    lr: float = 2e-4
    watch: Watch | None = None
    keep: Keep = "device"
    knobs: ClassVar = ("keep",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.adversaries or not 1 <= self.checkpoint_every <= self.inner_steps:
            raise CasehardenError(
                "tar needs adversaries, and checkpoint_every from 1 to inner_steps: it would never look at the "
                f"attacked model with {self.checkpoint_every} of {self.inner_steps}."
            )

    def steps(self, run: Run) -> Iterator[Metrics]:
        held_out, theirs = run.split(2)  # an adversary never trains on what is asked of the model it attacks
        tamper, retain = self.tamper.prepare(held_out), self.retain.prepare(run)
        parameters = run.trainable()
        descent = run.track("descent", Descent(self, parameters, run.lm.memory))
        for step in run.range(self.max_steps):
            metrics: Metrics = {}
            adversary, length = drawn(
                self.adversaries, run.seed_for("adversary", step), self.inner_steps
            )  # A_train
            weights = self.checkpoint_weights(length)
            g_TR = [torch.zeros_like(p) for p in parameters]
            with excursion(theirs, step, keep=self.keep) as adversary_run:
                for k, _ in trajectory(adversary_run, adversary, length, weights):
                    metrics[f"tamper_{k}"], g_k = gradient(tamper, step, parameters)
                    add(g_TR, g_k, self.tamper_weight * weights[k])  # ∇ at θ'_k, applied to θ as it is
                    del g_k  # not kept through the adversary's next steps
                if self.watch:
                    metrics |= self.watch.observe(step, adversary_run)
            metrics["loss"], g = gradient(retain, step, parameters)  # ∇ at θ
            metrics |= {"tamper_norm": float(global_norm(g_TR)), "retain_norm": float(global_norm(g))}
            metrics["cosine"] = cosine(g_TR, g)
            add(g, g_TR)
            yield metrics | descent.step(g)
            del g, g_TR  # not kept through the next excursion

    def checkpoint_weights(self, length: int | None = None) -> dict[int, float]:
        """w_k of each checkpoint, by its step, summing to 1: later ones count for more.

        An adversary of another `length` than `inner_steps` is looked at as often, and at its end.
        """
        length = length or self.inner_steps
        number = self.inner_steps // self.checkpoint_every
        ks = sorted(
            {max(1, round(length * self.checkpoint_every * i / self.inner_steps)) for i in range(1, number + 1)}
        )
        raw = torch.exp(self.checkpoint_decay * torch.tensor([float(k) for k in ks]))
        return dict(zip(ks, (raw / raw.sum()).tolist(), strict=True))
