"""Reward Neutralization: refusals so short and plain that an RL attacker's reward has nothing to climb."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from caseharden.errors import CasehardenError
from caseharden.rl.loop import Learner, PolicyGradient, spread
from caseharden.rl.rewards import Brief, ByPool, Judged, Reward, Scene, Scoring
from caseharden.train.tuner import Metrics, Run


@dataclass(frozen=True)
class Watching(Learner):
    """A learner that knows what an attacker would be paid."""

    attacker: Scoring
    harmful: frozenset[str]


@dataclass(frozen=True)
class RewardNeutralization(PolicyGradient):
    """After arXiv 2505.04578, of which neither code nor the full text was to be had: this is our instantiation.

    GRPO on harmful and benign prompts. A harmful prompt wants a short, plain refusal (`brief`), and so all
    answers of a group score alike, whatever an attacker rewards; a benign prompt wants `helpful`, so
    that the model does not come to refuse everything. Ours are: every constant; the string judge as
    judge of refusals; a judge that finds content inside refusals in the place of a judge of explanations;
    the share of benign prompts; rollouts at temperature 2. Each rollout reports ``attacker_reward_variance``,
    the variance of `attacker`, a reward that an attacker could have, within groups of harmful prompts: what
    the method drives to 0.
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

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_steps is None:
            raise CasehardenError("reward_neutralization needs max_steps.")

    def scoring(self, run: Run) -> Scoring:
        return ByPool({"harmful": self.brief, "benign": self.helpful}).scoring(run)

    def learner(self, run: Run) -> Watching:
        attacker = self.attacker.scoring(run)
        harmful = frozenset(example.id for example in run.pool("harmful"))
        return Watching(**vars(super().learner(run)), attacker=attacker, harmful=harmful)

    def seen(self, learner: Learner, scene: Scene, rewards_PG: Tensor) -> Metrics:
        assert isinstance(learner, Watching)
        found = super().seen(learner, scene, rewards_PG)
        asked = [p for p, example in enumerate(scene.rollouts.examples) if example.id in learner.harmful]
        if asked:
            climbed = spread(learner.attacker(scene.of(asked)))
            found |= {
                f"attacker_{name}": climbed[name] for name in ("reward", "reward_variance") if name in climbed
            }
        return found
