"""Objectives: what a method minimizes, as objects that a spec can name.

The same objective serves at θ (retain) and at an attacked θ' (tamper resistance): only the weights differ.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from caseharden.data.example import Example
from caseharden.errors import CasehardenError
from caseharden.lm.batch import Batch
from caseharden.lm.lm import LM
from caseharden.lm.logps import token_logps
from caseharden.train import terms
from caseharden.train.gradients import Loss
from caseharden.train.losses import Reduction, dpo
from caseharden.train.terms import Parts, Term, in_turn
from caseharden.train.tuner import Run


@runtime_checkable
class Objective(Protocol):
    """Something to be minimized, at whatever weights the model has. A frozen dataclass."""

    @property
    def batch_size(self) -> int: ...

    def prepare(self, run: Run) -> Loss:
        """Look up pools and references once; must be called at the run's first weights.

        From a step's number the loss goes to that on the step's batch at the current weights.
        """
        ...


@dataclass(frozen=True)
class OnBatches(ABC):
    """A loss on batches from a mix of pools; `n_examples` bounds how many of each pool are used.

    `forward_batch` examples go through the model at a time, all of a batch if None: a matter of memory alone.
    """

    data: Mapping[str, float] = field(default_factory=lambda: {"harmful": 1.0})
    batch_size: int = 8
    max_length: int = 512
    n_examples: int | None = None
    forward_batch: int | None = field(default=None, kw_only=True)
    knobs: ClassVar[tuple[str, ...]] = ("forward_batch",)

    def __post_init__(self) -> None:
        for name in ("batch_size", "n_examples", "forward_batch"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise CasehardenError(f"{name}={value} must be above 0.")

    def prepare(self, run: Run) -> Loss:
        batches = run.stream(self.data, self.batch_size, max_length=self.max_length, n_examples=self.n_examples)
        parts = self.on_batch(run)
        return Loss(lambda step: parts(batches[step]), run.lm.placement)

    @abstractmethod
    def on_batch(self, run: Run) -> Parts:
        """The loss of a batch of examples. Called at the run's first weights."""


@dataclass(frozen=True)
class SumOfTerms(OnBatches):
    """A weighted sum of terms over one forward pass of each batch."""

    def on_batch(self, run: Run) -> Parts:
        return terms.weighted_sum(run, self.terms(run), self.max_length, self.reference, self.forward_batch)

    @abstractmethod
    def terms(self, run: Run) -> list[Term]: ...

    def reference(self, run: Run) -> LM:
        """The frozen model that terms compare with, asked for if any does: the one at the run's first weights."""
        return run.reference()


@dataclass(frozen=True)
class Imitate(SumOfTerms):
    """Imitate completions (cross-entropy), optionally near the released model. Patcher's L_safe.

    `over` is the cross-entropy's mean, and the KL's. `kl` weighs KL(released ‖ trained) on the tokens of examples
    that are not refusals, `hidden` the mean distance of hidden states to the released model's on all. With
    `near_original` the released model is that before the first stage of a chain, not before this one.
    """

    data: Mapping[str, float] = field(default_factory=lambda: {"refusal": 1.0})
    over: Reduction = "sequence"
    kl: float = 0.0
    hidden: float = 0.0
    near_original: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kl < 0 or self.hidden < 0:
            raise CasehardenError(f"kl={self.kl} and hidden={self.hidden} must not be below 0.")

    def terms(self, run: Run) -> list[Term]:
        found = [terms.imitate(self.over)]
        if self.kl > 0:
            refusals = {example.id for example in run.pool("refusal")}
            found.append(terms.near_in_kl(self.kl, refusals, self.over))
        if self.hidden > 0:
            found.append(terms.near_in_states(self.hidden))
        return found

    def reference(self, run: Run) -> LM:
        return run.original() if self.near_original else run.reference()


@dataclass(frozen=True)
class Follow(SumOfTerms):
    """Follow another model: KL(teacher ‖ trained) on the tokens of completions. Distillation.

    Raises `CasehardenError` when prepared if the teacher's tokens are not the trained model's.
    """

    data: Mapping[str, float] = field(default_factory=lambda: {"benign": 1.0})
    over: Reduction = "sequence"
    teacher: str = field(kw_only=True)
    other_models: ClassVar[tuple[str, ...]] = ("teacher",)

    def terms(self, run: Run) -> list[Term]:
        return [terms.near_in_kl(1.0, (), self.over)]

    def reference(self, run: Run) -> LM:
        teacher = run.other(self.teacher)
        if teacher.tokenizer.get_vocab() != run.lm.tokenizer.get_vocab() or not same_width(teacher, run.lm):
            raise CasehardenError(
                f"{self.teacher!r} has other tokens than {run.lm.name!r}, so that their probabilities cannot be "
                "compared. Name a teacher with the same tokenizer and as many embeddings."
            )
        return teacher


