"""The bilevel core: simulate an adversary from θ, look at what it found, come back to θ bit for bit.

The outer problem is the defender's, over the released weights θ; the inner one is the adversary's, which
starts at θ and ends at some θ'. The two are joined by a straight-through gradient: what is asked of the
model at θ' is differentiated there and applied to θ, as if θ' − θ did not depend on θ (first-order
meta-learning, as in Tamirisa et al. 2024). TAR and Patcher differ only in how long the adversary runs,
where along its path they look, how often they simulate it anew, and what they ask for there.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, Protocol

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from caseharden.errors import TrainingFailed
from caseharden.losses import global_norm
from caseharden.optim import restore, snapshot
from caseharden.tuner import Metrics, Run, Tuner

Keep = Literal["device", "cpu"]
"""Where copies of the parameters are kept: with the model, or on the CPU to spare its memory."""


@contextmanager
def excursion(
    run: Run, *purpose: object, share: tuple[int, int] | None = None, keep: Keep = "device"
) -> Iterator[Run]:
    """A child run on the same weights, data and role, from which `run` comes back to θ bit for bit.

    The adversary in it sees `share` of the pools (`run`'s own if None), so that the rest is held out from
    it. Gradients and trainable flags come back as well, and adapters put in by the child are taken out.
    Costs one copy of the parameters.
    """
    model = run.lm.model
    parameters = list(model.parameters())
    kept = snapshot(parameters, torch.device("cpu") if keep == "cpu" else None)
    gradients = [p.grad for p in parameters]
    trainable = [p.requires_grad for p in parameters]
    for parameter in parameters:
        parameter.grad = None
    try:
        yield Run(run.lm, run.domain, run.role, run.seed_for("excursion", *purpose), share=share or run.share)
    finally:
        if isinstance(run.lm.model, PeftModel):
            run.lm.model = run.lm.model.unload()
        restore(parameters, kept)
        for parameter, gradient, flag in zip(parameters, gradients, trainable, strict=True):
            parameter.grad = gradient
            parameter.requires_grad_(flag)


def path(there: Run, adversary: Tuner, length: int, looks: Sequence[int]) -> Iterator[tuple[int, Metrics]]:
    """Run `adversary` for `length` steps of an excursion; stop after each step number in `looks`.

    Yields the step and the adversary's own metrics there. The weights are θ' while the caller has it, and
    nothing of the adversary's (adapters, say) takes a gradient from what the caller asks.
    Raises `TrainingFailed` if the adversary ends before, since looks and their weights would be lost.
    """
    wanted = set(looks)
    for metrics in islice(there.drive(adversary), length):
        if there.step in wanted:
            with _frozen(there.lm.model):
                yield there.step, metrics
    if there.step < length:
        raise TrainingFailed(f"{adversary} ended at step {there.step} of {length}. Leave out its max_steps.")


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    trained = [p for p in model.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def gradient(ask: Callable[[], Tensor], parameters: Sequence[nn.Parameter]) -> tuple[float, list[Tensor]]:
    """A loss and its gradient at the weights as they stand, with respect to `parameters` of θ.

    Works under an adversary's adapters too: they shift the effective weights, and the straight-through
    gradient passes to the frozen ones below. Taken with `backward`, since sharded parameters (FSDP2)
    get their gradients no other way; gradients and flags that the parameters had before come back.
    """
    kept = [(p.grad, p.requires_grad) for p in parameters]
    for parameter in parameters:
        parameter.grad = None
        parameter.requires_grad_(True)
    loss = ask()
    loss.backward()  # type: ignore[no-untyped-call]
    found = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    for parameter, (before, flag) in zip(parameters, kept, strict=True):
        parameter.grad = before
        parameter.requires_grad_(flag)
    return float(loss.detach()), found


def add(total: Sequence[Tensor], terms: Sequence[Tensor], weight: float = 1.0) -> None:
    """total += weight · terms, in place, over all parameters."""
    torch._foreach_add_(list(total), list(terms), alpha=weight)


def cosine(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    """Cosine of the angle between two gradients; 0 if either is zero."""
    products = [(a * b).sum() for a, b in zip(left, right, strict=True)]
    dot = sum(float(p.full_tensor() if isinstance(p, DTensor) else p) for p in products)
    norms = float(global_norm(list(left)) * global_norm(list(right)))
    return dot / norms if norms > 0 else 0.0


@dataclass
class AttackVector:
    """v = θ' − θ: where an adversary ended, seen from the weights that it was given or from others.

    Applied by writing θ + v and put back from a snapshot, never by adding and subtracting, which drifts.
    """

    vector: list[Tensor]

    @classmethod
    @torch.no_grad()
    def between(cls, start: Sequence[Tensor], end: Sequence[Tensor]) -> AttackVector:
        return cls([(b - a.to(b.device)).clone() for a, b in zip(start, end, strict=True)])

    @property
    def norm(self) -> float:
        return float(global_norm(self.vector))

    @torch.no_grad()
    def random_like(self, seed: int) -> AttackVector:
        """A Gaussian direction with the same norm in every parameter tensor: the control for `v`."""
        generator = torch.Generator(self.vector[0].device).manual_seed(seed)
        drawn = [torch.randn(v.shape, generator=generator, device=v.device) for v in self.vector]
        return AttackVector([z * (v.norm() / z.norm()) for z, v in zip(drawn, self.vector, strict=True)])

    @contextmanager
    def applied(self, parameters: Sequence[nn.Parameter], kept: Sequence[Tensor]) -> Iterator[None]:
        """θ + v inside, θ bit for bit after. `kept` is a buffer of θ's shape that θ is kept in meanwhile."""
        restore(kept, parameters)
        with torch.no_grad():
            torch._foreach_add_(list(parameters), self.vector)
        try:
            yield
        finally:
            restore(parameters, kept)


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
