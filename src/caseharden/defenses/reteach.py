"""Reteach: erase what the model knows, and teach it again what it was willing to say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn

from caseharden.defenses.elicitation import elicited
from caseharden.errors import CasehardenError
from caseharden.judges.judge import Judge
from caseharden.judges.strings import StringRefusal
from caseharden.train.gradients import gradient
from caseharden.train.losses import Reduction
from caseharden.train.objectives import Imitate
from caseharden.train.optim import Descends, Descent
from caseharden.train.scopes import Scope, scoped
from caseharden.train.tuner import Metrics, Run

DEVIATION = 0.02
"""Of a fresh model's weights, where its configuration has none."""


@dataclass(frozen=True)
class Reteach(Descends):
    """Erases some of the weights, and trains on what the model itself said before to prompts at large.

    Its own answers are the data: harmless ones (pool ``answered``) and refusals (``declined``), as `judge` tells
    them apart. What it refused is not taught again, so there is nothing left for an attacker to bring back. The
    matrices in `erased` become (1 − share)·W + share·noise. After UNDO (arXiv 2506.06278);
    docs/methods/reteach.md has the departures.
    """

    data: Mapping[str, float] = field(default_factory=lambda: {"answered": 3.0, "declined": 1.0})
    erased: Mapping[Scope, float] = field(default_factory=lambda: {"mlps": 1.0, "attention": 1.0})
    lr: float = 3e-3
    batch_size: int = 96
    max_steps: int = 600
    over: Reduction = "token"
    max_length: int = 512
    answer_tokens: int = 64
    judge: Judge = field(default_factory=StringRefusal)
    schedule: str = field(default="cosine", kw_only=True)
    warmup: int = field(default=30, kw_only=True)
    mixes: ClassVar[tuple[str, ...]] = ("data",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if odd := [f"{scope}: {share}" for scope, share in self.erased.items() if not 0 <= share <= 1]:
            raise CasehardenError(f"erased says which share of weights noise replaces, from 0 to 1, not {odd[0]}.")
        self.objective()

    def objective(self) -> Imitate:
        return Imitate(self.data, self.batch_size, self.max_length, over=self.over)

    def steps(self, run: Run) -> Iterator[Metrics]:
        told = elicited(run, run.reference(), self.judge, self.answer_tokens, self.data)
        loss = self.objective().prepare(told)
        parameters = run.trainable()
        descent = run.track("descent", Descent(self, parameters))
        if run.step == 0:  # a run that goes on has its weights already
            erase(run.lm.model, self.erased, run.seed_for("noise"))
        for step in run.range(self.max_steps):
            with run.lm.training():
                value, g = gradient(loss, step, parameters)
            yield {"loss": value, **descent.step(g), "examples": self.batch_size}


@torch.no_grad()
def erase(model: nn.Module, shares: Mapping[Scope, float], seed: int) -> None:
    """Each matrix W of a scope with a share s becomes (1 − s)·W + s·noise, as a fresh model's is drawn."""
    generator = torch.Generator().manual_seed(seed)
    deviation = getattr(model.config, "initializer_range", None) or DEVIATION
    for scope, share in shares.items():
        for matrix in scoped(model, scope):
            if matrix.ndim > 1:
                noise = torch.randn(matrix.shape, generator=generator) * deviation
                matrix.lerp_(noise.to(matrix), share)
