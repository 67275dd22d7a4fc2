"""Ledger: what PyTorch computes inside it, counted, and which memory is held meanwhile."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


@dataclass(frozen=True)
class Work:
    """What is to be computed: floating-point operations, bytes read and written, and calls of an operator."""

    flops: float = 0.0
    traffic: float = 0.0
    calls: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.traffic + other.traffic, self.calls + other.calls)

    def __mul__(self, times: float) -> Work:
        return Work(self.flops * times, self.traffic * times, self.calls * times)


class Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what is computed inside, and the memory that is made and not yet given back.

    Overridden where something else is to be known of it. Tensors without data have no value to be asked for: they
    say 0, so that masks count as masks with something to hide.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.work = Work()
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default and not _has_data(args[0]):
            return args[0].dtype.is_floating_point and 0.0
        out = func(*args, **kwargs)
        views, writes = _nature(func)
        if not views:
            made = [*tensors(out)]
            self.count(func, args, kwargs, out, made)
            if not writes:
                for tensor in made:
                    self._hold(tensor)
        return out

    def count(self, func: Any, args: Any, kwargs: Any, out: Any, made: list[Tensor]) -> None:
        """One call of an operator, what it was given and what it made."""
        moved = sum(map(size, tensors(args))) + sum(map(size, made))
        self.work += Work(flops(func, args, kwargs, out), moved, 1)

    def made(self, tensor: Tensor) -> Any:
        """Whether new memory counts, and what as; None if it does not."""
        return None

    def given_back(self, kind: Any, size: int) -> None:
        """Memory that counted as `kind` was given back."""

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        place = storage._cdata
        if place in self._seen:
            return
        kind = self.made(tensor)
        if kind is not None:
            self._seen.add(place)
            weakref.finalize(storage, self._free, place, kind, storage.nbytes()).atexit = False

    def _free(self, place: int, kind: Any, size: int) -> None:
        self._seen.discard(place)
        self.given_back(kind, size)


def size(tensor: Tensor) -> int:
    """Bytes of a tensor's elements."""
    return tensor.numel() * tensor.element_size()


def _has_data(tensor: Tensor) -> bool:
    return type(tensor) is Tensor and not tensor.is_meta


def flops(func: Any, args: Any, kwargs: Any, out: Any) -> float:
    """Floating-point operations of a call: those of products of matrices and of attention."""
    counted = flop_registry.get(func._overloadpacket)
    return float(counted(*args, **kwargs, out_val=out)) if counted else 0.0


@cache
def _nature(func: Any) -> tuple[bool, bool]:
    """Whether an operator gives views of what it was given, and whether it writes into it."""
    return func.is_view, func._schema.is_mutable


def tensors(given: Any) -> Iterator[Tensor]:
    """The tensors in an operator's arguments or results: themselves, or in lists."""
    if isinstance(given, Tensor):
        yield given
    elif isinstance(given, list | tuple):
        for one in given:
            yield from tensors(one)
