"""TAR: tamper-resistant safeguards by first-order meta-learning."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from caseharden.attacks.sft import SFT
from caseharden.bilevel import Keep, add, cosine, excursion, gradient, path
from caseharden.defenses.aims import Aim, Imitate, StayNear
from caseharden.defenses.watch import Watch
from caseharden.errors import CasehardenError
from caseharden.losses import global_norm
from caseharden.optim import check_optimizer, check_schedule, make_optimizer, make_schedule, update
from caseharden.tuner import Metrics, Run, Tuner


@dataclass(frozen=True)
class TAR:
    """Tamirisa et al. 2024 (arXiv 2408.00761), Algorithm 1.

    Each outer step draws an adversary, lets it run `inner_steps` from θ on one half of the defender's
    data, asks for `tamper` on a batch of the other half at every `look_every`-th step of its path, and
    carries these gradients straight back to θ, beside the gradient of `retain` at θ.

    Departures from the released code, and why: by default `tamper` asks for refusals and benign answers
    by cross-entropy, where the paper has DPO or entropy (the aims `prefer_refusal` and `confuse`), since
    asked for refusals alone the model comes to refuse whatever is asked; look weights exp(decay·k) are
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
    optimizer: str = "adamw"
    schedule: str = "constant"
    warmup: int = 0
    clip: float | None = 1.0
    watch: Watch | None = None
    keep: Keep = "device"

    def __post_init__(self) -> None:
        check_optimizer(self.optimizer)
        check_schedule(self.schedule, self.max_steps)
        if not 1 <= self.look_every <= self.inner_steps:
            raise CasehardenError(
                f"tar would never look: look_every is {self.look_every}, inner_steps is {self.inner_steps}."
            )

    def steps(self, run: Run) -> Iterator[Metrics]:
        tamper, retain = self.tamper.asked(run.part(0, 2)), self.retain.asked(run)
        parameters = run.trainable()
        optimizer = make_optimizer(self.optimizer, parameters, self.lr)
        schedule = make_schedule(self.schedule, optimizer, self.warmup, self.max_steps)
        run.track("optimizer", optimizer)
        run.track("schedule", schedule)
        weights = self.look_weights()
        for step in run.range(self.max_steps):
            adversary = random.Random(run.seed_for("adversary", step)).choice(self.adversaries)
            g_TR = [torch.zeros_like(p) for p in parameters]
            looks: list[float] = []
            seen: Metrics = {}
            with excursion(run, step, share=(1, 2), keep=self.keep) as there:
                for k, _ in path(there, adversary, self.inner_steps, tuple(weights)):
                    asked, g_k = gradient(lambda: tamper(step), parameters)  # noqa: B023
                    add(g_TR, g_k, self.tamper_weight * weights[k])
                    looks.append(asked)
                if look := self.watch and self.watch.at(step):
                    seen = look(there)
            retained, g = gradient(lambda: retain(step), parameters)  # noqa: B023
            angle, sizes = cosine(g_TR, g), (float(global_norm(g_TR)), float(global_norm(g)))
            add(g, g_TR)
            for parameter, total in zip(parameters, g, strict=True):
                parameter.grad = total
            norm = update(optimizer, self.clip)
            schedule.step()
            yield {
                "loss": retained,
                **{f"tamper_{k}": asked for k, asked in zip(weights, looks, strict=True)},
                "tamper_norm": sizes[0],
                "retain_norm": sizes[1],
                "cosine": angle,
                "grad_norm": norm,
                **seen,
            }

    def look_weights(self) -> dict[int, float]:
        """w_k of each step looked at, summing to 1: later looks count for more."""
        ks = range(self.look_every, self.inner_steps + 1, self.look_every)
        raw = torch.exp(self.look_decay * torch.tensor([float(k) for k in ks]))
        return dict(zip(ks, (raw / raw.sum()).tolist(), strict=True))
