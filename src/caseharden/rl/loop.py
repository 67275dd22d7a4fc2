"""The one loop of reinforcement learning: roll out, score, turn rewards into advantages, take the policy step.

Attacks and defenses share it. An algorithm differs in its advantages and in the loss of a token; a defense may
know something extra of its rollouts.

Shape suffixes: P prompts, G answers to each, B = P·G rows; N tokens of the longest answer, aligned on the
right; R those of the longest answer in one forward pass, its last columns.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from caseharden.data.stream import Stream
from caseharden.errors import CasehardenError, TrainingFailed, nearest
from caseharden.lm.lm import LM
from caseharden.lm.logps import entropy, scale_logits, token_logps
from caseharden.rl.advantages import TABLE as ADVANTAGES
from caseharden.rl.advantages import std
from caseharden.rl.critic import Critic
from caseharden.rl.losses import Over, clipped_surrogate, importance, k3, token_weights
from caseharden.rl.rewards import Judged, Reward, Score
from caseharden.rl.rollouts import Rollouts, Rows, roll_out
from caseharden.train.adapters import LoRA
from caseharden.train.optim import Descends, Descent
from caseharden.train.tuner import Counter, Metrics, Run

KLIn = Literal["loss", "reward"]
"""Where the distance to the released model counts: k3 in each token's loss, or k1 in the reward."""
Tensors = dict[str, Tensor]
"""What is known of the answers' tokens, [B, N] each, or of those in one forward pass, [B, R], by name."""
Extra = Callable[[Rollouts], tuple[Tensors, Metrics]]
"""Rollouts to what else is known of their tokens, and to what else is reported of them."""


class Buffer:
    """Answers that the policy learns from until its next rollouts. Survives a crash when tracked."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.rows = Rows([], [])
        self.tensors: Tensors = {}

    def fill(self, rows: Rows, tensors: Tensors) -> None:
        """Hold these answers, and what is known of their tokens, in the place of those before."""
        self.rows, self.tensors = rows, tensors

    def state_dict(self) -> dict[str, Any]:
        return {"prompts": self.rows.prompts, "answers": self.rows.answers, "tensors": self.tensors}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        tensors = {name: tensor.to(self.device) for name, tensor in state["tensors"].items()}
        self.fill(Rows(state["prompts"], state["answers"]), tensors)


@dataclass(frozen=True)
class TrainState:
    """What a policy is trained with, made once, at the run's first weights."""

    run: Run
    score: Score
    extra: Extra
    reference: LM | None
    descent: Descent
    prompts: Stream
    drawn: Counter
    buffer: Buffer
    critic: Critic | None = None


