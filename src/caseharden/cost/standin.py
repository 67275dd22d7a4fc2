"""Stand-ins: a study's methods with twins in their models' places, and nothing that needs weights or a network."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from zlib import crc32

from torch import nn
from transformers import AutoTokenizer

from caseharden.bilevel.attackers import Attacker, Sequential
from caseharden.cost.architecture import Architecture
from caseharden.cost.trace import Recorder
from caseharden.data.example import Example
from caseharden.data.pools import ROLES, Pools
from caseharden.engines.engine import Engine, Written
from caseharden.engines.native import COMPACT
from caseharden.judges.judge import Answer, Judge
from caseharden.lm import sources
from caseharden.lm.capabilities import Capabilities
from caseharden.lm.head import has_head
from caseharden.lm.lm import LM
from caseharden.lm.loading import loading
from caseharden.lm.memory import PLENTY, Memory
from caseharden.lm.template import Reasoning, Text
from caseharden.train.tuner import Metrics, Run, Tuner

BATCH = 256
"""Answers that are written at a time where an engine does not say."""


@dataclass(frozen=True)
class Chance:
    """Stands in for any judge: scores answers 0 or 1, by a hash of each."""

    version: str = "1"
    exact: bool = True

    def score(self, answers: Sequence[Answer]) -> list[float]:
        return [float(crc32(f"{n}{answer.id}".encode()) % 2) for n, answer in enumerate(answers)]


class StandIn:
    """Stands in for any engine: writes down what writing would take, and answers with examples' own completions.

    `batch_size` answers are written at a time, each `length` tokens long if that is given; otherwise as long as the
    completion of the example with this prompt, of the mean length where there is none, and never beyond the limit.
    """

    def __init__(self, lm: LM, domain: Pools, engine: Engine, length: int | None = None) -> None:
        self.batch_size = getattr(engine, "batch_size", BATCH)
        self.length = length
        self.answers: dict[tuple[int, ...], list[int]] = {}
        self.end = lm.ends()[0]
        pools = [examples for role in ROLES for examples in domain.pools(role).values()]
        known = list({(e.context, e.completion): e for pool in pools for e in pool if e.completion}.values())
        for prompt, row in zip(_prompts(lm, known), lm._tokenize([e.completion for e in known]), strict=True):
            answer = [*row, self.end]
            if len(answer) > len(self.answers.get(prompt, ())):
                self.answers[prompt] = answer
        rows = [*self.answers.values()]
        self.mean = round(sum(map(len, rows)) / len(rows)) if rows else None

    def write(
        self, lm: LM, prompts: Sequence[list[int]], samples: int, limit: int, temperature: float, seed: int
    ) -> Written:
        recorder = cast(Recorder, lm.meter)
        recorder.look(lm.model)
        answers = [self.answer(prompt, limit) for prompt in prompts]
        order, step = sorted(range(len(prompts)), key=lambda i: len(prompts[i])), max(1, self.batch_size // samples)
        for chunk in (order[start : start + step] for start in range(0, len(order), step)):
            lengths = [len(answers[i]) for i in chunk for _ in range(samples)]
            recorder.written([len(prompts[i]) for i in chunk], lengths, samples, COMPACT)
        return Written([answer for answer in answers for _ in range(samples)])

    def answer(self, prompt: Sequence[int], limit: int) -> list[int]:
        """Tokens of an answer, the end among them if there is room."""
        own = self.answers.get(tuple(prompt), [])
        length = self.length or len(own) or self.mean or limit
        return (own[:length] or [self.end] * length)[:limit]


def _prompts(lm: LM, examples: Sequence[Example]) -> list[tuple[int, ...]]:
    rows = lm.encode_prompts([e.prompt for e in examples], [e.prefix for e in examples]) if examples else []
    return [tuple(row) for row in rows]


class TwinLM(LM):
    """A twin with the model's tokenizer. The time that text takes is written down with what else a step takes.

    With checkpointing passes have the shapes that they have then, but no layer of the twin is computed again: that
    is a matter of `Layout`.
    """

    def through(self, model: nn.Module, **inputs: Any) -> Any:
        return self.meter.through(model, **inputs)

    def token_rows(
        self, examples: Sequence[Example], *, max_length: int = 512, turn: bool = True
    ) -> list[tuple[list[int], int]]:
        with self._timed():
            return super().token_rows(examples, max_length=max_length, turn=turn)

    def encode_prompts(
        self, prompts: Sequence[str], prefixes: Sequence[str] = (), *, opened: bool = False
    ) -> list[list[int]]:
        with self._timed():
            return super().encode_prompts(prompts, prefixes, opened=opened)

    def read(self, answers: Sequence[Sequence[int]], prefixes: Sequence[str] = ()) -> list[Text]:
        with self._timed():
            return super().read(answers, prefixes)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        recorder = self.meter
        if not isinstance(recorder, Recorder) or recorder.reading:
            yield
            return
        recorder.reading, began = True, time.process_time()
        try:
            yield
        finally:
            recorder.reading = False
            recorder.step.text += time.process_time() - began


class TwinRun(Run):
    """A run on a twin, whose other models are twins as well."""

    def drive(self, tuner: Tuner) -> Iterator[Metrics]:
        """A stage of another tuner ends as soon as enough was seen of it."""
        if self.parent is None:
            yield from super().drive(tuner)
            return
        recorder = cast(Recorder, self.lm.meter)
        recorder.begin(getattr(tuner, "max_steps", None))
        for metrics in super().drive(tuner):
            yield metrics
            if recorder.enough():
                return

    def other(self, name: str) -> LM:
        recorder = cast(Recorder, self.lm.meter)
        subject = recorder.subject
        folder = sources.resolve(name, weights=False)
        architecture = Architecture(folder, depth=subject.depth, autocast=subject.autocast)
        if architecture.shapes != subject.shapes:  # of the same shapes, one may be subtracted from the other
            architecture.number = 1 + len(recorder.others)
        other = twin(architecture, self.lm.reasoning, recorder, self.lm.memory)
        other.model.requires_grad_(False)
        recorder.others[id(other.model)] = architecture
        recorder.scales |= architecture.scales(other.model)
        recorder.held["copies"] += 4.0 * architecture.parameters
        return other


def twin(architecture: Architecture, reasoning: Reasoning, recorder: Recorder, memory: Memory = PLENTY) -> TwinLM:
    """A model's twin with the model's own tokenizer; what goes through it, `recorder` writes down.

    Of `memory` only checkpointing counts: an optimizer's states are recorded wherever they are to be.
    """
    folder: Path = architecture.folder
    with loading(folder):
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
        memory = dataclasses.replace(memory, offload=False)
        lm = TwinLM(copy.deepcopy(architecture.twin), tokenizer, str(folder), "float32", reasoning, memory)
    lm.capabilities = Capabilities(True, True, True, True, head=has_head(lm.model, [0, 0]))
    lm.meter = recorder
    return lm


def replaced(thing: Any) -> Any:
    """`thing` with stand-ins for all judges in its fields, at any depth, and attackers that take turns."""
    if isinstance(thing, Judge) and dataclasses.is_dataclass(thing):
        return Chance()
    if isinstance(thing, Attacker) and dataclasses.is_dataclass(thing):
        return Sequential()
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        fields = {f.name: getattr(thing, f.name) for f in dataclasses.fields(thing) if f.init}
        changed = {name: new for name, value in fields.items() if (new := replaced(value)) is not value}
        return dataclasses.replace(thing, **changed) if changed else thing
    if isinstance(thing, Mapping):
        items = {name: replaced(value) for name, value in thing.items()}
        return items if any(items[name] is not value for name, value in thing.items()) else thing
    if isinstance(thing, tuple):
        parts = [replaced(value) for value in thing]
        same = all(a is b for a, b in zip(parts, thing, strict=True))
        return thing if same else type(thing)(*parts) if hasattr(thing, "_fields") else tuple(parts)
    return thing
