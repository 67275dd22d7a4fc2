"""Descent: optimizer, schedule and clipping in one; and the snapshot of weights."""

from __future__ import annotations

import importlib.util
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import schedulefree
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import get_scheduler

from caseharden.errors import CasehardenError, NotSharded, nearest
from caseharden.lm.memory import PLENTY, Memory
from caseharden.lm.placement import placed_like, whole
from caseharden.train.masters import Masters

BITSANDBYTES = "bitsandbytes"


def _of_bitsandbytes(name: str, *given: Any, **fields: Any) -> torch.optim.Optimizer:
    """The optimizer that bitsandbytes calls `name`."""
    module = importlib.import_module(BITSANDBYTES)
    found: torch.optim.Optimizer = getattr(module.optim, name)(*given, **fields)
    return found


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
    "nesterov": partial(torch.optim.SGD, momentum=0.9, nesterov=True),
    "adagrad": torch.optim.Adagrad,
    "adadelta": torch.optim.Adadelta,
    "adafactor": torch.optim.Adafactor,
    "schedulefree": schedulefree.AdamWScheduleFree,
    "adamw_8bit": partial(_of_bitsandbytes, "AdamW8bit"),
    "paged_adamw": partial(_of_bitsandbytes, "PagedAdamW"),
    "paged_adamw_8bit": partial(_of_bitsandbytes, "PagedAdamW8bit"),
}
"""Optimizers, by the name that a spec file gives them: Transformers' names, where it has the same."""
EXTRAS = {name: BITSANDBYTES for name in OPTIMIZERS if "8bit" in name or "paged" in name}
"""The packages of optimizers that come with the extra ``memory``; their versions decide results."""
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
        if (extra := EXTRAS.get(self.optimizer)) and importlib.util.find_spec(extra) is None:
            raise CasehardenError(
                f"the optimizer {self.optimizer!r} is that of {extra}, which is not installed. Install it (pip "
                "install 'caseharden[memory]'), or take another."
            )
        if self.schedule not in SCHEDULES:
            raise CasehardenError(f"there is no schedule {self.schedule!r}.{nearest(self.schedule, SCHEDULES)}")
        if self.schedule != "constant" and self.max_steps is None:
            raise CasehardenError(f"the {self.schedule} schedule needs max_steps, to know where it ends.")


