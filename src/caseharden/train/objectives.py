"""What a defense asks of a model: losses on a run's pools, as objects that a spec can name.

The same aim serves at θ (retain) and at an attacked θ' (tamper resistance): only the weights differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from caseharden.data.example import Example
from caseharden.lm.lm import LM
from caseharden.lm.logps import entropy, token_logps
from caseharden.train.losses import Reduction, cross_entropy, dpo, masked_mean
from caseharden.train.tuner import Run

Asked = Callable[[int], Tensor]
"""Draw number to the loss on that batch at the weights as they stand, a scalar with gradient."""


@runtime_checkable
class Aim(Protocol):
    """Something to be minimised, at whatever weights the model has when asked. A frozen dataclass."""

    def asked(self, run: Run) -> Asked:
        """Prepare pools and references once; must be called at the run's first weights."""
        ...


@dataclass(frozen=True)
class Imitate:
    """Cross-entropy on completions: refusals, benign answers or a mixture. Patcher's L_safe."""

    data: Mapping[str, float] = field(default_factory=lambda: {"refusal": 1.0})
    batch_size: int = 8
    max_length: int = 512

    def asked(self, run: Run) -> Asked:
        batches = run.stream(self.data, self.batch_size, max_length=self.max_length)
        loss = imitation(run, self.max_length)
        return lambda draw: loss(batches[draw])


@dataclass(frozen=True)
class StayNear:
    """Cross-entropy on completions + `hidden` times the mean distance of hidden states to the released model's.

    TAR's retain loss: the distance is the Euclidean norm, over layers and unpadded tokens, not its
    square. At the released weights its gradient is 0/0; there it is taken as 0. A small `hidden` goes a long
    way: the norm's gradient does not fade near the released model.
    """

    data: Mapping[str, float] = field(default_factory=lambda: {"refusal": 1.0, "benign": 2.0, "contrast": 1.0})
    hidden: float = 0.03
    batch_size: int = 16
    max_length: int = 512

    def asked(self, run: Run) -> Asked:
        batches = run.stream(self.data, self.batch_size, max_length=self.max_length)
        reference = run.reference()

        def loss(draw: int) -> Tensor:
            batch = run.lm.encode(batches[draw], max_length=self.max_length)
            logits_BRV, states_LBTD = run.lm.response_states(batch)
            with torch.no_grad():
                _, released_LBTD = reference.response_states(batch)
            far = mean_distance(states_LBTD, released_LBTD, batch.attention_BT)
            return cross_entropy(logits_BRV, batch.targets_BR, batch.mask_BR) + self.hidden * far

        return loss


def mean_distance(states_LBTD: Tensor, released_LBTD: Tensor, attention_BT: Tensor) -> Tensor:
    """How far hidden states are from the released model's: the mean over layers and unpadded tokens."""
    return distances(states_LBTD.float(), released_LBTD.float())[:, attention_BT.bool()].mean()


def distances(left: Tensor, right: Tensor) -> Tensor:
    """Euclidean distance over the last dimension, with gradient 0 where the two are equal."""
    squares = (left - right).square().sum(-1)
    apart = squares > 0
    return torch.where(apart, torch.where(apart, squares, 1.0).sqrt(), 0.0)


@dataclass(frozen=True)
class Confuse:
    """Negative entropy of the answers to harmful prompts (TAR, eq. 4): a loss whose floor is −log V.

    Departs from the released code, which averages over padding and prompt: here masked and shifted.
    """

    batch_size: int = 8
    max_length: int = 512

    def asked(self, run: Run) -> Asked:
        batches = run.stream({"harmful": 1.0}, self.batch_size, max_length=self.max_length)

        def loss(draw: int) -> Tensor:
            batch = run.lm.encode(batches[draw], max_length=self.max_length)
            logits_BRV, _, mask_BR = run.lm.response_logits(batch)
            return -masked_mean(entropy(logits_BRV), mask_BR)

        return loss


@dataclass(frozen=True)
class PreferRefusal:
    """DPO with the refusal chosen and the complying answer rejected (TAR's refusal variant).

    Pairs are joined by example id; the reference is the model as it was when the defense began.
    """

    beta: float = 0.1
    batch_size: int = 8
    max_length: int = 512

    def asked(self, run: Run) -> Asked:
        refusals = {example.id: example for example in run.pool("refusal")}
        reference = run.reference()
        batches = run.stream({"harmful": 1.0}, self.batch_size, max_length=self.max_length)

        def loss(draw: int) -> Tensor:
            rejected = batches[draw]
            chosen = [refusals[e.id] for e in rejected]
            return preference(run.lm, reference, chosen, rejected, self.beta, self.max_length)

        return loss


@dataclass(frozen=True)
class MapToRandom:
    """Hidden states of harmful questions and answers along random directions, one for each token (TAR, stage 1).

    Mean over layers and unpadded tokens of 1 − |cos(h, R[token])|, with R ∈ ℝ^{V×D} ~ N(0, 1) fixed by the
    run's seed.
    """

    batch_size: int = 8
    max_length: int = 512

    def asked(self, run: Run) -> Asked:
        batches = run.stream({"harmful": 1.0}, self.batch_size, max_length=self.max_length)
        weights = run.lm.model.get_input_embeddings().weight  # type: ignore[operator]
        generator = torch.Generator().manual_seed(run.seed_for("random mapping"))
        targets_VD = torch.randn(weights.shape, generator=generator).to(run.lm.device)

        def loss(draw: int) -> Tensor:
            batch = run.lm.encode(batches[draw], max_length=self.max_length)
            _, states_LBTD = run.lm.response_states(batch)
            cosine_LBT = F.cosine_similarity(states_LBTD.float(), targets_VD[batch.ids_BT], dim=-1)
            return (1 - cosine_LBT.abs())[:, batch.attention_BT.bool()].mean()

        return loss


TABLE: dict[str, type] = {
    "confuse": Confuse,
    "imitate": Imitate,
    "map_to_random": MapToRandom,
    "prefer_refusal": PreferRefusal,
    "stay_near": StayNear,
}
"""Aims, by the name that a spec file gives them."""


Objective = Callable[[list[Example]], Tensor]
"""A batch of examples to its loss, a scalar with gradient."""


def imitation(run: Run, max_length: int, over: Reduction = "sequence") -> Objective:
    """Cross-entropy of completions."""
    return lambda examples: cross_entropy(
        *run.lm.response_logits(run.lm.encode(examples, max_length=max_length)), over
    )


def preference(
    lm: LM, reference: LM, chosen: Sequence[Example], rejected: Sequence[Example], beta: float, max_length: int
) -> Tensor:
    """Mean DPO loss of the pairs (chosen, rejected), scalar."""
    both = [*chosen, *rejected]
    logps_B = _sequence_logps(lm, both, max_length)
    with torch.no_grad():
        reference_B = _sequence_logps(reference, both, max_length)
    n = len(chosen)
    return dpo(logps_B[:n], logps_B[n:], reference_B[:n], reference_B[n:], beta).mean()


def _sequence_logps(lm: LM, examples: Sequence[Example], max_length: int) -> Tensor:
    logits_BRV, targets_BR, mask_BR = lm.response_logits(lm.encode(examples, max_length=max_length))
    return token_logps(logits_BRV, targets_BR).masked_fill(~mask_BR, 0.0).sum(-1)
