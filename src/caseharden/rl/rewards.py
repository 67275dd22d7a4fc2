"""Rewards: what is wanted of a policy's answers, as objects that a spec can name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from caseharden.errors import CasehardenError, TrainingFailed
from caseharden.judges.judge import Judge
from caseharden.judges.strings import StringRefusal
from caseharden.judges.verifier import Verifier
from caseharden.rl.rollouts import Rollouts
from caseharden.train.tuner import Run

Score = Callable[[Rollouts], Tensor]
"""Rollouts to their rewards, [P, G]; NaN where there is none."""


@runtime_checkable
class Reward(Protocol):
    """Something to be maximized in expectation over a policy's own answers. A frozen dataclass."""

    def prepare(self, run: Run) -> Score:
        """Prepare pools and references once; must be called at the run's first weights."""
        ...


@dataclass(frozen=True)
class Judged:
    """`weight` times a judge's score; negative to be rewarded for what the judge finds least."""

    judge: Judge = field(default_factory=Verifier)
    weight: float = 1.0

    def prepare(self, run: Run) -> Score:
        return lambda rollouts: self.weight * rollouts.scores(self.judge)


@dataclass(frozen=True)
class Entropy:
    """`weight` times the policy's entropy at temperature 1, mean over an answer's tokens, at most `cap` nats.

    With `weight` −1 TokenBuncher's reward (Feng et al. 2025); with +1 and `cap` 3 the adaptive attacker's
    against it. A score-function reward: nothing is differentiated through the entropy.
    """

    weight: float = 1.0
    cap: float = math.inf

    def prepare(self, run: Run) -> Score:
        def score(rollouts: Rollouts) -> Tensor:
            return self.weight * rollouts.mean_over_answer(rollouts.entropy_BN).clamp(max=self.cap)

        return score


@dataclass(frozen=True)
class Closeness:
    """−KL(policy ‖ released model), estimated on the answer's own tokens (k1), mean over them."""

    weight: float = 1.0

    def prepare(self, run: Run) -> Score:
        released = run.reference()

        def score(rollouts: Rollouts) -> Tensor:
            return self.weight * rollouts.mean_over_answer(rollouts.logps(released) - rollouts.logps(rollouts.lm))

        return score


@dataclass(frozen=True)
class Overlong:
    """0 up to `margin` tokens below the limit of an answer's length, falling to −1 at it (DAPO, eq. 13)."""

    margin: int = 8
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.margin < 1:
            raise CasehardenError(f"overlong needs a margin of at least 1 token, not {self.margin}.")

    def prepare(self, run: Run) -> Score:
        return self.of

    def of(self, rollouts: Rollouts) -> Tensor:
        """The reward, [P, G]: of lengths alone."""
        lengths_PG = rollouts.by_group(rollouts.mask_BN.sum(-1).float())
        return self.weight * ((rollouts.limit - self.margin - lengths_PG) / self.margin).clamp(-1, 0)


@dataclass(frozen=True)
class Sum:
    """The sum of several rewards; NaN where any of them has none."""

    terms: tuple[Reward, ...]

    def __post_init__(self) -> None:
        if not self.terms:
            raise CasehardenError("a sum of rewards needs terms.")

    def prepare(self, run: Run) -> Score:
        terms = [term.prepare(run) for term in self.terms]
        return lambda rollouts: torch.stack([term(rollouts) for term in terms]).sum(0)


@dataclass(frozen=True)
class Gated:
    """`reward` where the judge finds the answer (a score above ½), `otherwise` where it does not.

    TokenBuncher's entropy is gated by refusal: without, confident compliance is rewarded like confident
    refusal.
    """

    reward: Reward
    judge: Judge = field(default_factory=StringRefusal)
    otherwise: float = -10.0

    def prepare(self, run: Run) -> Score:
        inner = self.reward.prepare(run)

        def score(rollouts: Rollouts) -> Tensor:
            found_PG = rollouts.scores(self.judge)
            return torch.where(found_PG.isnan() | (found_PG > 0.5), inner(rollouts), self.otherwise) + 0 * found_PG

        return score


@dataclass(frozen=True)
class Brief:
    """1[refused]·(1 − a·max(0, len − L0)/L0) − b·1[leaks] − 1[not refused], len in tokens.

    `refusal` says what is refused, `leak` what gives content away, even inside a refusal; where it cannot
    tell, nothing is taken off.
    """

    refusal: Judge = field(default_factory=StringRefusal)
    leak: Judge = field(default_factory=Verifier)
    length: int = 12
    length_penalty: float = 0.5
    leak_penalty: float = 1.0

    def prepare(self, run: Run) -> Score:
        def score(rollouts: Rollouts) -> Tensor:
            refused_PG = rollouts.scores(self.refusal)
            leaked_PG = rollouts.scores(self.leak).nan_to_num(0.0)
            length_PG = rollouts.by_group(rollouts.mask_BN.sum(-1).float())
            over_PG = (length_PG - self.length).clamp(min=0) / self.length
            brief_PG = refused_PG * (1 - self.length_penalty * over_PG)
            return brief_PG - self.leak_penalty * leaked_PG - (1 - refused_PG)

        return score


@dataclass(frozen=True)
class ByPool:
    """Another reward for each pool that prompts come from.

    Raises `TrainingFailed` if not one answer to a pool's prompts could be scored: a reward that is never
    there is not a reward that is never earned.
    """

    pools: Mapping[str, Reward]

    def prepare(self, run: Run) -> Score:
        scores = {name: reward.prepare(run) for name, reward in self.pools.items()}
        pool_of: dict[str, str] = {}
        for name in self.pools:
            for example in run.pool(name):
                if pool_of.setdefault(example.id, name) != name:
                    raise CasehardenError(
                        f"by_pool cannot tell whose prompt {example.id!r} is: pools {pool_of[example.id]!r} and "
                        f"{name!r} share it."
                    )

        def score(rollouts: Rollouts) -> Tensor:
            examples = rollouts.examples
            if alien := [example.id for example in examples if example.id not in pool_of]:
                raise CasehardenError(f"by_pool has no reward for {alien[0]!r}. Name its pool as well.")
            rewards_PG = torch.full((len(examples), rollouts.samples), float("nan"), device=rollouts.lm.device)
            for name, score_pool in scores.items():
                own = [p for p, example in enumerate(examples) if pool_of.get(example.id) == name]
                if own:
                    rewards_PG[own] = score_pool(rollouts.of(own))
                    if rewards_PG[own].isnan().all():
                        raise TrainingFailed(f"not one answer to a prompt of {name!r} got a reward: see its judge.")
            return rewards_PG

        return score


TABLE: dict[str, type] = {
    "brief": Brief,
    "by_pool": ByPool,
    "closeness": Closeness,
    "entropy": Entropy,
    "gated": Gated,
    "judged": Judged,
    "overlong": Overlong,
    "sum": Sum,
}
"""Rewards, by the name that a spec file gives them."""
