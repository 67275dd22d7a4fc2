"""Reward Neutralization: refusals so short and plain that an RL attacker's reward has nothing to climb."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from caseharden.errors import CasehardenError
from caseharden.rl.loop import Extra, PolicyGradient, Tensors, reward_stats
from caseharden.rl.rewards import Brief, ByPool, Judged, Reward
from caseharden.rl.rollouts import Rollouts
from caseharden.train.tuner import Metrics, Run


@dataclass(frozen=True)
class RewardNeutralization(PolicyGradient):
    """Teaches refusals so short and plain that RL finds no reward to climb (after arXiv 2505.04578).

    GRPO, rewarded by `brief` on harmful prompts, so that all answers of a group score alike, whatever an
    attacker rewards, and by `helpful` on benign ones. Each rollout reports ``attacker_reward_variance``, the
    variance of `attacker`, a reward that an attacker could have, within groups of harmful prompts.
    """

    data: Mapping[str, float] = field(default_factory=lambda: {"harmful": 1.0, "benign": 1.0})
    prompts: int = 16
    samples: int = 8
    max_steps: int | None = 200
    n_examples: int | None = 80
    temperature: float = 2.0
    brief: Reward = field(default_factory=Brief)
    helpful: Reward = field(default_factory=Judged)
    attacker: Reward = field(default_factory=Judged)
    logged: ClassVar[tuple[str, ...]] = ("attacker",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_steps is None:
            raise CasehardenError("reward_neutralization needs max_steps.")

    def reward_of(self, run: Run) -> Reward:
        return ByPool({"harmful": self.brief, "benign": self.helpful})

    def extra(self, run: Run) -> Extra:
        """What an attacker would be paid for answers to harmful prompts: reported, never trained on."""
        score = self.attacker.prepare(run)
        harmful = {example.id for example in run.pool("harmful")}

        def watched(rollouts: Rollouts) -> tuple[Tensors, Metrics]:
            asked = [p for p, example in enumerate(rollouts.examples) if example.id in harmful]
            climbed = reward_stats(score(rollouts.of(asked))) if asked else {}
            wanted = ("reward", "reward_variance")
            return {}, {f"attacker_{name}": climbed[name] for name in wanted if name in climbed}

        return watched