class Descent:
    """Optimizer, schedule and clipping of one method, made in the one right order. Track it to resume.

    Making a schedule resets its optimizer's learning rate, so states are loaded only after both are made. The
    optimizer changes the parameters' `Masters`, where `memory` or their precision asks for them.
    """

    def __init__(self, how: Descends, parameters: Iterable[nn.Parameter], memory: Memory = PLENTY) -> None:
        self._how = how
        self._parameters = list(parameters)
        if how.optimizer in OF_WHOLE_MATRICES and any(isinstance(p, DTensor) for p in self._parameters):
            raise NotSharded(f"{how.optimizer} needs whole matrices, and these are sharded. Take adamw.")
        self.masters = Masters(self._parameters, offloaded=memory.offload)
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
        self.masters.take_gradients()
        found = [p for p in self.masters.values if p.grad is not None]
        limit = self._how.clip if self._how.clip is not None else float("inf")
        norm = torch.nn.utils.clip_grad_norm_(found, limit)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.masters.hand_over()
        self._schedule.step()
        size = float(whole(norm))  # only now, so that a GPU has the step to do while it is waited for
        return {"grad_norm": size, "clipped_norm": min(size, limit), "lr": self.lr}

    def forget(self) -> None:
        """Reset the optimizer's state, its moments and counts; the learning rate stays where the schedule is."""
        self.optimizer.load_state_dict(self._fresh(self.lr).state_dict())

    def _fresh(self, lr: float) -> torch.optim.Optimizer:
        trained = self.masters.values
        optimizer = OPTIMIZERS[self._how.optimizer](trained, lr=lr, weight_decay=self._how.weight_decay)
        if hasattr(optimizer, "train"):
            optimizer.train()  # schedule-free averages: training weights and evaluation weights differ
        return optimizer

    def state_dict(self) -> dict[str, Any]:
        return {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "masters": self.masters.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.masters.load_state_dict(state["masters"])
        found = state["optimizer"]["state"]
        for number, parameter in enumerate(self.masters.values):
            own = found.get(number, {})
            own |= {
                name: placed_like(value, parameter) for name, value in own.items() if _is_like(value, parameter)
            }
        self.optimizer.load_state_dict(state["optimizer"])
        if getattr(self.optimizer, "is_paged", False):
            _page(self.optimizer)
        self._schedule.load_state_dict(state["schedule"])


def _is_like(value: Any, parameter: Tensor) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and value.shape == parameter.shape


@torch.no_grad()
def _page(optimizer: Any) -> None:
    """Put the moments that a paged optimizer has loaded into memory that can be paged, as its own are."""
    for parameter, state in optimizer.state.items():
        for name in {"state1", "state2"} & state.keys():
            loaded, state[name] = state[name], optimizer.get_state_buffer(parameter, dtype=state[name].dtype)
            state[name].copy_(loaded)


Keep = Literal["device", "cpu", "disk"]
"""Where copies of parameters are kept: with the model, on the CPU, or in files that are mapped into memory."""

KEPT: ContextVar[Keep | None] = ContextVar("kept", default=None)
"""Where what is made now is kept, if it is a copy that `keep` decides on: for who counts memory (`keeping`)."""


@contextmanager
def keeping(keep: Keep) -> Iterator[None]:
    """Tensors that are made inside are copies that lie where `keep` says."""
    before = KEPT.set(keep)
    try:
        yield
    finally:
        KEPT.reset(before)


@torch.no_grad()
def snapshot(tensors: Iterable[Tensor], keep: Keep = "device") -> list[Tensor]:
    """Copies of `tensors`, without gradient. Raises `NotSharded` for sharded ones that are to go elsewhere."""
    tensors = [*tensors]
    if keep != "device" and any(isinstance(tensor, DTensor) for tensor in tensors):
        raise NotSharded(f"copies of sharded weights stay where these are. Set keep: device, not {keep}.")
    with keeping(keep):
        return [_COPIED[keep](tensor.detach()) for tensor in tensors]


def _mapped(tensor: Tensor) -> Tensor:
    """A copy in a file in the temporary directory, which nothing else sees and which ends with the copy."""
    with tempfile.NamedTemporaryFile(prefix="caseharden-") as file:
        file.truncate(max(1, tensor.nbytes))
        whole = torch.from_file(file.name, shared=True, size=tensor.numel(), dtype=tensor.dtype)
    return whole.view(tensor.shape).copy_(tensor)


_COPIED: dict[Keep, Callable[[Tensor], Tensor]] = {
    "device": torch.clone,
    "cpu": lambda tensor: tensor.to("cpu", copy=True),
    "disk": _mapped,
}


@torch.no_grad()
def restore(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Set `parameters` to `values`, bit for bit."""
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)


@contextmanager
def evaluation_weights(optimizers: Iterable[tuple[Any, Masters | None]]) -> Iterator[None]:
    """Inside, weights are those that a schedule-free optimizer would hand over; afterwards, as they were.

    Its own switch back is exact only up to rounding, so the training weights are kept and put back: an
    evaluation must not change the run that it looks at.
    """
    averaging = [(optimizer, masters) for optimizer, masters in optimizers if hasattr(optimizer, "eval")]
    trained = [p for optimizer, _ in averaging for group in optimizer.param_groups for p in group["params"]]
    kept = snapshot(trained)
    release(averaging)
    try:
        yield
    finally:
        for optimizer, _ in averaging:
            optimizer.train()
        restore(trained, kept)
        for _, masters in averaging:
            if masters is not None:
                masters.hand_over()


def release(optimizers: Iterable[tuple[Any, Masters | None]]) -> None:
    """Set weights to those that a schedule-free optimizer hands over, which are averages."""
    for optimizer, masters in optimizers:
        if hasattr(optimizer, "eval"):
            optimizer.eval()
            if masters is not None:
                masters.hand_over()
