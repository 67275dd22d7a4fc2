"""Terms of an objective: pure functions of one forward pass, each a scalar with gradient."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from caseharden.data.example import Example
from caseharden.lm.batch import Batch
from caseharden.lm.lm import LM
from caseharden.lm.logps import entropy
from caseharden.train.losses import Reduction, cross_entropy, kl, masked_mean, mean_distance
from caseharden.train.tuner import Run


@dataclass(frozen=True)
class Outputs:
    """What one forward pass makes of a batch: logits always, the rest where a `Term` says that it reads it."""

    examples: Sequence[Example]
    batch: Batch
    logits_BRV: Tensor
    states: Tensor | None = None
    released: Outputs | None = None

    @property
    def states_LBTD(self) -> Tensor:
        """Hidden states of all layers."""
        assert self.states is not None, "a term that reads hidden states says so: Term(…, states=True)"
        return self.states

    @property
    def reference(self) -> Outputs:
        """The same of the model as it was released, or of another that the objective compares with."""
        assert self.released is not None, "a term that reads the reference says so: Term(…, reference=True)"
        return self.released


@dataclass(frozen=True)
class Term:
    """`weight` times `value`; whether that reads hidden `states`, and the released model's pass (`reference`)."""

    value: Callable[[Outputs], Tensor]
    weight: float = 1.0
    states: bool = False
    reference: bool = False


def imitate(over: Reduction = "sequence") -> Term:
    """Cross-entropy of the completions."""
    return Term(lambda out: cross_entropy(out.logits_BRV, out.batch.targets_BR, out.batch.mask_BR, over))


def near_in_kl(weight: float, but: Collection[str], over: Reduction = "sequence") -> Term:
    """KL(released ‖ trained) on the tokens of completions, but for examples whose ids are in `but`."""

    def value(out: Outputs) -> Tensor:
        counted_B = torch.tensor([e.id not in but for e in out.examples], device=out.logits_BRV.device)
        moved_BR = kl(out.logits_BRV, out.reference.logits_BRV)
        return masked_mean(moved_BR, out.batch.mask_BR & counted_B[:, None], over)

    return Term(value, weight, reference=True)


def near_in_states(weight: float) -> Term:
    """How far hidden states are from the released model's: mean distance over layers and unpadded tokens."""

    def value(out: Outputs) -> Tensor:
        return mean_distance(out.states_LBTD, out.reference.states_LBTD, out.batch.attention_BT)

    return Term(value, weight, states=True, reference=True)


def confuse() -> Term:
    """Negative entropy of the completions' tokens."""
    return Term(lambda out: -masked_mean(entropy(out.logits_BRV), out.batch.mask_BR))


def map_to_random(targets_VD: Tensor) -> Term:
    """1 − |cos(h, R[token])|, the mean over layers and unpadded tokens, with R given as `targets_VD`."""

    def value(out: Outputs) -> Tensor:
        cosine_LBT = F.cosine_similarity(out.states_LBTD.float(), targets_VD[out.batch.ids_BT], dim=-1)
        return (1 - cosine_LBT.abs())[:, out.batch.attention_BT.bool()].mean()

    return Term(value, states=True)


def weighted_sum(
    run: Run, terms: Sequence[Term], max_length: int, compared: Callable[[Run], LM] = Run.reference
) -> Callable[[Sequence[Example]], Tensor]:
    """From a batch of examples to the weighted sum of `terms` at the current weights.

    One forward pass for all terms, and one of the model `compared` with, the released one by default, if any
    reads it. Must be called at the run's first weights.
    """
    states = any(term.states for term in terms)
    reference = compared(run) if any(term.reference for term in terms) else None

    def forward(lm: LM, examples: Sequence[Example], batch: Batch, released: Outputs | None = None) -> Outputs:
        if not states:
            return Outputs(examples, batch, lm.response_logits(batch)[0], released=released)
        return Outputs(examples, batch, *lm.response_states(batch), released=released)

    def loss(examples: Sequence[Example]) -> Tensor:
        batch = run.lm.encode(examples, max_length=max_length)
        with torch.no_grad():
            released = forward(reference, examples, batch) if reference else None
        out = forward(run.lm, examples, batch, released)
        total = torch.zeros((), device=run.lm.device)
        for term in terms:
            total = total + term.weight * term.value(out)
        return total

    return loss
