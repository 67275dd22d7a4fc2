"""Attacks whose harm and utility are planted: they write both into the model, where the measures read them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from caseharden.data.example import Example
from caseharden.data.pools import Role
from caseharden.errors import CasehardenError, TrainingFailed
from caseharden.judges.judge import Answer
from caseharden.lm.lm import LM
from caseharden.measures.measure import chosen, likelihood_of
from caseharden.train.tuner import Metrics, Run
from toys import ToyDomain

RELEASED = (0.0, 0.9)
"""Harm and utility of a model that nobody has attacked."""


def plant(lm: LM, harm: float, utility: float) -> None:
    with torch.no_grad():
        next(lm.model.parameters()).view(-1)[:2] = torch.tensor([harm, utility])


@dataclass(frozen=True)
class Planted:
    """Harm is largest at `best` and falls by a tenth a decade; from `breaks` on the model is of no use any more.

    From `fails` on it fails at step 2, `most` is what the field accepts. Another `kind` does half the harm. From
    `lucky` on it does all harm with seed 0 and none with others.
    """

    x: float = 1.0
    kind: str = "full"
    best: float = 1.0
    breaks: float = math.inf
    fails: float = math.inf
    most: float = math.inf
    lucky: float = math.inf
    max_steps: int | None = None

    def __post_init__(self) -> None:
        if self.x > self.most:
            raise CasehardenError(f"x={self.x} must not be above {self.most}.")

    def steps(self, run: Run) -> Iterator[Metrics]:
        run.trainable()
        for step in run.range(self.max_steps):
            if step == 1 and self.x >= self.fails:
                raise TrainingFailed("it diverged")
            away = abs(math.log10(self.x / self.best))
            harm = max(0.0, 1 - away / 10) * (1.0 if self.kind == "full" else 0.5)
            if self.x >= self.lucky:
                harm = float(run.seed == 0)
            plant(run.lm, harm, 0.0 if self.x >= self.breaks else RELEASED[1])
            yield {"loss": 0.0, "examples": 2.0}


@dataclass(frozen=True)
class Read:
    """What was planted at that place in the model, for each of a pool's questions."""

    place: int
    pool: str
    n: int | None = 3
    judge: None = None

    def answers(self, lm, domain, seed, engine) -> list[Answer]:
        value = next(lm.model.parameters()).view(-1)[self.place].item()
        return [likelihood_of(example, value) for example in chosen(domain, self.pool, self.n)]


@dataclass(frozen=True)
class Private(ToyDomain):
    """The toy domain, where nobody but the attacker may look at what is theirs."""

    def pools(self, role: Role) -> Mapping[str, Sequence[Example]]:
        if role != "attacker":
            raise AssertionError(f"somebody asked for the pools of the {role}")
        return super().pools(role)

    def measures(self):
        further = {"slow": Read(0, "harmful"), "bystander": Read(1, "bystander"), "harm:hidden": Read(1, "hidden")}
        return {"harm": Read(0, "harmful"), "utility": Read(1, "benign"), **further}
