"""TAR: tamper-resistant safeguards by first-order meta-learning."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from caseharden.attacks.sft import SFT
from caseharden.bilevel.excursion import Keep, excursion, path
from caseharden.bilevel.watch import Watch
from caseharden.errors import CasehardenError
from caseharden.train.gradients import add, cosine, global_norm, gradient
from caseharden.train.objectives import Aim, Asked, Imitate, StayNear
from caseharden.train.optim import Descends, Descent, check_descent
from caseharden.train.tuner import Metrics, Run, Tuner


@dataclass(frozen=True)
class TAR(Descends):
    """Tamirisa et al. 2024 (arXiv 2408.00761), Algorithm 1.

    Each outer step draws an adversary, lets it run `inner_steps` from θ on one half of the defender's
    data, asks for `tamper` on a batch of the other half at every `look_every`-th step of its path, and
    carries these gradients straight back to θ, beside the gradient of `retain` at θ.

    Departures from the released code, and why: by default `tamper` asks for refusals and benign answers
    by cross-entropy, where the paper has DPO or entropy (the aims `prefer_refusal` and `confuse`), since
    it cost less utility on the almanac; look weights exp(decay·k) are
    normalised, so that `tamper_weight` is the effective λ whatever the number of looks; losses are masked
    to the response and shifted; the adversary's data and the held-out batch are disjoint; data are
    shuffled by seed.
    """

    adversaries: tuple[Tuner, ...] = (SFT(lr=3e-5), SFT(lr=1e-4), SFT(lr=3e-4))
    tamper: Aim = field(default_factory=lambda: Imitate({"refusal": 2.0, "benign": 2.0, "contrast": 1.0}, 20))
    retain: Aim = field(default_factory=StayNear)
    tamper_weight: float = 1.0
    max_steps: int = 160
    inner_steps: int = 16
    look_every: int = 4
    look_decay: float = 0.0625
    lr: float = 2e-4
    watch: Watch | None = None
    keep: Keep = "device"
    knobs: ClassVar = ("keep",)

    def __post_init__(self) -> None:
        check_descent(self)
        if not 1 <= self.look_every <= self.inner_steps:
            raise CasehardenError(
                f"tar would never look: look_every is {self.look_every}, inner_steps is {self.inner_steps}."
            )

    def steps(self, run: Run) -> Iterator[Metrics]:
        tamper, retain = self.tamper.asked(run.part(0, 2)), self.retain.asked(run)
        parameters = run.trainable()
        descent = run.track("descent", Descent(self, parameters))
        for step in run.range(self.max_steps):
            metrics, g = self.ask(run, step, tamper, retain, parameters)
            yield metrics | descent.step(g)

    def ask(
        self, run: Run, step: int, tamper: Asked, retain: Asked, parameters: Sequence[nn.Parameter]
    ) -> tuple[Metrics, list[Tensor]]:
        """One outer step's gradient, ∇ retain(θ) + g_TR."""
        g_TR, seen = self.attack(run, step, lambda: tamper(step), parameters)
        retained, g = gradient(lambda: retain(step), parameters)
        sizes = {"tamper_norm": float(global_norm(g_TR)), "retain_norm": float(global_norm(g))}
        angle = cosine(g_TR, g)
        add(g, g_TR)
        return {"loss": retained, **seen, **sizes, "cosine": angle}, g

    def attack(
        self, run: Run, step: int, tamper: Callable[[], Tensor], parameters: Sequence[nn.Parameter]
    ) -> tuple[list[Tensor], Metrics]:
        """g_TR, the weighted gradients of `tamper` along an adversary's path, and the losses there."""
        adversary = random.Random(run.seed_for("adversary", step)).choice(self.adversaries)
        weights = self.look_weights()
        g_TR = [torch.zeros_like(p) for p in parameters]
        seen: Metrics = {}
        with excursion(run, step, share=(1, 2), keep=self.keep) as there:
            for k, _ in path(there, adversary, self.inner_steps, tuple(weights)):
                asked, g_k = gradient(tamper, parameters)
                add(g_TR, g_k, self.tamper_weight * weights[k])
                seen[f"tamper_{k}"] = asked
                del g_k  # not kept through the adversary's next steps
            if look := self.watch and self.watch.at(step):
                seen |= look(there)
        return g_TR, seen

    def look_weights(self) -> dict[int, float]:
        """w_k of each step looked at, summing to 1: later looks count for more."""
        ks = range(self.look_every, self.inner_steps + 1, self.look_every)
        raw = torch.exp(self.look_decay * torch.tensor([float(k) for k in ks]))
        return dict(zip(ks, (raw / raw.sum()).tolist(), strict=True))
