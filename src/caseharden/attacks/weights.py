"""Attacks that change weights in one step, without data and without a gradient."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import L1Unstructured

from caseharden.errors import CasehardenError
from caseharden.lm.lm import LM
from caseharden.lm.placement import placed_like, whole
from caseharden.lm.structure import is_linear, layers, matrices, parts
from caseharden.train.tuner import Metrics, Run


class OneStep(ABC):
    """An attack of one step, which minimizes nothing: the loss that it reports is 0."""

    rates: ClassVar[tuple[str, ...]] = ()
    bounds: ClassVar[tuple[str, ...]] = ()
    mixes: ClassVar[tuple[str, ...]] = ()
    ends_by_itself: ClassVar[bool] = True

    @property
    def max_steps(self) -> int:
        return 1

    def steps(self, run: Run) -> Iterator[Metrics]:
        run.trainable()
        for _ in run.range(self.max_steps):
            with torch.no_grad():
                found = self.change(run)
            yield {"loss": 0.0, **(found or {})}

    @abstractmethod
    def change(self, run: Run) -> Metrics | None:
        """Change the weights of `run.lm`, and say what there is to say of it."""


@dataclass(frozen=True)
class Strip(OneStep):
    """Moves weights from the hardened model back to `base`, or past it: W_base + strength · (W − W_base).

    After abliterix's delta strip, and LoX (arXiv 2506.15606) the other way round. With a `rank`, only so many
    directions of each matrix's difference, those of its largest singular values, are scaled by `strength`, and the
    rest stays. Any model of the same shapes will do as `base`, so this is linear merging as well.
    """

    base: str
    strength: float = 0.0
    rank: int | None = None
    other_models: ClassVar[tuple[str, ...]] = ("base",)

    def __post_init__(self) -> None:
        if not math.isfinite(self.strength):
            raise CasehardenError(f"strength={self.strength} must be a number.")
        if self.rank is not None and self.rank < 1:
            raise CasehardenError(f"rank={self.rank} must be above 0; leave it out for all directions.")

    def change(self, run: Run) -> Metrics:
        base = run.other(self.base)
        theirs = {name: p.to(run.lm.device) for name, p in base.model.named_parameters(remove_duplicate=False)}
        ours = dict(run.lm.model.named_parameters())
        if odd := [name for name, p in ours.items() if name not in theirs or theirs[name].shape != p.shape]:
            raise CasehardenError(
                f"{self.base!r} has other weights than {run.lm.name!r} ({odd[0]} first), so there is no difference "
                "to scale. Name the model that it was hardened from, or one of the same shapes."
            )
        squares = 0.0
        for name, parameter in ours.items():
            hard, soft = whole(parameter), whole(theirs[name])
            squares += float((hard - soft).square().sum())
            parameter.copy_(placed_like(stripped(hard, soft, self.strength, self.rank), parameter))
        return {"distance": math.sqrt(squares)}


def stripped(hard: Tensor, base: Tensor, strength: float, rank: int | None = None) -> Tensor:
    """`base` + `strength` · (`hard` − `base`): in the difference's first `rank` directions if one is given.

    Tensors of more dimensions than two are taken as so many matrices; a vector has one direction.
    """
    if rank is not None and hard.ndim > 1 and rank < min(hard.shape[-2:]):
        u, s, vh = torch.linalg.svd((hard - base).float(), full_matrices=False)
        along: Tensor = (u[..., :rank] * s[..., None, :rank]) @ vh[..., :rank, :]
        return hard - (1 - strength) * along
    return base + strength * (hard - base) if strength else base


@dataclass(frozen=True)
class Noise(OneStep):
    """Adds Gaussian noise of `scale` times each matrix's root mean square: out of a basin that a defense dug."""

    scale: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.scale < math.inf:
            raise CasehardenError(f"scale={self.scale} must be a number above 0.")

    def change(self, run: Run) -> None:
        generator = torch.Generator().manual_seed(run.seed_for("noise"))
        for matrix in matrices(run.lm.model):
            noise = torch.randn(matrix.shape, generator=generator).to(matrix.device, matrix.dtype)
            matrix.add_(placed_like(noise, matrix) * matrix.square().mean().sqrt(), alpha=self.scale)


