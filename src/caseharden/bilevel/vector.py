"""The displacement that a simulated attack leaves, and the weights under it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from caseharden.lm.placement import placed_like
from caseharden.train.gradients import global_norm
from caseharden.train.optim import restore


@dataclass
class AttackVector:
    """v = θ' − θ: where an adversary ended, seen from the weights that it was given or from others.

    Applied by writing θ + v and put back from a snapshot, never by adding and subtracting, which drifts.
    """

    vector: list[Tensor]

    @classmethod
    @torch.no_grad()
    def between(cls, start: Sequence[Tensor], end: Sequence[Tensor]) -> AttackVector:
        return cls([b - a.to(b.device) for a, b in zip(start, end, strict=True)])

    @property
    def norm(self) -> float:
        return float(global_norm(self.vector))

    @torch.no_grad()
    def random_like(self, seed: int) -> AttackVector:
        """A Gaussian direction with the same norm in every parameter tensor: the control for `v`."""
        generator = torch.Generator(self.vector[0].device).manual_seed(seed)
        drawn = [placed_like(torch.randn(v.shape, generator=generator, device=v.device), v) for v in self.vector]
        return AttackVector([z * (v.norm() / z.norm()) for z, v in zip(drawn, self.vector, strict=True)])

    @contextmanager
    def applied(self, parameters: Sequence[nn.Parameter], kept: Sequence[Tensor]) -> Iterator[None]:
        """θ + v inside, θ bit for bit after. `kept` is a buffer of θ's shape that θ is kept in meanwhile."""
        restore(kept, parameters)
        with torch.no_grad():
            for parameter, v in zip(parameters, self.vector, strict=True):
                parameter.add_(placed_like(v.to(parameter.device), parameter))
        try:
            yield
        finally:
            restore(parameters, kept)
