"""Trace: what a tuner or a measure asks of its model, seen on a small twin of it, and what is held meanwhile."""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._python_dispatch import _disable_current_modes

from caseharden.cost.architecture import Architecture, Pass, Variant, rank_of
from caseharden.cost.ledger import Ledger, Work, flops, size, tensors
from caseharden.lm.meter import Meter
from caseharden.train.optim import KEPT

AT_A_TIME = 4
"""Calls of an operator that an answer's next token takes besides the model: softmax, draw, compare, write."""

KINDS = ("weights", "gradients", "states", "copies", "kept", "kept aside", "logits")
"""What memory is held for. Copies that `keep` decides on are ``kept``, those that lie on the CPU ``kept aside``."""
_BY_KEEP: Mapping[str | None, str | None] = {None: "copies", "device": "kept", "cpu": "kept aside", "disk": None}

K = TypeVar("K")
Amounts = defaultdict[K, float]
"""How much there is of each, 0 of what is not there."""


@dataclass(frozen=True)
class Moment:
    """What is held at one time: bytes by kind, and the passes whose activations are, with their model."""

    held: Mapping[str, float]
    passes: tuple[tuple[Architecture, Pass], ...] = ()


@dataclass
class Step:
    """What one step takes: passes by model and how often, other work, tokens that are trained on, read, written.

    `text` are seconds of the host's that templates and tokenizer take, which are the model's own.
    """

    passes: Counter[tuple[Architecture, Pass]] = field(default_factory=Counter)
    beside: Work = field(default_factory=Work)
    tokens: Counter[str] = field(default_factory=Counter)
    text: float = 0.0


