"""Stochastic weight averaging of another defense's last steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.optim.swa_utils import AveragedModel

from caseharden.errors import CasehardenError
from caseharden.train.tuner import Metrics, Run, Tuner


@dataclass(frozen=True)
class Averaged:
    """Izmailov et al. 2018 (arXiv 1803.05407), around any `tuner` that ends.

    The released weights are the mean of those after each of the last steps, a share `last` of them: what the tuner
    gained stays, and what it jitters about, which costs utility, goes. Departs from the paper: no learning rate
    of its own, every step counts.
    """

    tuner: Tuner
    last: float = 0.5

    def __post_init__(self) -> None:
        if getattr(self.tuner, "max_steps", None) is None or not 0 < self.last <= 1:
            raise CasehardenError("averaged needs a tuner with max_steps, and last above 0 and at most 1.")

    @property
    def max_steps(self) -> int:
        return int(self.tuner.max_steps)  # type: ignore[attr-defined]

    def steps(self, run: Run) -> Iterator[Metrics]:
        mean = run.track("mean", AveragedModel(run.lm.model))
        child = run.child("tuner")
        for metrics in child.drive(self.tuner):
            if child.step > (1 - self.last) * self.max_steps:
                mean.update_parameters(run.lm.model)
            yield metrics
        child.finish()
        with torch.no_grad():
            for parameter, average in zip(run.lm.model.parameters(), mean.module.parameters(), strict=True):
                parameter.copy_(average)
