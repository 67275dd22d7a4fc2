"""Gradients at the weights as they stand, and sums, angles and norms of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def global_norm(tensors: list[Tensor]) -> Tensor:
    """Euclidean norm of all `tensors` together, scalar."""
    if not tensors:
        return torch.zeros(())
    total: Tensor = torch.linalg.vector_norm(torch.stack(list(torch._foreach_norm(tensors))))
    return total


def gradient(
    loss: Callable[[int], Tensor], step: int, parameters: Sequence[nn.Parameter]
) -> tuple[float, list[Tensor]]:
    """`loss` at `step`, at the weights as they stand, and its gradient with respect to `parameters` of θ.

    Works under an adversary's adapters too: they shift the effective weights, and the straight-through
    gradient passes to the frozen ones below. Taken with `backward`, since sharded parameters (FSDP2)
    get their gradients no other way; gradients and flags that the parameters had before come back.
    """
    kept = [(p.grad, p.requires_grad) for p in parameters]
    for parameter in parameters:
        parameter.grad = None
        parameter.requires_grad_(True)
    value = loss(step)
    value.backward()  # type: ignore[no-untyped-call]
    found = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    for parameter, (before, flag) in zip(parameters, kept, strict=True):
        parameter.grad = before
        parameter.requires_grad_(flag)
    return float(value.detach()), found


def add(total: Sequence[Tensor], terms: Sequence[Tensor], weight: float = 1.0) -> None:
    """total += weight · terms, in place, over all parameters."""
    torch._foreach_add_(list(total), list(terms), alpha=weight)


def cosine(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    """Cosine of the angle between two gradients; 0 if either is zero."""
    products = [(a * b).sum() for a, b in zip(left, right, strict=True)]
    dot = sum(float(p.full_tensor() if isinstance(p, DTensor) else p) for p in products)
    norms = float(global_norm(list(left)) * global_norm(list(right)))
    return dot / norms if norms > 0 else 0.0