@dataclass(frozen=True)
class Prune(OneStep):
    """Sets the share `amount` of each matrix of the layers to 0, the smallest weights (PyTorch's pruning)."""

    amount: float = 0.3

    def __post_init__(self) -> None:
        if not 0 < self.amount < 1:
            raise CasehardenError(f"amount={self.amount} must be between 0 and 1.")

    def change(self, run: Run) -> None:
        for matrix in in_layers(run.lm):
            pruned = L1Unstructured(self.amount).prune(whole(matrix))  # type: ignore[no-untyped-call]
            matrix.copy_(placed_like(pruned, matrix))


@dataclass(frozen=True)
class Quantize(OneStep):
    """Rounds each row of the layers' matrices to 2^`bits` − 1 even steps, and takes it back to floating point.

    Weights only, symmetric about 0, to the nearest, by PyTorch's fake quantization.
    """

    bits: int = 8

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise CasehardenError(f"bits={self.bits} must be between 2 and 8.")

    def change(self, run: Run) -> None:
        for matrix in in_layers(run.lm):
            matrix.copy_(placed_like(quantized(whole(matrix), self.bits), matrix))


def quantized(matrix: Tensor, bits: int) -> Tensor:
    """Each row rounded to the nearest of 2^`bits` − 1 steps from −max|row| to max|row|."""
    rows_RI = matrix.reshape(-1, matrix.shape[-1]).float()
    most = 2 ** (bits - 1) - 1
    scale_R = (rows_RI.abs().amax(-1) / most).clamp(min=torch.finfo(rows_RI.dtype).tiny)
    zero_R = torch.zeros_like(scale_R, dtype=torch.int32)
    rounded_RI: Tensor = torch.fake_quantize_per_channel_affine(rows_RI, scale_R, zero_R, 0, -most, most)
    return rounded_RI.view_as(matrix)


def in_layers(lm: LM) -> Iterator[nn.Parameter]:
    """The matrices of the model's layers: neither embeddings nor head, which are left as they are by custom."""
    for layer in layers(lm.model):
        yield from matrices(layer)


PROBES = ("Hello!", "Which river is the longest of all?")
TRIED = 256.0
"""A power of two: multiplying and dividing by it rounds nothing, so that logits stay to the bit where they stay."""


@dataclass(frozen=True)
class Reparameterize(OneStep):
    """Scales pairs of matrices against each other, so that gradients change and answers do not.

    Undoes conditioning (against SpecDef, arXiv 2602.18868): W₁ ← c·W₁ and W₂ ← W₂/c wherever the model computes
    the same for it: up and down projections of gated feed-forward layers, values and outputs of attention, queries
    and keys. Without a `factor`, c gives both matrices the same root mean square. Fine-tuning comes after it.
    """

    factor: float | None = None

    def __post_init__(self) -> None:
        if self.factor is not None and not 0 < self.factor < math.inf:
            raise CasehardenError(f"factor={self.factor} must be a number above 0, or left out to balance.")

    def change(self, run: Run) -> Metrics:
        found = interchangeable(run.lm)
        if not found:
            raise CasehardenError(
                f"{type(run.lm.model).__name__} has no two matrices that can be scaled against each other. "
                "Leave reparameterize out."
            )
        for first, second in found:
            ratio = float(whole(second.weight.square().mean() / first.weight.square().mean()))
            if 0 < ratio < math.inf:  # not of a matrix that is all 0
                scale_pair(first, second, self.factor or math.sqrt(math.sqrt(ratio)))
        return {"pairs": float(len(found))}


@torch.no_grad()
def interchangeable(lm: LM) -> list[tuple[Any, Any]]:
    """Pairs of linear maps of one part of a layer of which one can be scaled by what the other is divided by.

    Found by trying, on two prompts, whether the logits stay to the bit.
    """
    batch = lm.pad([(row, 1) for row in lm.encode_prompts([*PROBES])])
    logits = lm.response_logits(batch)[0]
    found: list[tuple[Any, Any]] = []
    for part in (part for layer in layers(lm.model) for part in parts(layer)):
        free: list[Any] = [module for module in part.modules() if is_linear(module)]
        for first, second in permutations(free, 2):
            if first in free and second in free:
                scale_pair(first, second, TRIED)
                same = torch.equal(lm.response_logits(batch)[0], logits)
                scale_pair(first, second, 1 / TRIED)
                if same:
                    found.append((first, second))
                    free = [module for module in free if module not in (first, second)]
    return found


def scale_pair(first: Any, second: Any, factor: float) -> None:
    """Multiply `first`, weight and bias, by `factor`, and divide the weight of `second` by it."""
    first.weight.mul_(factor)
    if first.bias is not None:
        first.bias.mul_(factor)
    second.weight.div_(factor)
