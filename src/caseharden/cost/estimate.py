"""Estimate: what a study takes before anything of it runs, for each of its cells and in all."""

from __future__ import annotations

import dataclasses
import math
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy

from caseharden.cost import here as machine
from caseharden.cost.architecture import Architecture, Pass
from caseharden.cost.devices import Device, changed, named
from caseharden.cost.ledger import Work
from caseharden.cost.memory import Layout, peak, shards_to_fit, ways_to_fit
from caseharden.cost.standin import StandIn, TwinRun, replaced, twin
from caseharden.cost.trace import Amounts, Moment, Recorder, Trace, by_model, traced
from caseharden.lm import sources
from caseharden.records.names import model_name
from caseharden.study.plan import Cell, plan
from caseharden.study.spec import StudySpec, among
from caseharden.train.tuner import Tuner

SEEN = 4.0
"""Seconds of the processor for which each method is watched on a twin, unless it is through before."""
CELL = 0.5
"""Seconds that a cell takes besides loading the model: reading the tokenizer, trying the model, locks."""
STORED, LOGGED = 2e-4, 1e-3
"""Seconds to store an answer, and to log a step and report it."""


@dataclass(frozen=True)
class CellCost:
    """What one cell takes. `trained`, `read` and `written` are tokens, `peak` bytes on each device it needs."""

    title: str
    kind: str
    steps: int
    flops: float
    trained: float
    read: float
    written: float
    seconds: float
    peak: float
    devices: int = 1
    parent: int | None = None


@dataclass(frozen=True)
class Cost:
    """What a study takes on `number` devices; `advice` says what would make it fit where it does not.

    `hours` are of the clock, `device_hours` those that are paid for, and `dollars` their price.
    """

    study: str
    device: str
    number: int
    room: float
    parameters: Mapping[str, int]
    cells: Sequence[CellCost]
    hours: float
    device_hours: float
    dollars: float
    fits: bool
    advice: Sequence[str]
    assumptions: Sequence[str]

    def total(self, what: str) -> float:
        """The sum over cells of one of their numbers: flops, trained, read, written or seconds."""
        return math.fsum(getattr(cell, what) for cell in self.cells)

    @property
    def peak(self) -> float:
        """Bytes on a device at the most."""
        return max(cell.peak for cell in self.cells)


def cost(
    spec: StudySpec,
    device: str = "here",
    *,
    price: float | None = None,
    utilization: float | None = None,
    answer_tokens: int | None = None,
    seconds: float = SEEN,
) -> Cost:
    """What a study takes on a device of that name, ``h100x8`` or ``here``; no weights are read.

    Each method is run for some `seconds` on a small twin of its model, with its real tokenizer, data and lengths;
    what passes of such shapes take in the model itself is found from its configuration. Answers are as long as
    examples' own completions, or `answer_tokens`. Raises `CasehardenError` for a device that there is not.
    """
    number, target = 1, None
    if device != "here":
        target, number = named(device, price=price, utilization=utilization)
    precision = spec.precision if spec.precision != "auto" else "float32" if target is None else "bfloat16"
    asked = Layout(
        checkpointing=spec.memory.checkpointing,
        offload=spec.memory.offload,
        bfloat16=precision == "bfloat16_weights",
    )
    computes = precision.removesuffix("_weights")
    casts = computes == "bfloat16"
    watched = {
        model: _Watched(spec, model, casts, answer_tokens, seconds) for model in (*spec.models, *spec.controls)
    }
    cells = plan(spec)
    base = machine.held_here() if target is None else 0.0
    needs = [watched[cell.model].needs(cell) for cell in cells]
    if target is None:
        largest = max(watched.values(), key=lambda one: one.architecture.parameters)
        every = {one for need in needs for _, one in need.passes}
        target = changed(machine.here(largest.architecture, every, base), price, None)
    found, advice = list[CellCost](), list[str]()
    for cell, need in zip(cells, needs, strict=True):
        subject = watched[cell.model].architecture
        layout = asked
        if peak(need.moments, subject, layout, target) > target.memory:
            advice += _advice(cell, need, subject, target, number, asked)
            layout = replace(asked, shards=number) if asked.can_be_sharded else asked
        found.append(
            CellCost(
                _title(cell),
                cell.kind,
                need.steps,
                need.flops(),
                need.tokens["trained"],
                need.tokens["read"],
                need.tokens["written"],
                need.seconds(subject, target, computes, layout),
                peak(need.moments, subject, layout, target),
                layout.shards,
                cell.parent,
            )
        )
    hours = (_clock(found, number) + sum(one.entering for one in watched.values())) / 3600
    paid = number * hours
    return Cost(
        study=spec.name,
        device=target.name,
        number=number,
        room=target.memory,
        parameters={model: one.architecture.parameters for model, one in watched.items()},
        cells=found,
        hours=hours,
        device_hours=paid,
        dollars=paid * target.price,
        fits=all(cell.peak <= target.memory for cell in found),
        advice=[*dict.fromkeys(advice)],
        assumptions=_assumptions(target, computes, answer_tokens),
    )


