"""Descent: optimizer, schedule and clipping in one; and the snapshot of weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import schedulefree
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import get_scheduler

from caseharden.errors import CasehardenError, nearest
from caseharden.lm.placement import placed_like, whole

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
OF_WHOLE_MATRICES = ("adafactor",)
"""Optimizers that read rows and columns, which sharded parameters do not have."""
SCHEDULES = ("constant", "linear", "cosine")


@dataclass(frozen=True, kw_only=True)
class Descends(ABC):
    """How a method descends, in the fields that all methods have; each adds `lr` and `max_steps`.

    `clip` bounds the gradients' global norm. A `schedule` other than ``constant`` ends at `max_steps`.
    """

    optimizer: str = "adamw"
    schedule: str = "constant"
    warmup: int = 0
    weight_decay: float = 0.0
    clip: float | None = 1.0
    rates: ClassVar[tuple[str, ...]] = ("lr",)
    bounds: ClassVar[tuple[str, ...]] = ()
    mixes: ClassVar[tuple[str, ...]] = ()

    @property
    @abstractmethod
    def lr(self) -> float:
        """Learning rate: a field of the method."""

    @property
    @abstractmethod
    def max_steps(self) -> int | None:
        """Optimizer steps until the method ends by itself, a field; None if it does not."""

    def __post_init__(self) -> None:
        """Raise `CasehardenError` for a rate, an optimizer or a schedule that cannot be."""
        if self.lr <= 0:
            raise CasehardenError(f"lr={self.lr} must be above 0.")
        if self.optimizer not in OPTIMIZERS:
            raise CasehardenError(f"there is no optimizer {self.optimizer!r}.{nearest(self.optimizer, OPTIMIZERS)}")
        if self.schedule not in SCHEDULES:
            raise CasehardenError(f"there is no schedule {self.schedule!r}.{nearest(self.schedule, SCHEDULES)}")
        if self.schedule != "constant" and self.max_steps is None:
            raise CasehardenError(f"the {self.schedule} schedule needs max_steps, to know where it ends.")


class Descent:
    """Optimizer, schedule and clipping of one method, made in the one right order. Track it to resume.

    Making a schedule resets its optimizer's learning rate, so states are loaded only after both are made.
    """

    def __init__(self, how: Descends, parameters: Iterable[nn.Parameter]) -> None:
        self._how = how
        self._parameters = list(parameters)
        if how.optimizer in OF_WHOLE_MATRICES and any(isinstance(p, DTensor) for p in self._parameters):
            raise CasehardenError(f"{how.optimizer} needs whole matrices, and these are sharded. Take adamw.")
        self.optimizer = self._fresh(how.lr)
        self._schedule: torch.optim.lr_scheduler.LRScheduler = get_scheduler(
            "constant_with_warmup" if how.schedule == "constant" else how.schedule,
            self.optimizer,
            num_warmup_steps=how.warmup,
            num_training_steps=how.max_steps,
        )

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return float(self._schedule.get_last_lr()[0])

    def step(self, gradient: Iterable[Tensor] | None = None) -> dict[str, float]:
        """Clip, step, clear: with `gradient` if given, else with what the parameters have.

        Reports ``grad_norm`` and ``clipped_norm``, the global norm before clipping and after, and ``lr``, the rate
        after the schedule's step.
        """
        if gradient is not None:
            for parameter, value in zip(self._parameters, gradient, strict=True):
                parameter.grad = value
        found = [p for p in self._parameters if p.grad is not None]
        limit = self._how.clip if self._how.clip is not None else float("inf")
        norm = torch.nn.utils.clip_grad_norm_(found, limit)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._schedule.step()
        size = float(whole(norm))  # only now, so that a GPU has the step to do while it is waited for
        return {"grad_norm": size, "clipped_norm": min(size, limit), "lr": self.lr}

    def forget(self) -> None:
        """Reset the optimizer's state, its moments and counts; the learning rate stays where the schedule is."""
        self.optimizer.load_state_dict(self._fresh(self.lr).state_dict())

    def _fresh(self, lr: float) -> torch.optim.Optimizer:
        optimizer = OPTIMIZERS[self._how.optimizer](self._parameters, lr=lr, weight_decay=self._how.weight_decay)
        if hasattr(optimizer, "train"):
            optimizer.train()  # schedule-free averages: training weights and evaluation weights differ
        return optimizer

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "schedule": self._schedule.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        found = state["optimizer"]["state"]
        for number, parameter in enumerate(self._parameters):
            own = found.get(number, {})
            own |= {
                name: placed_like(value, parameter) for name, value in own.items() if _is_like(value, parameter)
            }
        self.optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])


def _is_like(value: Any, parameter: Tensor) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and value.shape == parameter.shape


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