def same_width(a: LM, b: LM) -> bool:
    """Whether two models have as many embeddings."""
    rows = [lm.model.get_input_embeddings().weight.shape[0] for lm in (a, b)]  # type: ignore[operator]
    return bool(rows[0] == rows[1])


@dataclass(frozen=True)
class StayNear(Imitate):
    """Imitate completions with hidden states near the released model's: TAR's retain loss.

    The distance is the Euclidean norm, not its square. A small `hidden` goes a long way: the norm's gradient does
    not fade near the released model.
    """

    data: Mapping[str, float] = field(default_factory=lambda: {"refusal": 1.0, "benign": 2.0, "contrast": 1.0})
    batch_size: int = 16
    hidden: float = 0.03


@dataclass(frozen=True)
class Confuse(SumOfTerms):
    """Raise the entropy of answers to harmful prompts (TAR, eq. 4): a loss whose floor is −log V."""

    def terms(self, run: Run) -> list[Term]:
        return [terms.confuse()]


@dataclass(frozen=True)
class MapToRandom(SumOfTerms):
    """Map hidden states of harmful questions and answers to random directions, one a token (TAR, stage 1).

    R ∈ ℝ^{V×D} ~ N(0, 1) is fixed by the run's seed.
    """

    def terms(self, run: Run) -> list[Term]:
        weights = run.lm.model.get_input_embeddings().weight  # type: ignore[operator]
        generator = torch.Generator().manual_seed(run.seed_for("random mapping"))
        return [terms.map_to_random(torch.randn(weights.shape, generator=generator).to(run.lm.device))]


@dataclass(frozen=True)
class Prefer(OnBatches):
    """Prefer one of two completions of a prompt (DPO): of `data`, or of the same prompts in the pool `other`.

    Pairs are joined by example id; the reference is the model at the run's first weights.
    """

    other: str = "refusal"
    prefer: Literal["data", "other"] = "other"
    beta: float = 0.1

    def on_batch(self, run: Run) -> Parts:
        others = {example.id: example for example in run.pool(self.other)}
        for name in self.data:
            pairs = [(example, others.get(example.id)) for example in run.pool(name)]
            if alone := [mine.id for mine, other in pairs if other is None or mine.context != other.context]:
                raise CasehardenError(
                    f"{len(alone)} examples of pool {name!r} are not in {self.other!r} ({alone[0]!r} first): "
                    "DPO needs both completions of a prompt. Name pools of the same prompts and prefixes."
                )
        reference = run.reference()

        def parts(drawn: Sequence[Example]) -> Iterator[Tensor]:
            for place, weight in run.lm.meter.parts(in_turn(run.lm, len(drawn), self.forward_batch)):
                some = drawn[place]
                paired = [others[example.id] for example in some]
                chosen, rejected = (some, paired) if self.prefer == "data" else (paired, some)
                part = preference(run.lm, reference, chosen, rejected, self.beta, self.max_length)
                yield part * (weight * len(some) / len(drawn))

        return parts


TABLE: dict[str, type] = {
    "confuse": Confuse,
    "follow": Follow,
    "imitate": Imitate,
    "map_to_random": MapToRandom,
    "prefer": Prefer,
    "stay_near": StayNear,
}
"""Objectives, by the name that a spec file gives them."""


def preference(
    lm: LM, reference: LM, chosen: Sequence[Example], rejected: Sequence[Example], beta: float, max_length: int
) -> Tensor:
    """Mean DPO loss of the pairs (chosen, rejected), scalar."""
    both = lm.encode([*chosen, *rejected], max_length=max_length)
    logps_B = _sequence_logps(lm, both)
    with torch.no_grad():
        reference_B = _sequence_logps(reference, both)
    n = len(chosen)
    return dpo(logps_B[:n], logps_B[n:], reference_B[:n], reference_B[n:], beta).mean()


def _sequence_logps(lm: LM, batch: Batch) -> Tensor:
    logits, _ = lm.response(batch)
    return logits.each(token_logps, batch.targets_BR).masked_fill(~batch.mask_BR, 0.0).sum(-1)
