"""The bilevel core: run an adversary from θ, stop at checkpoints of its trajectory, return to θ bit for bit.

The outer problem is the defender's, over the released weights θ; the inner one is the adversary's, which
starts at θ and ends at some θ'. The two are joined by a straight-through gradient: a loss at θ' is
differentiated there and its gradient applied to θ, as if θ' − θ did not depend on θ (first-order
meta-learning, as in Tamirisa et al. 2024).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

from peft import PeftModel
from torch import Tensor, nn

from caseharden.errors import TrainingFailed
from caseharden.train.optim import Keep, restore, snapshot
from caseharden.train.tuner import Metrics, Run, Tuner


@contextmanager
def excursion(
    run: Run, *purpose: object, keep: Keep = "device", kept: Sequence[Tensor] | None = None
) -> Iterator[Run]:
    """Give the adversary a run of its own on the same weights, data and role; return to θ bit for bit after it.

    Gradients and trainable flags come back as well, and adapters that the adversary put in are taken out.
    Costs one copy of the parameters, unless they are `kept` already.
    """
    model = run.lm.model
    parameters = list(model.parameters())
    theta = snapshot(parameters, keep) if kept is None else kept
    gradients = [p.grad for p in parameters]
    trainable = [p.requires_grad for p in parameters]
    for parameter in parameters:
        parameter.grad = None
    try:
        yield run.afresh("excursion", *purpose)
    finally:
        if isinstance(run.lm.model, PeftModel):
            run.lm.model = run.lm.model.unload()
        restore(parameters, theta)
        for parameter, gradient, flag in zip(parameters, gradients, trainable, strict=True):
            parameter.grad = gradient
            parameter.requires_grad_(flag)


def trajectory(
    adversary_run: Run, adversary: Tuner, length: int, checkpoints: Collection[int]
) -> Iterator[tuple[int, Metrics]]:
    """Run `adversary` for `length` steps of an excursion; stop after each step number in `checkpoints`.

    Yields the step and the adversary's own metrics there. The weights are θ' while the caller has it, and
    nothing of the adversary's (adapters, say) takes a gradient from the caller's losses.
    Raises `TrainingFailed` if the adversary ends before, since checkpoints and their weights would be lost.
    """
    for metrics in islice(adversary_run.drive(adversary), length):
        if adversary_run.step in checkpoints:
            with _frozen(adversary_run.lm.model):
                yield adversary_run.step, metrics
    if adversary_run.step < length:
        raise TrainingFailed(
            f"{adversary} ended at step {adversary_run.step} of {length}. Leave out its max_steps."
        )


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