@dataclass
class _Need:
    """What a cell takes of any device."""

    passes: Amounts[tuple[Architecture, Pass]] = field(default_factory=lambda: defaultdict(float))
    beside: Work = field(default_factory=Work)
    tokens: Amounts[str] = field(default_factory=lambda: defaultdict(float))
    text: float = 0.0
    moments: list[Moment] = field(default_factory=list)
    steps: int = 0
    fields: frozenset[str] = frozenset()

    def add(self, trace: Trace, times: float = 1.0) -> None:
        for one, often in trace.passes.items():
            self.passes[one] += times * often
        for name, count in trace.tokens.items():
            self.tokens[name] += times * count
        self.beside += trace.beside * times
        self.text += trace.text * times

    def work(self, again: float = 1.0) -> Any:
        """[n, 3] of all shapes of passes, and how often each comes, [n]: `again` times as often with gradient.

        A pass with gradient takes about three without, and one more where layers are computed twice.
        """
        rows, times = [numpy.zeros((0, 3))], [numpy.zeros(0)]
        for (architecture, variant), shapes in by_model(self.passes).items():
            table = numpy.array(shapes, dtype=float)
            rows.append(architecture.profile(variant).of(table[:, :4])[:, :3])
            times.append(table[:, 4] * (again if variant.grad else 1.0))
        return numpy.concatenate(rows), numpy.concatenate(times)

    def flops(self) -> float:
        rows, times = self.work()
        return float(rows[:, 0] @ times) + self.beside.flops

    def seconds(self, subject: Architecture, device: Device, precision: str, layout: Layout) -> float:
        """Seconds on so many devices as it is sharded over."""
        rows, times = self.work(again=4 / 3 if layout.checkpointing else 1.0)
        computing = float(device.seconds(rows, precision) @ times) / layout.shards
        if (
            layout.shards > 1
        ):  # each pass gathers the weights, and the one with gradient again, and scatters gradients
            gathers = sum(often * (3 if one.variant.grad else 1) for (_, one), often in self.passes.items())
            computing = max(computing, gathers * 2 * subject.parameters / device.link)
        host = CELL + LOGGED * self.steps + STORED * self.tokens["answers"] + self.text
        host += 4 * subject.parameters / device.load_speed
        return computing + device.seconds_of(self.beside, precision) / layout.shards + host


class _Watched:
    """A model of the study, and what each method and all measures were seen to take of it."""

    def __init__(self, spec: StudySpec, model: str, casts: bool, answer_tokens: int | None, seconds: float) -> None:
        self.spec, self.seconds = spec, seconds
        tuners = (spec.attacks, spec.defenses)
        in_parts = any(getattr(one, "scope", None) for one in among(tuners, Tuner))
        self.architecture = Architecture(
            sources.resolve(model, weights=False), depth=4 if in_parts else 1, autocast=casts
        )
        lm = twin(self.architecture, spec.reasoning, Recorder(self.architecture), spec.memory)
        began = time.process_time()
        self.engine = StandIn(lm, spec.domain, spec.engine, answer_tokens)
        self.entering = time.process_time() - began  # a study reads all prompts as well, before anything runs
        self.lm = lm
        self._traces: dict[tuple[Any, str, int | None], Trace] = {}
        self._measures: Trace | None = None

    def needs(self, cell: Cell) -> _Need:
        """What a cell takes: of its method's steps and its measures' passes."""
        need = _Need()
        tuner, last = cell.tuner, self.spec.budgets[-1]
        if tuner is not None:
            number = getattr(tuner, "max_steps", None)
            number = number if cell.kind == "harden" else min(last, number or last)
            trace = self.tuned(tuner, "defender" if cell.kind == "harden" else "attacker", number)
            need.add(trace)
            need.moments += trace.moments
            need.steps = number or 0
            need.fields = frozenset(_open_fields(tuner))
        if cell.kind != "harden":
            times = 1 if cell.kind == "release" else sum(budget > 0 for budget in self.spec.budgets)
            need.add(self.measured(), times)
            need.moments += [_during(moment, need.moments) for moment in self.measured().moments]
        return need

    def tuned(self, tuner: Tuner, role: Any, number: int | None) -> Trace:
        """What so many steps take of a method; None is all it has."""
        from caseharden.study.build import as_json, written

        known = (as_json(written(tuner, Tuner)), role, number)
        if known not in self._traces:
            recorder = Recorder(self.architecture)
            lm = twin(self.architecture, self.spec.reasoning, recorder, self.spec.memory)
            run = TwinRun(lm, self.spec.domain, role, 0, engine=self.engine)
            steps = run.drive(replaced(tuner))
            self._traces[known] = traced(steps, recorder, lm.model, number, self.seconds)
        return self._traces[known]

    def measured(self) -> Trace:
        """What all measures take, once."""
        if self._measures is None:
            recorder = self.lm.meter = Recorder(self.architecture)
            measures = [replaced(measure) for measure in self.spec.all_measures().values()]
            asked = (self._asked(measure, recorder) for measure in measures)
            self._measures = traced(asked, recorder, self.lm.model, len(measures), math.inf)
        return self._measures

    def _asked(self, measure: Any, recorder: Recorder) -> Sequence[Any]:
        answers: Sequence[Any] = measure.answers(self.lm, self.spec.domain, 0, self.engine)
        recorder.step.tokens["answers"] += len(answers)
        return answers


