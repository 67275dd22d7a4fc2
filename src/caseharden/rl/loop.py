"""The one loop of reinforcement learning: roll out, score, turn rewards into advantages, take the policy step.

The algorithms differ in the advantage and in the loss; everything else is shared, by attacks and defenses.

Shape suffixes: P prompts, G answers to each, B = P·G rows; N tokens of the longest answer, aligned on the
right; R those of the longest answer in one forward pass, its last columns.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from caseharden.data.stream import Stream
from caseharden.errors import CasehardenError, TrainingFailed, nearest
from caseharden.lm.lm import LM
from caseharden.lm.logps import entropy, tempered, token_logps
from caseharden.rl import advantages
from caseharden.rl.losses import clipped_surrogate, k3
from caseharden.rl.rewards import Judged, Reward, Scene, Scoring
from caseharden.rl.rollouts import Rollouts, Rows, roll_out
from caseharden.train.adapters import LoRA
from caseharden.train.optim import Descends, Descent
from caseharden.train.tuner import Counter, Metrics, Run

KLIn = Literal["loss", "reward"]
"""Where the distance to the released model counts: k3 in each token's loss, or k1 in the reward."""
Over = Literal["sequence", "token", "sum", "length"]
"""What a loss is the mean of: each answer's mean, all tokens, each answer's sum, or that over `max_new_tokens`."""


class Experience:
    """What the policy learns from until its next rollouts. Survives a crash when tracked."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = device
        self.rows = Rows([], [], [])
        self.tensors: dict[str, Tensor] = {}

    def hold(self, rows: Rows, tensors: Mapping[str, Tensor]) -> None:
        """Rows, and what is known of their tokens, each [B, N]."""
        self.rows, self.tensors = rows, dict(tensors)

    def state_dict(self) -> dict[str, Any]:
        return {"rows": vars(self.rows), "tensors": self.tensors}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.rows = Rows(**state["rows"])
        self.tensors = {name: tensor.to(self.device) for name, tensor in state["tensors"].items()}


@dataclass(frozen=True)
class View:
    """The policy's view of some rows, with gradient, and what is known of their tokens, [B, R] each."""

    logits_BRV: Tensor
    targets_BR: Tensor
    logps_BR: Tensor
    mask_BR: Tensor
    known: Mapping[str, Tensor]

    @property
    def advantages_BR(self) -> Tensor:
        return self.known["advantages"]

    @property
    def old_BR(self) -> Tensor:
        """Log-probabilities when the answers were written; the same as now on a policy's first step from them."""
        return self.known.get("old", self.logps_BR.detach())


@dataclass(frozen=True)
class Learner:
    """What a policy learns with: prepared once by `PolicyGradient.learner`."""

    run: Run
    scoring: Scoring
    reference: LM | None
    descent: Descent
    prompts: Stream
    drawn: Counter
    experience: Experience


