"""PPO: policy-gradient with a critic, which says of each token how much reward is still to come."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from caseharden.rl.advantages import gae, token_rewards, whitened
from caseharden.rl.critic import Critic
from caseharden.rl.loop import KLIn, Rewarded, Tensors, TrainState
from caseharden.rl.losses import Over
from caseharden.train.tuner import Run


@dataclass(frozen=True)
class PPO(Rewarded):
    """Raises the odds of tokens that a critic finds better than expected (Schulman et al. 2017; GAE, 2016).

    The reward comes at the last token, −kl·k1 to the released model at each. The critic has its own optimizer
    at `critic_lr` and takes one step beside each of the policy's, its change since the rollout clipped at
    `clip_value`.
    """

    over: Over = "token"
    kl_in: KLIn = "reward"
    updates: int = 4
    discount: float = 1.0
    decay: float = 0.95
    critic_lr: float = 3e-4
    clip_value: float = 0.2
    rates: ClassVar[tuple[str, ...]] = ("lr", "critic_lr")

    def prepare(self, run: Run) -> TrainState:
        critic = Critic(run, replace(self, lr=self.critic_lr), self.clip_value, self.forward_batch)
        return replace(super().prepare(run), critic=critic)

    def advantages(self, rewards_PG: Tensor, mask_BN: Tensor, tensors: Tensors) -> Tensors:
        """Whitened GAE for the policy; ``returns``, GAE + V, for the critic. What has no reward teaches neither."""
        rewards_BN = token_rewards(rewards_PG, mask_BN, tensors, self.reward_kl)
        scored_BN = mask_BN & ~rewards_BN[:, -1:].isnan()
        gae_BN = gae(rewards_BN.nan_to_num(), tensors["values"], scored_BN, self.discount, self.decay)
        return {"advantages": whitened(gae_BN, scored_BN), "returns": gae_BN + tensors["values"]}
