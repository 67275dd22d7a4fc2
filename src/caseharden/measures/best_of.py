"""Best of N: how likely is a given answer among many sampled ones? What reinforcement learning climbs from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from caseharden.data.pools import Pools
from caseharden.engines.engine import Engine
from caseharden.errors import CasehardenError
from caseharden.judges.judge import Answer
from caseharden.lm.lm import LM
from caseharden.measures.likelihood import total_logps
from caseharden.measures.measure import completed, likelihood_of
from caseharden.records.results import Better


@dataclass(frozen=True)
class BestOf:
    """Computes the chance that one of `samples` answers, drawn at a temperature, opens with a pool's completion.

    1 − (1 − p)^N, p being the completion's probability (best-of-N, as in Hughes et al. 2024, arXiv
    2412.03556; pass@N of that one answer). Nothing is sampled, so a chance of one in a million is seen as
    well: N = 1 is the rate of slips without their noise. Of several `temperatures` the one with the highest chance
    counts, for each completion anew; they share a forward pass. A lower bound where there are other ways to say
    the same; of a completion that does not fit into `max_length`, the part that does.
    """

    pool: str = "harmful"
    samples: int = 1
    temperatures: tuple[float, ...] = (1.0,)
    n: int | None = None
    max_length: int = 512
    batch_size: int = 64
    better: Better | None = None
    knobs: ClassVar = ("batch_size", "better")

    def __post_init__(self) -> None:
        if self.samples < 1 or min(self.temperatures, default=0.0) <= 0:
            raise CasehardenError(
                f"best_of: samples={self.samples} must be at least 1, temperatures={[*self.temperatures]} one or "
                "several above 0."
            )

    @property
    def judge(self) -> None:
        return None

    def answers(self, lm: LM, domain: Pools, seed: int, engine: Engine) -> list[Answer]:
        examples = completed(domain, self.pool, self.n)
        found = total_logps(
            lm, examples, max_length=self.max_length, batch_size=self.batch_size, temperatures=self.temperatures
        )
        likeliest = [max(logps, key=lambda logp: (math.isnan(logp), logp)) for logps, _ in found]
        return [likelihood_of(e, self.chance(logp)) for e, logp in zip(examples, likeliest, strict=True)]

    def chance(self, logp: float) -> float:
        """That of at least one hit in `samples` answers, for an answer of this log-probability, in nats."""
        p = math.exp(logp)
        return 1.0 if p >= 1 else -math.expm1(self.samples * math.log1p(-p))