@dataclass(frozen=True)
class PolicyGradient(Descends):
    """Fine-tunes a policy on its own answers; attacks and defenses differ in their defaults.

    Each rollout gives `updates` optimizer steps; from the second on, the ratio to the policy that wrote the
    answers is clipped. Answers are drawn at `temperature`, and probabilities taken at it. `kl` holds the policy
    near the model it began as (`kl_in`), `entropy` adds that many times the policy's entropy to what is
    maximized, `resample` bounds how often groups without spread in their rewards are drawn anew. Where the engine
    draws from other probabilities than ours, losses count their ratio, at most `importance_cap`; None: they do not.
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
    importance_cap: float | None = 2.0
    lora: LoRA | None = None
    forward_batch: int = 64
    bounds: ClassVar[tuple[str, ...]] = ("n_examples", "lora")
    mixes: ClassVar[tuple[str, ...]] = ("data",)
    knobs: ClassVar[tuple[str, ...]] = ("forward_batch",)
    logged: ClassVar[tuple[str, ...]] = ()
    """Fields that are reported and never trained on: whoever judges in them rewards nothing."""
    needs_logps: ClassVar[bool] = False
    """Whether `advantages` reads log-probabilities of policy and released model even where `kl` is 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.advantage not in ADVANTAGES:
            raise CasehardenError(f"there is no advantage {self.advantage!r}.{nearest(self.advantage, ADVANTAGES)}")
        own = type(self).advantages is not PolicyGradient.advantages
        if own and self.advantage != type(self).advantage:
            raise CasehardenError(f"{type(self).__name__} has advantages of its own. Leave out `advantage`.")
        if self.n_examples is not None and self.n_examples < 1:
            raise CasehardenError(f"n_examples={self.n_examples} must be above 0.")
        if min(self.prompts, self.max_new_tokens, self.updates, self.forward_batch) < 1 or self.samples < 2:
            raise CasehardenError(
                "prompts, max_new_tokens, updates and forward_batch must be at least 1, samples at least 2."
            )
        if self.temperature <= 0:
            raise CasehardenError(f"temperature={self.temperature} must be above 0.")
        if self.importance_cap is not None and not self.importance_cap >= 1:
            raise CasehardenError(f"importance_cap={self.importance_cap} must be at least 1, or null for none.")

    # ---- the loop -----------------------------------------------------------------------------------

    def steps(self, run: Run) -> Iterator[Metrics]:
        state = self.prepare(run)
        buffer = state.buffer
        for step in run.range(self.max_steps):
            metrics: Metrics = {"examples": 0}
            if step % self.updates == 0:
                # Roll out and score: G answers to each of P prompts, and their rewards.
                before = state.drawn.value
                rollouts, rewards_PG = self.roll_out(state)
                tried = (state.drawn.value - before) * self.prompts * self.samples
                # Turn rewards into advantages, with what is known of the answers before the first step from them.
                tensors = self.old_logps(state, rollouts) | self.engine_logps(state, rollouts)
                if state.critic is not None:
                    tensors["values"] = state.critic.values(rollouts.rows)
                extra, extra_metrics = state.extra(rollouts)
                tensors |= extra | self.advantages(rewards_PG, rollouts.mask_BN, tensors)
                buffer.fill(rollouts.rows, tensors)
                metrics = rollout_metrics(rollouts, rewards_PG) | extra_metrics | {"examples": tried}
            # Take the policy step, and the critic's beside it.
            weights_BN = token_weights(buffer.rows.mask_BN.to(buffer.device), self.over, self.max_new_tokens)
            metrics |= self.backward(run.lm, buffer, weights_BN, step)
            metrics |= state.descent.step()
            if state.critic is not None:
                metrics["value_loss"] = state.critic.step(buffer.rows, buffer.tensors, weights_BN)
            yield metrics

    def backward(self, lm: LM, buffer: Buffer, weights_BN: Tensor, step: int) -> Metrics:
        """Add the gradient of Σ weights · token loss to the parameters'; the loss, and means over tokens."""
        sums: dict[str, float] = defaultdict(float)
        for places, weight in self.parts(lm, buffer.rows):
            logits_BRV, targets_BR, mask_BR = buffer.rows.logits(lm, places)
            logits_BRV, R = scale_logits(logits_BRV, self.temperature), targets_BR.shape[1]
            # 0 on padding: a loss that overflows there would be masked out, and its gradient be NaN all the same
            logps_BR = token_logps(logits_BRV, targets_BR).masked_fill(~mask_BR, 0.0)
            tokens = {"old_logps": logps_BR.detach()}  # unless known from before: at the first step, the same
            tokens |= {name: tensor[places, -R:] for name, tensor in buffer.tensors.items()}
            tokens |= {"logps": logps_BR, "targets": targets_BR, "mask": mask_BR}
            if "engine_logps" in tokens and self.importance_cap is not None:
                tokens |= importance(self.log_importance(tokens), self.importance_cap)
            loss_BR = weights_BN[places, -R:] * self.token_loss(logits_BRV, tokens, step)
            loss = weight * loss_BR.masked_fill(~mask_BR, 0.0).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            sums["loss"] += float(loss.detach())
            for name, value_BR in token_metrics(tokens, self.clip_low, self.clip_high).items():
                sums[name] += weight * float(value_BR.masked_fill(~mask_BR, 0.0).sum())
        sums = dict(zip(sums, lm.placement.mean([*sums.values()]), strict=True))
        loss_sum, n = sums.pop("loss"), sums.pop("tokens")
        return {"loss": loss_sum, **{name: value / n for name, value in sums.items()}}

    def parts(self, lm: LM, rows: Rows) -> Iterator[tuple[list[int], int]]:
        """The answers in parts, as forward passes take them, each with how often it counts: see `Placement`.

        Where their size decides results, they are as large in a sharded run, and each process takes all.
        """
        if "forward_batch" in self.knobs:
            return rows.parts(lm, self.forward_batch)
        return ((places, 1) for places in rows.chunks(self.forward_batch))

    # ---- what algorithms differ in ------------------------------------------------------------------

    def advantages(self, rewards_PG: Tensor, mask_BN: Tensor, tensors: Tensors) -> Tensors:
        """``advantages`` of each token, [B, N]: here, the same for all of an answer."""
        if self.reward_kl > 0:
            kl_B = (tensors["old_logps"] - tensors["reference_logps"]).sum(-1)
            rewards_PG = rewards_PG - self.reward_kl * kl_B.view_as(rewards_PG)
        return {"advantages": ADVANTAGES[self.advantage](rewards_PG).flatten()[:, None] * mask_BN}

    def token_loss(self, logits_BRV: Tensor, tokens: Tensors, step: int) -> Tensor:
        """The loss of each token, [B, R].

        `tokens` has ``logps``, with gradient, ``old_logps``, ``targets``, ``mask``, and what the buffer holds.
        """
        loss_BR = self.surrogate(tokens)
        if "importance" in tokens:
            loss_BR = tokens["importance"] * loss_BR
        if self.kl > 0 and self.kl_in == "loss":
            # Times the ratio, so that the gradient is an unbiased one of the reverse KL (DeepSeek-V3.2).
            ratio_BR = (tokens["logps"] - tokens["old_logps"]).exp()
            loss_BR = loss_BR + self.kl * ratio_BR * k3(tokens["logps"], tokens["reference_logps"])
        if self.entropy != 0:
            loss_BR = loss_BR - self.entropy * entropy(logits_BRV)
        return loss_BR

    def surrogate(self, tokens: Tensors) -> Tensor:
        """What stands for −A log π, [B, R]: here with a clipped ratio at each token."""
        logps_BR, old_BR, advantages_BR = (tokens[name] for name in ("logps", "old_logps", "advantages"))
        return clipped_surrogate(logps_BR, old_BR, advantages_BR, self.clip_low, self.clip_high)

    def log_importance(self, tokens: Tensors) -> Tensor:
        """How much likelier a token was to us than to the engine that drew it, [B, R]: here, each by itself."""
        return tokens["old_logps"] - tokens["engine_logps"]

    def extra(self, run: Run) -> Extra:
        """What else is known and reported of rollouts: here, nothing. Prepared at the run's first weights."""
        return lambda rollouts: ({}, {})

    @abstractmethod
    def reward_of(self, run: Run) -> Reward:
        """What is maximized."""

    # ---- its parts ----------------------------------------------------------------------------------

    def prepare(self, run: Run) -> TrainState:
        """Everything that the loop needs; called at the run's first weights."""
        parameters = run.trainable(self.lora)
        return TrainState(
            run=run,
            score=self.reward_of(run).prepare(run),
            extra=self.extra(run),
            reference=run.reference() if self.kl > 0 or self.needs_logps else None,
            descent=run.track("descent", Descent(self, parameters, run.lm.memory)),
            prompts=run.stream(self.data, self.prompts, n_examples=self.n_examples, answered=False),
            drawn=run.track("drawn", Counter()),
            buffer=run.track("buffer", Buffer(run.lm.device)),
        )

    def roll_out(self, state: TrainState) -> tuple[Rollouts, Tensor]:
        """Answers to the next prompts with their rewards, [P, G]; tied groups are drawn anew, if asked."""
        rollouts = self.write(state)
        rewards_PG = state.score(rollouts)
        for _ in range(self.resample):
            if not (std(rewards_PG) == 0).any():
                break
            fresh = self.write(state)
            rollouts, rewards_PG = rollouts + fresh, torch.cat([rewards_PG, state.score(fresh)])
            tied = std(rewards_PG) == 0
            chosen = torch.argsort(tied.int(), stable=True)[: self.prompts].tolist()  # tied ones last
            rollouts, rewards_PG = rollouts.of(chosen), rewards_PG[chosen]
        if rewards_PG.isnan().all():
            raise TrainingFailed(
                f"not one of {rewards_PG.numel()} answers got a reward: the log says what the judge said."
            )
        return rollouts, rewards_PG

    def write(self, state: TrainState) -> Rollouts:
        """Answers to the next prompts."""
        run, number = state.run, state.drawn.value
        state.drawn.value += 1
        how = (self.samples, self.max_new_tokens, self.temperature, run.seed_for("rollout", number))
        rollouts = roll_out(run.lm, run.engine, state.prompts[number], *how)
        return replace(rollouts, forward_batch=self.forward_batch)

    @property
    def reward_kl(self) -> float:
        """Weight of k1 in the reward; 0 where the distance counts in the loss."""
        return self.kl if self.kl_in == "reward" else 0.0

    def old_logps(self, state: TrainState, rollouts: Rollouts) -> Tensors:
        """``old_logps`` of the policy as it wrote, and ``reference_logps`` of the released model, where read."""
        read = self.updates > 1 or self.reward_kl > 0 or self.needs_logps
        models = {"old_logps": rollouts.lm if read else None, "reference_logps": state.reference}
        return {name: rollouts.logps(lm) for name, lm in models.items() if lm is not None}

    def engine_logps(self, state: TrainState, rollouts: Rollouts) -> Tensors:
        """``engine_logps`` of an engine that draws from other probabilities than ours, where losses count them."""
        engine = state.run.engine
        if self.importance_cap is None or not getattr(engine, "approximates", False):
            return {}
        if (engine_logps_BN := rollouts.engine_logps_BN) is None:
            raise CasehardenError(
                f"{type(engine).__name__} does not say with which probability it has drawn a token, so that losses "
                "cannot be weighed. Take another engine, or set importance_cap: null."
            )
        return {"engine_logps": engine_logps_BN}