class Recorder(Meter):
    """Stands in a twin's meter's place, where every pass comes through, and writes down its shape."""

    def __init__(self, subject: Architecture) -> None:
        super().__init__()
        self.subject = subject
        self.others: dict[int, Architecture] = {}
        self.step = Step()
        self.moments: dict[tuple[str, bool], Moment] = {}
        self.inside = self.over = self.reading = False
        self.pending: list[tuple[Architecture, Pass]] = []
        self.held: Amounts[str] = defaultdict(float, weights=4.0 * subject.parameters)
        self.scales: dict[tuple[int, ...], tuple[float, float]] = {}
        self.seen: list[Step] = []
        self._begun: list[tuple[int, int | None]] = []
        self._seconds, self._since = math.inf, 0.0
        self._known: tuple[int, int | None] | None = None

    # ---- stages -------------------------------------------------------------------------------------

    def begin(self, number: int | None, seconds: float | None = None) -> None:
        """A stage of so many steps begins, of which as many as fit into `seconds` are to be seen."""
        self._begun.append((len(self.seen), number))
        self._seconds, self._since = self._seconds if seconds is None else seconds, time.process_time()

    def enough(self) -> bool:
        """Whether enough was seen of the stage."""
        return len(self.seen) - self._begun[-1][0] > 1 and time.process_time() - self._since > self._seconds

    def is_last(self) -> bool:
        """Whether nobody has told of stages: the whole is one."""
        return len(self._begun) == 1

    def stages(self) -> Iterator[tuple[int, int, int | None]]:
        """Of each stage the first step seen, the one after the last, and how many it has; None: as many as seen."""
        ends = [*(start for start, _ in self._begun[1:]), len(self.seen)]
        for (start, number), end in zip(self._begun, ends, strict=True):
            if end > start:
                yield start, end, number

    # ---- passes -------------------------------------------------------------------------------------

    def through(self, model: Callable[..., Any], **inputs: Any) -> Any:
        assert isinstance(model, nn.Module)
        self.look(model)
        if self.over:
            self.pending, self.over = [], False
        self.inside = True
        try:
            out = super().through(model, **inputs)
        finally:
            self.inside = False
        architecture = self.others.get(id(model), self.subject)
        (B, T), width = inputs["input_ids"].shape, inputs["attention_mask"].shape[1]
        grad = bool(out[0].requires_grad)
        own = model.named_parameters()
        trained = frozenset(architecture.bare(name) for name, p in own if grad and p.requires_grad)
        heads = out.logits.shape[1] if "logits" in out else 0
        variant = Variant(
            grad,
            bool(inputs.get("use_cache")),
            width > T,
            bool(inputs.get("output_hidden_states")),
            rank_of(model),
            trained,
        )
        self.known(architecture, variant)
        one = (architecture, Pass(variant, B, T, width - T, heads))
        self.step.passes[one] += 1
        self.step.tokens["trained" if grad else "read"] += int(inputs["attention_mask"][:, -T:].sum())
        if grad:
            self.pending.append(one)
            out[0].register_hook(self._backward)
        self.note("pass", *([] if grad else [one]))
        return out

    def written(self, prompts: Sequence[int], lengths: Sequence[int], samples: int, compact: float) -> None:
        """Answers of so many tokens to each of these prompts were written a token at a time: see `StandIn`."""
        arch, rank = self.subject, self._known[1] if self._known else None
        variant = Variant(False, True, False, False, rank, frozenset())
        self.known(arch, variant)
        first = (arch, Pass(variant, len(prompts), max(prompts), 0, 1))
        self.step.passes[first] += 1
        rows, vocabulary = len(lengths), 4 * arch.vocabulary
        for n in range(1, max(lengths)):
            left = sum(length > n for length in lengths)
            rows = left if left <= compact * rows else rows
            self.step.passes[arch, Pass(variant._replace(begun=True), rows, 1, max(prompts) + n - 1, 1)] += 1
            self.step.beside += Work(0, AT_A_TIME * rows * vocabulary, 3 * AT_A_TIME)
        self.step.tokens["read"] += sum(prompts)
        self.step.tokens["written"] += sum(lengths)
        kept = (arch, Pass(variant, len(lengths), max(prompts) + max(lengths), 0, 1))
        self.note("pass", kept, logits=AT_A_TIME * len(lengths) * vocabulary)

    @staticmethod
    def known(architecture: Architecture, variant: Variant) -> None:
        """Find out what passes of a kind take before it is asked in the midst of something."""
        with _disable_current_modes():
            architecture.profile(variant)

    def look(self, model: nn.Module) -> None:
        """See whether a model has got adapters, or lost them, which changes what memory is whose."""
        known = (id(model), rank_of(model))
        if known != self._known and id(model) not in self.others:
            self._known = known
            with _disable_current_modes():
                self.scales |= self.subject.scales(model)

    def note(self, kind: str, *passes: tuple[Architecture, Pass], logits: float = 0.0) -> None:
        """Remember this moment if it is the one of its kind at which most is held, kept copies among it or not."""
        held = {**self.held, "logits": self.held["logits"] + logits}
        moment = Moment(held, (*self.pending, *passes))
        for key in ((kind, True), (kind, False)):
            if key not in self.moments or total(moment, key[1]) > total(self.moments[key], key[1]):
                self.moments[key] = moment

    def _backward(self, gradient: Tensor) -> None:
        self.note("pass")
        self.over = True


def total(moment: Moment, kept_too: bool = True) -> float:
    """Bytes at a moment, in full precision; without the copies that `keep` decides on unless `kept_too`."""
    left_out = () if kept_too else ("kept", "kept aside")
    held = sum(bytes_ for kind, bytes_ in moment.held.items() if kind not in left_out)
    return held + sum(activations(*one) for one in moment.passes)


def activations(architecture: Architecture, one: Pass) -> float:
    """Bytes of a pass's activations at the most."""
    return float(architecture.profile(one.variant).of([one[1:]])[0, 4])


