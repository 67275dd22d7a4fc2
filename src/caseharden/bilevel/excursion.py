"""The bilevel core: simulate an adversary from θ, look at what it found, come back to θ bit for bit.

The outer problem is the defender's, over the released weights θ; the inner one is the adversary's, which
starts at θ and ends at some θ'. The two are joined by a straight-through gradient: what is asked of the
model at θ' is differentiated there and applied to θ, as if θ' − θ did not depend on θ (first-order
meta-learning, as in Tamirisa et al. 2024). TAR and Patcher differ only in how long the adversary runs,
where along its path they look, how often they simulate it anew, and what they ask for there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Literal

import torch
from peft import PeftModel
from torch import nn

from caseharden.errors import TrainingFailed
from caseharden.train.optim import restore, snapshot
from caseharden.train.tuner import Metrics, Run, Tuner

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
