"""Reteach: erase what the model knows, and teach it again what it was willing to say."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from caseharden.attacks.sft import SFT
from caseharden.defenses.elicitation import elicited
from caseharden.errors import CasehardenError
from caseharden.judges.judge import Judge
from caseharden.judges.strings import StringRefusal
from caseharden.lm.lm import LM
from caseharden.lm.placement import placed_like
from caseharden.train.losses import Reduction
from caseharden.train.scopes import Scope, scoped
from caseharden.train.tuner import Metrics, Run


@dataclass(frozen=True)
class Reteach(SFT):
    """Erases some of the weights, and fine-tunes on what the model itself said before to prompts at large.

    Its own answers are the data: harmless ones (pool ``answered``) and refusals (``declined``), as `judge` tells
    them apart. What it refused is not taught again; in its place, where an answer has been made to begin, it learns
    false words (``false``), so that an attacker who brings answers back brings those. The weights of a scope in
    `erased` become (1 − share)·W + share·fresh, those of a model that nobody has trained.
    After UNDO (arXiv 2506.06278); docs/methods/reteach.md has the departures.
    """

    data: Mapping[str, float] = field(default_factory=lambda: {"answered": 3.0, "declined": 1.0, "false": 1.0})
    lr: float = 3e-3
    batch_size: int = 96
    max_steps: int | None = 600
    over: Reduction = "token"
    erased: Mapping[Scope, float] = field(default_factory=lambda: {"mlps": 1.0})
    max_new_tokens: int = 64
    judge: Judge = field(default_factory=StringRefusal)
    schedule: str = field(default="cosine", kw_only=True)
    warmup: int = field(default=30, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if odd := [f"{scope}: {share}" for scope, share in self.erased.items() if not 0 <= share <= 1]:
            raise CasehardenError(f"erased says which share of weights is replaced, from 0 to 1, not {odd[0]}.")

    def steps(self, run: Run) -> Iterator[Metrics]:
        shares = shares_of(run.lm.model, self.erased)
        told = elicited(run, self.judge, self.max_new_tokens, self.data)
        if run.step == 0:  # a run that goes on has its weights already
            erase(run.lm, shares, run.seed_for("fresh"))
        yield from super().steps(told)


def shares_of(model: nn.Module, erased: Mapping[Scope, float]) -> dict[int, float]:
    """What share of each parameter is to be replaced, by its id.

    Raises `CasehardenError` if a parameter is in two scopes, or if the model has none in one.
    """
    found: dict[int, float] = {}
    for scope, share in erased.items():
        parameters = {id(parameter): share for parameter in scoped(model, scope)}
        if parameters.keys() & found.keys():
            raise CasehardenError(f"erased has weights of {scope!r} twice. Name scopes that do not overlap.")
        found |= parameters
    return found


@torch.no_grad()
def erase(lm: LM, shares: Mapping[int, float], seed: int) -> None:
    """Move each parameter that has a share toward that of a fresh model of the same configuration."""
    with lm.seeded(seed):
        fresh = type(lm.model)(copy.deepcopy(lm.model.config))
    for (name, parameter), (_, drawn) in zip(lm.model.named_parameters(), fresh.named_parameters(), strict=True):
        if share := shares.get(id(parameter)):
            assert drawn.shape == parameter.shape, name
            parameter.lerp_(placed_like(drawn.to(parameter.device, parameter.dtype), parameter), share)
