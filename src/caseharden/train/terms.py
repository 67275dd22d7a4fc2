"""Terms of an objective: pure functions of one forward pass, each a scalar with gradient."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from caseharden.data.example import Example
from caseharden.lm.batch import Batch
from caseharden.lm.head import Logits
from caseharden.lm.lm import LM
from caseharden.lm.logps import entropy, token_logps
from caseharden.train.losses import Reduction, kl, masked_mean, mean_distance
from caseharden.train.tuner import Run


@dataclass(frozen=True)
class Outputs:
    """What one forward pass makes of a batch: logits always, the rest where a `Term` says that it reads it.

    `logits` are asked for what they say of each token (`Logits.each`), so that not all need to exist at once.
    """

    examples: Sequence[Example]
    batch: Batch
    logits: Logits
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


Parts = Callable[[Sequence[Example]], Iterator[Tensor]]
"""From a batch of examples to scalars with gradient that add up to a loss: see `Loss`."""
Count = Callable[[Sequence[Example], Batch], float]


def sequences(examples: Sequence[Example], batch: Batch) -> float:
    return len(examples)


def response_tokens(examples: Sequence[Example], batch: Batch) -> float:
    return float(batch.response_BT.sum())


def unpadded_tokens(examples: Sequence[Example], batch: Batch) -> float:
    return float(batch.attention_BT.sum())


COUNTED: dict[Reduction, Count] = {"sequence": sequences, "token": response_tokens}
"""What a mean is over."""


@dataclass(frozen=True)
class Term:
    """`weight` times `value`, which is a mean over what `count` counts.

    So that of a batch is the mean of its parts', weighted by their counts. It says whether it reads hidden
    `states`, and the released model's pass (`reference`).
    """

    value: Callable[[Outputs], Tensor]
    weight: float = 1.0
    states: bool = False
    reference: bool = False
    count: Count = sequences


def imitate(over: Reduction = "sequence") -> Term:
    """Cross-entropy of the completions."""
    return Term(
        lambda out: masked_mean(-out.logits.each(token_logps, out.batch.targets_BR), out.batch.mask_BR, over),
        count=COUNTED[over],
    )


def near_in_kl(weight: float, but: Collection[str], over: Reduction = "sequence") -> Term:
    """KL(released ‖ trained) on the tokens of completions, but for examples whose ids are in `but`."""

    def counted_B1(examples: Sequence[Example], batch: Batch) -> Tensor:
        return torch.tensor([[e.id not in but] for e in examples], device=batch.ids_BT.device)

    def value(out: Outputs) -> Tensor:
        moved_BR = out.logits.each(kl, out.reference.logits)
        return masked_mean(moved_BR, out.batch.mask_BR & counted_B1(out.examples, out.batch), over)

    def tokens(examples: Sequence[Example], batch: Batch) -> float:
        return float((batch.response_BT & counted_B1(examples, batch)).sum())

    return Term(value, weight, reference=True, count=tokens if over == "token" else sequences)


def near_in_states(weight: float) -> Term:
    """How far hidden states are from the released model's: mean distance over layers and unpadded tokens."""

    def value(out: Outputs) -> Tensor:
        return mean_distance(out.states_LBTD, out.reference.states_LBTD, out.batch.attention_BT)

    return Term(value, weight, states=True, reference=True, count=unpadded_tokens)


def confuse() -> Term:
    """Negative entropy of the completions' tokens."""
    return Term(lambda out: -masked_mean(out.logits.each(entropy), out.batch.mask_BR))


def map_to_random(targets_VD: Tensor) -> Term:
    """1 − |cos(h, R[token])|, the mean over layers and unpadded tokens, with R given as `targets_VD`."""

    def value(out: Outputs) -> Tensor:
        cosine_LBT = F.cosine_similarity(out.states_LBTD.float(), targets_VD[out.batch.ids_BT], dim=-1)
        return (1 - cosine_LBT.abs())[:, out.batch.attention_BT.bool()].mean()

    return Term(value, states=True, count=unpadded_tokens)


def in_turn(lm: LM, number: int, most: int | None) -> Iterator[slice]:
    """A batch of `number` examples in parts, of at most `most` if given; at least one for each process of `lm`."""
    step = lm.placement.portion(number, most)
    return (slice(start, start + step) for start in range(0, number, step))


def weighted_sum(
    run: Run,
    terms: Sequence[Term],
    max_length: int,
    compared: Callable[[Run], LM] = Run.reference,
    forward_batch: int | None = None,
) -> Parts:
    """From a batch of examples to the weighted sum of `terms` at the current weights, `forward_batch` at a time.

    One forward pass for all terms, and one of the model `compared` with, the released one by default, if any
    reads it. Must be called at the run's first weights.
    """
    states = any(term.states for term in terms)
    reference = compared(run) if any(term.reference for term in terms) else None

    def forward(lm: LM, examples: Sequence[Example], batch: Batch, released: Outputs | None = None) -> Outputs:
        return Outputs(examples, batch, *lm.response(batch, states=states), released=released)

    def parts(examples: Sequence[Example]) -> Iterator[Tensor]:
        whole = run.lm.encode(examples, max_length=max_length)
        places = [*in_turn(run.lm, len(examples), forward_batch)]
        several = len(places) > 1
        counts = [max(1.0, term.count(examples, whole)) if several else 1.0 for term in terms]
        for place, weight in run.lm.meter.parts(places):
            some, batch = examples[place], whole.rows(place.start, place.stop)
            with torch.no_grad():
                released = forward(reference, some, batch) if reference else None
            out = forward(run.lm, some, batch, released)
            total = torch.zeros((), device=run.lm.device)
            for term, count in zip(terms, counts, strict=True):
                share = weight * term.count(some, batch) / count if several else weight
                total = total + term.weight * share * term.value(out)
            yield total

    return parts