@dataclass(frozen=True)
class Rewarded(PolicyGradient):
    """Policy gradient on one reward, whatever it is."""

    reward: Reward = field(default_factory=Judged)

    def reward_of(self, run: Run) -> Reward:
        return self.reward


@dataclass(frozen=True)
class WholeAnswers(Rewarded):
    """An answer is one action: its tokens share one ratio, and the loss is the mean over answers."""

    over: Over = "sum"

    def surrogate(self, tokens: Tensors) -> Tensor:
        """The clipped ratio of whole answers, at their last token."""
        mask_BR, advantages_B = tokens["mask"], tokens["advantages"][:, -1]
        logps_B, old_B = (tokens[name].masked_fill(~mask_BR, 0.0).sum(-1) for name in ("logps", "old_logps"))
        loss_B = clipped_surrogate(logps_B, old_B, advantages_B, self.clip_low, self.clip_high)
        return F.pad(loss_B[:, None], (mask_BR.shape[1] - 1, 0))

    def log_importance(self, tokens: Tensors) -> Tensor:
        """That of whole answers, the same for each of their tokens."""
        log_ratio_BR = super().log_importance(tokens).masked_fill(~tokens["mask"], 0.0)
        return log_ratio_BR.sum(-1, keepdim=True).expand_as(log_ratio_BR)