class Watching(Ledger):  # type: ignore[no-untyped-call]
    """Counts memory in the shapes of parameters, or as wide as the vocabulary, and work beside the passes."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder
        self.in_step = False

    def count(self, func: Any, args: Any, kwargs: Any, out: Any, made: list[Tensor]) -> None:
        recorder = self.recorder
        if recorder.inside or (_in_backward() and not any(self._wide(t) for t in made)):
            return
        moved, calls = 0.0, 1.0
        for tensor in (*tensors(args), *made):
            scale, number = recorder.scales.get(tuple(tensor.shape), (1.0, 1.0))
            moved += scale * size(tensor)
            calls = max(calls, number)
        recorder.step.beside += Work(flops(func, args, kwargs, out), moved, calls)

    def made(self, tensor: Tensor) -> Any:
        recorder, shape = self.recorder, tuple(tensor.shape)
        if scale := recorder.scales.get(shape):
            if recorder.inside:
                return None
            copies = _BY_KEEP[KEPT.get()]
            kind = "gradients" if _in_backward() else "states" if self.in_step else copies
            if kind is None:
                return None
            bytes_ = scale[0] * tensor.untyped_storage().nbytes()
        elif self._wide(tensor):
            kind, bytes_ = "logits", tensor.untyped_storage().nbytes()
        else:
            return None
        recorder.held[kind] += bytes_
        if kind != "logits" and not _in_backward() and not self.in_step:
            self.note()
        return kind, bytes_

    def given_back(self, kind: Any, size: int) -> None:
        self.recorder.held[kind[0]] -= kind[1]

    def note(self) -> None:
        """Look at what is held now, while nothing is computed."""
        recorder = self.recorder
        if recorder.over:
            recorder.pending, recorder.over = [], False
        recorder.note("between")

    def _wide(self, tensor: Tensor) -> bool:
        return tensor.ndim > 1 and tensor.shape[-1] == self.recorder.subject.vocabulary


def _in_backward() -> bool:
    return torch._C._current_autograd_node() is not None


@contextmanager
def watching(recorder: Recorder, model: nn.Module) -> Iterator[None]:
    """Whatever happens inside is written down in `recorder`."""
    ledger = Watching(recorder)
    recorder.look(model)

    def mark(entered: bool) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            ledger.in_step = entered
            if not entered:
                ledger.note()

        return hook

    hooks = [register_optimizer_step_pre_hook(mark(True)), register_optimizer_step_post_hook(mark(False))]
    try:
        with ledger:
            yield
    finally:
        for hook in hooks:
            hook.remove()


@dataclass(frozen=True)
class Trace:
    """What some steps take, and the moments at which most was held."""

    passes: Mapping[tuple[Architecture, Pass], float]
    beside: Work
    tokens: Mapping[str, float]
    text: float
    moments: Sequence[Moment]


def traced(steps: Iterator[Any], recorder: Recorder, model: nn.Module, number: int | None, seconds: float) -> Trace:
    """The first `number` steps, or all: seen for so many `seconds`, two at least, and from there on as `typical`.

    A stage that says so (`Recorder.begin`) is seen for as long itself.
    """
    recorder.begin(number, seconds)
    with watching(recorder, model):
        while number is None or len(recorder.seen) < number:
            recorder.step = Step()
            if next(steps, None) is None:
                break
            recorder.seen.append(recorder.step)
            if recorder.enough() and recorder.is_last():
                break
    passes: Amounts[tuple[Architecture, Pass]] = defaultdict(float)
    tokens: Amounts[str] = defaultdict(float)
    beside, text, left = Work(), 0.0, number
    for start, end, length in recorder.stages():
        own = recorder.seen[start:end]
        wanted = len(own) if length is None else length
        wanted = wanted if left is None else min(wanted, left)
        left = None if left is None else left - wanted
        like = own[: max(wanted, 1)] if wanted <= len(own) else [*own]
        later = typical([sum(step.passes.values()) for step in own])
        shares = [(step, 1.0) for step in like]
        if wanted > len(own):
            shares += [(own[i], (wanted - len(own)) / len(later)) for i in later]
        for step, share in shares:
            for one, times in step.passes.items():
                passes[one] += share * times
            for name, count in step.tokens.items():
                tokens[name] += share * count
            beside += step.beside * share
            text += step.text * share
    return Trace(passes, beside, tokens, text, [*recorder.moments.values()])


def typical(sizes: Sequence[float]) -> range:
    """The steps to go on from, of steps of these sizes: the last whole period, where large ones come again.

    A step is large that is twice the median. All steps but the first, where there are no two of them.
    """
    middle = sorted(sizes)[len(sizes) // 2]
    large = [i for i, one in enumerate(sizes) if one > 2 * middle]
    if len(large) > 1:
        return range(large[-2], large[-1])
    return range(min(1, len(sizes) - 1), len(sizes))


def by_model(passes: Mapping[tuple[Architecture, Pass], float]) -> dict[tuple[Architecture, Variant], list[Any]]:
    """Shapes of passes with how often each comes, by model and kind."""
    found: dict[tuple[Architecture, Variant], list[Any]] = defaultdict(list)
    for (architecture, one), times in passes.items():
        found[architecture, one.variant].append((*one[1:], times))
    return found
