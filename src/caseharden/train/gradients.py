"""Gradients at the weights as they stand, and sums, angles and norms of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from caseharden.lm.placement import ALONE, Placement, whole


@dataclass(frozen=True)
class Loss:
    """A loss at the current weights, as parts that add up to it: of a large batch, a few examples at a time.

    `parts` goes from a step's number to scalars with gradient. Each is to be gone backward from before the next is
    asked for, so that only one part's activations are in memory. In a sharded run each process has its own parts
    (`Meter.parts`), whose mean over processes is the whole loss.
    """

    parts: Callable[[int], Iterable[Tensor]]
    placement: Placement = ALONE

    def __call__(self, step: int) -> Tensor:
        """The whole loss, scalar."""
        return torch.stack([*self.parts(step)]).sum()

    def backward(self, step: int) -> float:
        """Add the gradient to those that the parameters have; returns the loss."""
        total = 0.0
        for part in self.parts(step):
            part.backward()  # type: ignore[no-untyped-call]
            total += float(part.detach())
        return self.placement.mean([total])[0]


def global_norm(tensors: list[Tensor]) -> Tensor:
    """Euclidean norm of all `tensors` together, scalar."""
    if not tensors:
        return torch.zeros(())
    total: Tensor = torch.linalg.vector_norm(torch.stack(list(torch._foreach_norm(tensors))))
    return whole(total)


def gradient(loss: Loss, step: int, parameters: Sequence[nn.Parameter]) -> tuple[float, list[Tensor]]:
    """`loss` at `step`, at the weights as they stand, and its gradient with respect to `parameters` of θ.

    Works under an adversary's adapters too: they shift the effective weights, and the straight-through
    gradient passes to the frozen ones below. Taken with `backward`, since sharded parameters (FSDP2)
    get their gradients no other way; gradients and flags that the parameters had before come back.
    """
    kept = [(p.grad, p.requires_grad) for p in parameters]
    for parameter in parameters:
        parameter.grad = None
        parameter.requires_grad_(True)
    value = loss.backward(step)
    found = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    for parameter, (before, flag) in zip(parameters, kept, strict=True):
        parameter.grad = before
        parameter.requires_grad_(flag)
    return value, found


def add(total: Sequence[Tensor], terms: Sequence[Tensor], weight: float = 1.0) -> None:
    """total += weight · terms, in place, over all parameters."""
    torch._foreach_add_(list(total), list(terms), alpha=weight)


def cosine(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    """Cosine of the angle between two gradients; 0 if either is zero."""
    products = [(a * b).sum() for a, b in zip(left, right, strict=True)]
    dot = sum(float(whole(p)) for p in products)
    norms = float(global_norm(list(left)) * global_norm(list(right)))
    return dot / norms if norms > 0 else 0.0