# ---- what is reported -----------------------------------------------------------------------------------


def rollout_metrics(rollouts: Rollouts, rewards_PG: Tensor) -> Metrics:
    """What is reported of rollouts: their rewards, their lengths, how many came to an end or got no reward."""
    return {
        **reward_stats(rewards_PG),
        "length": float(rollouts.mask_BN.sum(-1).float().mean()),
        "ended": sum(rollouts.ended) / len(rollouts.ended),
        "unscored": float(rewards_PG.isnan().sum()),
    }


def reward_stats(rewards_PG: Tensor) -> Metrics:
    """Mean reward, mean variance within groups, and the share of groups with any: what a policy can climb.

    Of groups with two scored answers at least; the latter two are left out if there is none.
    """
    variance_P = std(rewards_PG).square()[rewards_PG.isfinite().sum(-1) > 1]
    found = {"reward": float(rewards_PG.nanmean())}
    if len(variance_P):
        found["reward_variance"] = float(variance_P.mean())
        found["groups_with_spread"] = float((variance_P > 0).float().mean())
    return found


def token_metrics(tokens: Tensors, clip_low: float, clip_high: float) -> Tensors:
    """What is reported of tokens as a mean over them, [B, R]; ``tokens`` counts them."""
    logps_BR = tokens["logps"].detach()
    ratio_BR = (logps_BR - tokens["old_logps"]).exp()
    found = {
        "tokens": torch.ones_like(ratio_BR),
        "entropy": -logps_BR,  # unbiased, on the policy's own tokens
        "clipped": ((ratio_BR < 1 - clip_low) | (ratio_BR > 1 + clip_high)).float(),
    }
    if "reference_logps" in tokens:
        found["kl"] = k3(logps_BR, tokens["reference_logps"])
    return found | {name: tokens[name] for name in ("importance", "truncated") if name in tokens}