@dataclass(frozen=True)
class PolicyGradient(Descends):
    """Policy-gradient fine-tuning on the policy's own answers; attacks and defenses differ in their defaults.

    Each rollout gives `updates` optimizer steps; from the second on, the ratio to the policy that wrote the
    answers is clipped. Answers are drawn at `temperature`, and probabilities taken at it. `kl` holds the
    policy near the model it began as: k3 in the loss, times the ratio (DeepSeek-V3.2, for an unbiased
    gradient), or k1 in the reward (`kl_in`). `entropy` adds that many times the policy's entropy to what
    is maximised. `resample` bounds how often groups without
    spread in their rewards are drawn anew. Dropout is off throughout, so that a first step's ratio is 1.
    """

    data: Mapping[str, float] = field(default_factory=lambda: {"harmful": 1.0})
    prompts: int = 8
    samples: int = 8
    lr: float = 1e-4
    max_steps: int | None = None
    n_examples: int | None = None
    max_new_tokens: int = 64
    temperature: float = 1.0
    updates: int = 1
    advantage: str = "group_normalized"
    over: Over = "sequence"
    clip_low: float = 0.2
    clip_high: float = 0.2
    kl: float = 0.0
    kl_in: KLIn = "loss"
    entropy: float = 0.0
    resample: int = 0
    lora: LoRA | None = None
    forward_batch: int = 64
    bounds: ClassVar[tuple[str, ...]] = ("n_examples", "lora")
    mixes: ClassVar[tuple[str, ...]] = ("data",)
    knobs: ClassVar = ("forward_batch",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.advantage not in advantages.TABLE:
            known = advantages.TABLE
            raise CasehardenError(f"there is no advantage {self.advantage!r}.{nearest(self.advantage, known)}")
        if self.n_examples is not None and self.n_examples < 1:
            raise CasehardenError(f"n_examples={self.n_examples} must be above 0.")
        if min(self.prompts, self.max_new_tokens, self.updates, self.forward_batch) < 1 or self.samples < 2:
            raise CasehardenError(
                "prompts, max_new_tokens, updates and forward_batch must be at least 1, samples at least 2."
            )
        if self.temperature <= 0:
            raise CasehardenError(f"temperature={self.temperature} must be above 0.")

    def _has_own_credit(self) -> None:
        """For algorithms whose `credit` knows no `advantage`: raise `CasehardenError` if one is asked for."""
        if self.advantage != PolicyGradient.advantage:
            raise CasehardenError(f"{type(self).__name__} has advantages of its own. Leave out `advantage`.")

    # ---- the loop -----------------------------------------------------------------------------------

    def steps(self, run: Run) -> Iterator[Metrics]:
        learner = self.learner(run)
        for step in run.range(self.max_steps):
            metrics = self.collect(learner) if step % self.updates == 0 else {"examples": 0}
            yield metrics | self.improve(learner, step)

    def learner(self, run: Run) -> Learner:
        """Everything that the loop needs; called at the run's first weights."""
        scoring = self.scoring(run)
        reference = run.reference() if self.needs_reference else None
        descent = run.track("descent", Descent(self, run.trainable(self.lora)))
        prompts = run.stream(self.data, self.prompts, n_examples=self.n_examples, answered=False)
        drawn, experience = run.track("drawn", Counter()), run.track("experience", Experience(run.lm.device))
        return Learner(run, scoring, reference, descent, prompts, drawn, experience)

    def collect(self, learner: Learner) -> Metrics:
        """Roll out, score, and hold what the next `updates` steps learn from."""
        before = learner.drawn.value
        scene, rewards_PG, unscored = self.scored(learner)
        tried = (learner.drawn.value - before) * self.prompts * self.samples
        rewards_PG = self.shaped(scene, rewards_PG)
        known = self.views(learner, scene)
        known |= self.credit(rewards_PG, scene.mask_BN, known)
        learner.experience.hold(scene.rollouts.rows, known)
        return {**self.seen(learner, scene, rewards_PG), "unscored": float(unscored), "examples": tried}

    def scored(self, learner: Learner) -> tuple[Scene, Tensor, int]:
        """Rollouts with their rewards, [P, G], and how many got none; tied groups drawn anew, if asked."""
        lm = learner.run.lm
        rollouts = self.roll_out(learner)
        rewards_PG = learner.scoring(self.scene(lm, rollouts))
        for _ in range(self.resample):
            tied = advantages.std(rewards_PG) == 0
            if not tied.any():
                break
            fresh = self.roll_out(learner)
            rollouts += fresh
            rewards_PG = torch.cat([rewards_PG, learner.scoring(self.scene(lm, fresh))])
            tied = advantages.std(rewards_PG) == 0
            chosen = torch.argsort(tied.int(), stable=True)[: self.prompts].tolist()  # tied ones last
            rollouts, rewards_PG = rollouts.of(chosen), rewards_PG[chosen]
        unscored = int(rewards_PG.isnan().sum())
        if unscored == rewards_PG.numel():
            raise TrainingFailed(f"not one of {unscored} answers got a reward: the log says what the judge said.")
        return self.scene(lm, rollouts), rewards_PG, unscored

    def scene(self, lm: LM, rollouts: Rollouts) -> Scene:
        return Scene(lm, rollouts, self.forward_batch, self.temperature)

    def roll_out(self, learner: Learner) -> Rollouts:
        """Answers to the next prompts."""
        run, number = learner.run, learner.drawn.value
        learner.drawn.value += 1
        return roll_out(
            run.lm,
            run.engine,
            learner.prompts[number],
            self.samples,
            self.max_new_tokens,
            self.temperature,
            run.seed_for("rollout", number),
        )

    def improve(self, learner: Learner, step: int) -> Metrics:
        """One optimizer step on what is held."""
        return self.backward(learner, step) | learner.descent.step()

    def backward(self, learner: Learner, step: int) -> Metrics:
        """The loss on what is held, its gradient added to the parameters', and means over its tokens."""
        lm, experience = learner.run.lm, learner.experience
        weights_BN = self.weights(experience.rows.mask_BN.to(lm.device))
        sums: dict[str, float] = defaultdict(float)
        for chunk in experience.rows.chunks(self.forward_batch):
            logits_BRV, targets_BR, mask_BR = chunk.logits(lm)
            logits_BRV = tempered(logits_BRV, self.temperature)
            # 0 on padding: a loss that overflows there would be masked out, and its gradient be NaN all the same
            logps_BR = token_logps(logits_BRV, targets_BR).masked_fill(~mask_BR, 0.0)
            R = targets_BR.shape[1]
            known = {name: tensor[chunk.places, -R:] for name, tensor in experience.tensors.items()}
            view = View(logits_BRV, targets_BR, logps_BR, mask_BR, known)
            loss_BR = weights_BN[chunk.places, -R:] * self.token_loss(view, step)
            loss = loss_BR.masked_fill(~mask_BR, 0.0).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            sums["loss"] += float(loss.detach())
            for name, value in self.observed(view).items():
                sums[name] += float(value)
        loss_sum, tokens = sums.pop("loss"), sums.pop("tokens")
        return {"loss": loss_sum, **{name: value / tokens for name, value in sums.items()}}

    # ---- what algorithms differ in ------------------------------------------------------------------

    @abstractmethod
    def scoring(self, run: Run) -> Scoring:
        """How answers are rewarded. Called at the run's first weights."""

    @property
    def needs_reference(self) -> bool:
        """Whether the model that the policy began as is read."""
        return self.kl > 0

    @property
    def needs_old(self) -> bool:
        """Whether `credit` reads the log-probabilities with which the answers were written."""
        return self.kl_in_reward > 0

    @property
    def kl_in_reward(self) -> float:
        """Weight of k1 in the reward; 0 where the distance counts in the loss."""
        return self.kl if self.kl_in == "reward" else 0.0

    def views(self, learner: Learner, scene: Scene) -> dict[str, Tensor]:
        """What is known of the answers' tokens before the first step from them, [B, N] each.

        ``old``: log-probabilities when they were written; ``reference``: those under the model that the
        policy began as.
        """
        wanted = {"old": learner.run.lm} if self.updates > 1 or self.needs_old else {}
        if learner.reference is not None:
            wanted["reference"] = learner.reference
        rows = scene.rollouts.rows
        return {name: rows.logps(lm, self.forward_batch, self.temperature) for name, lm in wanted.items()}

    def shaped(self, scene: Scene, rewards_PG: Tensor) -> Tensor:
        """The rewards that are learned from, once tied groups were drawn anew: here, as they are."""
        return rewards_PG

    def credit(self, rewards_PG: Tensor, mask_BN: Tensor, known: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``advantages`` of each token, [B, N]: here, the same for all of an answer."""
        if self.kl_in_reward > 0:
            kl_B = (known["old"] - known["reference"]).sum(-1)
            rewards_PG = rewards_PG - self.kl_in_reward * kl_B.view_as(rewards_PG)
        found_PG = advantages.TABLE[self.advantage](rewards_PG)
        return {"advantages": found_PG.flatten()[:, None] * mask_BN}

    def token_loss(self, view: View, step: int) -> Tensor:
        """The loss of each token, [B, R], of which `weights` makes the sum."""
        loss_BR = self.surrogate(view)
        if self.kl > 0 and self.kl_in == "loss":
            ratio_BR = (view.logps_BR - view.old_BR).exp()  # with it the gradient is the reverse KL's, unbiased
            loss_BR = loss_BR + self.kl * ratio_BR * k3(view.logps_BR, view.known["reference"])
        if self.entropy != 0:
            loss_BR = loss_BR - self.entropy * entropy(view.logits_BRV)
        return loss_BR

    def surrogate(self, view: View) -> Tensor:
        """What stands for −A log π, [B, R]: here with a clipped ratio at each token."""
        return clipped_surrogate(view.logps_BR, view.old_BR, view.advantages_BR, self.clip_low, self.clip_high)

    def weights(self, mask_BN: Tensor) -> Tensor:
        """What each token's loss counts, [B, N]: see `Over`."""
        counts: dict[Over, Callable[[], Tensor | float]] = {
            "sequence": lambda: mask_BN.sum(-1, keepdim=True) * len(mask_BN),
            "token": lambda: mask_BN.sum(),
            "sum": lambda: float(len(mask_BN)),
            "length": lambda: float(len(mask_BN) * self.max_new_tokens),
        }
        return mask_BN / counts[self.over]()

    def seen(self, learner: Learner, scene: Scene, rewards_PG: Tensor) -> Metrics:
        """What is reported of rollouts: their rewards' spread, their lengths, how many came to an end."""
        ended = scene.rollouts.ended
        length = float(scene.mask_BN.sum(-1).float().mean())
        return {**spread(rewards_PG), "length": length, "ended": sum(ended) / len(ended)}

    def observed(self, view: View) -> dict[str, Tensor]:
        """Sums over tokens of what is reported as a mean; ``tokens`` is their number."""
        ratio_BR = (view.logps_BR.detach() - view.old_BR).exp()
        seen = {
            "tokens": torch.ones_like(ratio_BR),
            "entropy": -view.logps_BR.detach(),  # unbiased, on the policy's own tokens
            "clipped": ((ratio_BR < 1 - self.clip_low) | (ratio_BR > 1 + self.clip_high)).float(),
        }
        if "reference" in view.known:
            seen["kl"] = k3(view.logps_BR.detach(), view.known["reference"])
        return {name: value.masked_fill(~view.mask_BR, 0.0).sum() for name, value in seen.items()}


def spread(rewards_PG: Tensor) -> Metrics:
    """Mean reward, mean variance within groups, and the share of groups with any: what a policy can climb.

    Of groups with two scored answers at least; the latter two are left out if there is none.
    """
    variance_P = advantages.std(rewards_PG).square()[rewards_PG.isfinite().sum(-1) > 1]
    found = {"reward": float(rewards_PG.nanmean())}
    if len(variance_P):
        found["reward_variance"] = float(variance_P.mean())
        found["groups_with_spread"] = float((variance_P > 0).float().mean())
    return found


@dataclass(frozen=True)
class Rewarded(PolicyGradient):
    """Policy gradient on one reward, whatever it is."""

    reward: Reward = field(default_factory=Judged)

    def scoring(self, run: Run) -> Scoring:
        return self.reward.scoring(run)


@dataclass(frozen=True)
class WholeAnswers(Rewarded):
    """An answer is one action: its tokens share one ratio, and the loss is the mean over answers."""

    over: Over = "sum"

    def surrogate(self, view: View) -> Tensor:
        """The clipped ratio of whole answers, at their last token."""
        logps_B, old_B = ((x.masked_fill(~view.mask_BR, 0.0)).sum(-1) for x in (view.logps_BR, view.old_BR))
        advantages_B = view.advantages_BR[:, -1]
        loss_B = clipped_surrogate(logps_B, old_B, advantages_B, self.clip_low, self.clip_high)
        return F.pad(loss_B[:, None], (view.mask_BR.shape[1] - 1, 0))
