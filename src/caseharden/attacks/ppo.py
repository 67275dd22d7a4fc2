"""PPO: policy-gradient with a critic, which says of each token how much reward is still to come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from caseharden.rl.advantages import gae, token_rewards, whitened
from caseharden.rl.critic import Critic
from caseharden.rl.loop import KLIn, Learner, Over, Rewarded
from caseharden.rl.rewards import Scene
from caseharden.train.optim import Descent
from caseharden.train.tuner import Metrics, Run


@dataclass(frozen=True)
class ActorCritic(Learner):
    """A learner with a critic."""

    critic: Critic
    critic_descent: Descent


@dataclass(frozen=True)
class PPO(Rewarded):
    """Proximal policy optimisation (Schulman et al. 2017) with GAE (Schulman et al. 2016) at each token.

    The reward comes at the last token, −kl·k1 to the released model at each. The critic has its own
    optimizer at `critic_lr` and takes one step beside each of the policy's, its change since the rollout
    clipped at `clip_value`.
    """

    over: Over = "token"
    kl_in: KLIn = "reward"
    updates: int = 4
    discount: float = 1.0
    decay: float = 0.95
    critic_lr: float = 3e-4
    clip_value: float = 0.2
    rates: ClassVar[tuple[str, ...]] = ("lr", "critic_lr")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._has_own_credit()

    def learner(self, run: Run) -> ActorCritic:
        critic = Critic(run.lm)  # before the policy gets adapters
        descent = Descent(replace(self, lr=self.critic_lr), critic.parameters())
        learner = super().learner(run)
        run.track("critic", critic)
        run.track("critic descent", descent)
        return ActorCritic(**vars(learner), critic=critic, critic_descent=descent)

    def views(self, learner: Learner, scene: Scene) -> dict[str, Tensor]:
        assert isinstance(learner, ActorCritic)
        rows = scene.rollouts.rows
        values_BN = torch.zeros(rows.mask_BN.shape, device=learner.run.lm.device)
        with torch.no_grad():
            for chunk in rows.chunks(self.forward_batch):
                batch = chunk.batch(learner.run.lm)
                values_BN[chunk.places, -batch.response_length :] = learner.critic(batch)
        return {**super().views(learner, scene), "values": values_BN}

    def credit(self, rewards_PG: Tensor, mask_BN: Tensor, known: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whitened GAE for the policy; ``returns``, GAE + V, for the critic. What has no reward teaches neither."""
        rewards_BN = token_rewards(rewards_PG, mask_BN, known, self.kl_in_reward)
        scored_BN = mask_BN & ~rewards_BN[:, -1:].isnan()
        found_BN = gae(rewards_BN.nan_to_num(), known["values"], scored_BN, self.discount, self.decay)
        return {"advantages": whitened(found_BN, scored_BN), "returns": found_BN + known["values"]}

    def improve(self, learner: Learner, step: int) -> Metrics:
        assert isinstance(learner, ActorCritic)
        return {**super().improve(learner, step), "value_loss": self.fit(learner)}

    def fit(self, learner: ActorCritic) -> float:
        """One optimizer step of the critic towards the returns; the loss before it."""
        lm, experience = learner.run.lm, learner.experience
        weights_BN = self.weights(experience.rows.mask_BN.to(lm.device))
        total = 0.0
        for chunk in experience.rows.chunks(self.forward_batch):
            batch = chunk.batch(lm)
            R = batch.response_length
            values_BR = learner.critic(batch)
            before_BR, returns_BR = (experience.tensors[name][chunk.places, -R:] for name in ("values", "returns"))
            near_BR = before_BR + (values_BR - before_BR).clamp(-self.clip_value, self.clip_value)
            errors_BR = torch.maximum((values_BR - returns_BR).square(), (near_BR - returns_BR).square())
            loss = 0.5 * (weights_BN[chunk.places, -R:] * errors_BR).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        learner.critic_descent.step()
        return total
