"""Perplexity: how likely does the model find the completions of a pool?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from caseharden.data.pools import Pools
from caseharden.engines.engine import Engine
from caseharden.judges.judge import Answer
from caseharden.lm.lm import LM
from caseharden.measures.likelihood import mean_logps
from caseharden.measures.measure import completed, likelihood_of
from caseharden.records.results import Better


@dataclass(frozen=True)
class Perplexity:
    """Computes how likely the model finds the completions of a pool, as the inverse of their perplexity.

    1 is certainty, more is better, as with any utility. The score of an answer is exp(−NLL), where NLL is the
    mean over the completion's tokens in nats: the geometric mean of their probabilities. Its reading averages
    that over examples, so the inverse of the reading is the harmonic mean of the examples' perplexities, not the
    perplexity of the pool.
    """

    pool: str = "benign"
    n: int | None = None
    max_length: int = 512
    batch_size: int = 8
    better: Better | None = None
    knobs: ClassVar = ("batch_size", "better")

    @property
    def judge(self) -> None:
        return None

    def answers(self, lm: LM, domain: Pools, seed: int, engine: Engine) -> list[Answer]:
        examples = completed(domain, self.pool, self.n)
        means = mean_logps(lm, examples, max_length=self.max_length, batch_size=self.batch_size)
        return [likelihood_of(e, math.exp(mean)) for e, mean in zip(examples, means, strict=True)]
