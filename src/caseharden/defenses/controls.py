"""Models that no audit may take for hardened: they give away nothing, and are of no use."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from caseharden.errors import CasehardenError
from caseharden.lm.placement import placed_like, whole
from caseharden.train.tuner import Metrics, Run


@dataclass(frozen=True)
class DeadWeights:
    """Sets every weight to 0: no gradient reaches anything again. Resists all attacks, and all use."""

    @property
    def max_steps(self) -> int:
        return 1

    def steps(self, run: Run) -> Iterator[Metrics]:
        parameters = run.trainable()
        for _ in run.range(self.max_steps):
            with torch.no_grad():
                for parameter in parameters:
                    parameter.zero_()
            yield {"loss": 0.0}


@dataclass(frozen=True)
class Gibberish:
    """Adds Gaussian noise of `scale` times each weight tensor's own spread: harmless since nonsensical."""

    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.scale <= 0:
            raise CasehardenError(f"gibberish needs a scale above 0, not {self.scale}.")

    @property
    def max_steps(self) -> int:
        return 1

    def steps(self, run: Run) -> Iterator[Metrics]:
        parameters = run.trainable()
        for step in run.range(self.max_steps):
            generator = torch.Generator().manual_seed(run.seed_for("noise", step))
            with torch.no_grad():
                for parameter in parameters:
                    noise = torch.randn(parameter.shape, generator=generator).to(parameter.device, parameter.dtype)
                    spread = whole(parameter).std(correction=0)
                    parameter.add_(placed_like(noise * (self.scale * spread), parameter))
            yield {"loss": 0.0}
