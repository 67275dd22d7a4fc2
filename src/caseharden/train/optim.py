"""Optimizers and learning-rate schedules by name, the optimizer step, and the snapshot of weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import schedulefree
import torch
from torch import Tensor, nn
from transformers import get_scheduler

from caseharden.errors import CasehardenError, nearest

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
    "nesterov": partial(torch.optim.SGD, momentum=0.9, nesterov=True),
    "adagrad": torch.optim.Adagrad,
    "adadelta": torch.optim.Adadelta,
    "adafactor": torch.optim.Adafactor,
    "schedulefree": schedulefree.AdamWScheduleFree,
}
SCHEDULES = ("constant", "linear", "cosine")


def check_optimizer(name: str) -> None:
    """Raise `CasehardenError` for an optimizer that is not in the `OPTIMIZERS` table."""
    if name not in OPTIMIZERS:
        raise CasehardenError(f"there is no optimizer {name!r}.{nearest(name, OPTIMIZERS)}")


def check_schedule(name: str, total: int | None) -> None:
    """Raise `CasehardenError` for an unknown schedule, or for one that needs an end and has none."""
    if name not in SCHEDULES:
        raise CasehardenError(f"there is no schedule {name!r}.{nearest(name, SCHEDULES)}")
    if name != "constant" and total is None:
        raise CasehardenError(f"the {name} schedule needs max_steps, to know where it ends.")


def make_optimizer(
    name: str, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0
) -> torch.optim.Optimizer:
    """An optimizer of the `OPTIMIZERS` table, in training mode."""
    check_optimizer(name)
    optimizer = OPTIMIZERS[name](parameters, lr=lr, weight_decay=weight_decay)
    if hasattr(optimizer, "train"):
        optimizer.train()  # schedule-free averages: training weights and evaluation weights differ
    return optimizer


def make_schedule(
    name: str, optimizer: torch.optim.Optimizer, warmup: int, total: int | None
) -> torch.optim.lr_scheduler.LRScheduler:
    """A schedule over `total` optimizer steps after `warmup` of them; only ``constant`` may be endless."""
    check_schedule(name, total)
    kind = "constant_with_warmup" if name == "constant" else name
    schedule: torch.optim.lr_scheduler.LRScheduler = get_scheduler(
        kind, optimizer, num_warmup_steps=warmup, num_training_steps=total
    )
    return schedule


def update(optimizer: torch.optim.Optimizer, clip: float | None) -> float:
    """Clip the gradients' global norm to `clip`, step, clear them. Returns the norm before clipping."""
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    limit = clip if clip is not None else float("inf")
    norm = torch.nn.utils.clip_grad_norm_(parameters, limit)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(norm)


@torch.no_grad()
def snapshot(parameters: Iterable[Tensor], device: torch.device | None = None) -> list[Tensor]:
    """Copies of `parameters`, on `device` if one is given (the CPU, to save GPU memory)."""
    return [p.detach().to(device or p.device, copy=True) for p in parameters]


@torch.no_grad()
def restore(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Set `parameters` to `values`, bit for bit."""
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)


@contextmanager
def evaluation_weights(optimizers: Iterable[Any]) -> Iterator[None]:
    """Inside, weights are those that a schedule-free optimizer would hand over; afterwards, as they were.

    Its own switch back is exact only up to rounding, so the training weights are kept and put back: an
    evaluation must not change the run that it looks at.
    """
    averaging = [optimizer for optimizer in optimizers if hasattr(optimizer, "eval")]
    parameters = [p for optimizer in averaging for group in optimizer.param_groups for p in group["params"]]
    kept = snapshot(parameters)
    for optimizer in averaging:
        optimizer.eval()
    try:
        yield
    finally:
        for optimizer in averaging:
            optimizer.train()
        restore(parameters, kept)