def _during(measured: Moment, training: Iterable[Moment]) -> Moment:
    """A moment of measures in the midst of training: what the method holds between its steps is held as well."""
    lasting = [moment.held for moment in training if not moment.passes]
    kinds = ("states", "copies", "kept", "kept aside")
    most = {kind: max((one.get(kind, 0.0) for one in lasting), default=0.0) for kind in kinds}
    return Moment({**measured.held, **most}, measured.passes)


def _open_fields(tuner: Tuner) -> Iterable[str]:
    """The fields of a method, and of those within it, but for those that spare memory already."""
    plenty = {"lora": None, "forward_batch": None, "keep": "device"}
    for part in among(tuner, Tuner):
        for one in dataclasses.fields(part):
            if one.name not in plenty or getattr(part, one.name) == plenty[one.name]:
                yield one.name


def _advice(
    cell: Cell, need: _Need, subject: Architecture, device: Device, number: int, asked: Layout
) -> list[str]:
    """What would make a cell fit that does not."""
    title = _title(cell)
    ways = ways_to_fit(need.moments, subject, device, need.fields, asked)
    said = [f"{title}: {way} ({bytes_ / 1e9:.3g} GB on one {device.name})" for way, bytes_ in ways]
    shards = shards_to_fit(need.moments, subject, device, asked)
    if shards and shards > number:
        said.append(f"{title}: {shards} of {device.name}, sharded (FSDP2)")
    elif shards:
        said.append(f"{title}: fits sharded over {number} of {device.name} (FSDP2), as is assumed here")
    return said or [f"{title}: fits no number of {device.name}, whatever is saved. Take a smaller model."]


def _clock(cells: Sequence[CellCost], number: int) -> float:
    """Seconds until all cells are through, begun in order, each as soon as there are devices and its weights."""
    free, ends = [0.0] * number, list[float]()
    for cell in cells:
        free.sort()
        taken = min(cell.devices, number)
        begin = max(free[taken - 1], ends[cell.parent] if cell.parent is not None else 0.0)
        ends.append(begin + cell.seconds)
        free[:taken] = [ends[-1]] * taken
    return max(ends, default=0.0)


def _title(cell: Cell) -> str:
    labels = cell.labels()
    names = labels["names"]
    parts = [model_name(cell.model), names["defense"], names["attack"] or cell.kind]
    return " · ".join(dict.fromkeys(part for part in parts if part))


def _assumptions(device: Device, precision: str, answer_tokens: int | None) -> list[str]:
    length = "as long as examples' own completions" if answer_tokens is None else f"{answer_tokens} tokens long"
    speed = (
        "measured on passes of these shapes"
        if device.serial
        else f"{device.utilization:.0%} of {device.flops[precision] / 1e12:.4g} TFLOP/s ({precision}) and "
        f"{device.moved:.0%} of {device.bandwidth / 1e9:.4g} GB/s, or {device.call * 1e6:.3g} µs a call if more"
    )
    return [
        f"speed: {speed}",
        f"answers are {length}; attacks run to the last budget, broken or not",
        "judges' own models, data sets that are fetched, and waiting for a cluster are not counted",
        f"price: {device.price:g} dollars an hour of each device",
    ]
