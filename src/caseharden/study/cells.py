"""Execute one cell, in any process: harden a model, measure it as released, or attack it. Needs no database.

What is found is handed out as it comes; whoever asks for the next outcome is through with the one before.
"""

from __future__ import annotations

import gc
import os
import platform
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from caseharden.data.stream import derive_seed
from caseharden.errors import CasehardenError, NotSharded
from caseharden.judges.judge import Answer, judged
from caseharden.lm.facts import fingerprint
from caseharden.lm.lm import LM
from caseharden.lm.machine import computing
from caseharden.lm.placement import here
from caseharden.measures.measure import Measure
from caseharden.records.results import Point, Reading
from caseharden.records.statistics import reading
from caseharden.records.stopping import Known, Wanted
from caseharden.store.database import StoreError
from caseharden.store.log import StepLog
from caseharden.store.store import differences, holder_in, writing
from caseharden.store.weights import Checkpoint, Weights
from caseharden.study import provenance
from caseharden.study.plan import Cell, Environment, hashed, judge_name
from caseharden.study.spec import StudySpec
from caseharden.train.tuner import Run, Tuner


@dataclass(frozen=True)
class Begun:
    """A process of this machine has begun with the cell."""

    machine: str
    host: Mapping[str, Any]
    share: float = 0.0


@dataclass(frozen=True)
class Stepped:
    """The cell's tuner has taken a step."""

    step: int
    share: float


@dataclass(frozen=True)
class Found:
    """A measure's reading of the model after `step` steps, with the answers behind it."""

    step: int
    share: float
    measure: str
    reading: Reading
    answers: Sequence[Answer]


@dataclass(frozen=True)
class Made:
    """Weights that `step` steps have made, kept under their fingerprint."""

    step: int
    share: float
    weights: str


@dataclass(frozen=True)
class Failed:
    """The cell cannot go on; the last that is heard of it."""

    reason: str


Outcome = Begun | Stepped | Found | Made | Failed
"""What happens in a cell, `share` of which is over then."""
STEPPED_SECONDS = 0.5
"""How often at most another process says that steps were taken."""


@dataclass(frozen=True)
class Job:
    """A cell to execute, begun on the model in `source`, and what is known of it: all that `execute` needs.

    `folder` is the store's, for weights, checkpoints and logs. `stored` is what other attempts, and other
    studies, have measured; `kept` are the steps after which the attacked model is kept already. `threads` are
    PyTorch's; None leaves them alone. `inputs` are all that decides the cell's results, as its driver sees them:
    the process `driver`, which holds the cell by the note `held`.
    """

    cell: Cell
    key: str
    spec: StudySpec
    source: Path
    folder: Path
    device: torch.device
    threads: int | None
    checkpoint_every: float
    stored: Known
    kept: frozenset[int]
    inputs: Mapping[str, Any]
    driver: tuple[int, str]
    held: str

    @cached_property
    def measures(self) -> Mapping[str, Measure]:
        return dict(sorted(self.spec.all_measures().items()))

    @cached_property
    def wanted(self) -> Wanted:
        limit = self.spec.phi if self.spec.stop_when_broken else None
        told = (self.spec.watched, limit, self.spec.confidence, self.cell.traits.ends)
        return Wanted(self.spec.budgets, self.measures.keys(), *told)

    @property
    def checkpoint(self) -> Checkpoint:
        return Checkpoint.of(self.folder, self.key)

    def to_keep(self, step: int) -> bool:
        """Whether the attacked model is to be kept as it is after `step` steps, and is not yet."""
        return self.spec.keep_attacked and step not in self.kept

    def is_stored(self) -> bool:
        """Whether all that the study wants of this attack is there."""
        return not self.wanted.missing(self.stored) and not self.to_keep(self.wanted.within(self.stored)[-1])


def execute(job: Job) -> Generator[Outcome, None, None]:
    """What is missing of the cell, an outcome at a time; stop asking to stop it.

    Raises `StoreError` or `OSError` if the store's folder cannot be used, and `NotSharded` if the cell needs one
    process and there are several, for which no cell is to blame.
    """
    _check_place(job)
    yield Begun(platform.node(), provenance.host(job.device, job.threads))
    reason = None
    held = writing(job.folder, job.key) if _leads(job) else nullcontext()
    with held, computing(job.device, job.threads):
        try:
            outcomes = {"harden": _harden, "release": _release, "attack": _attack}[job.cell.kind](job)
            # Processes that work together have to come to the same outcomes.
            every = job.driver == this_process() or here(job.device).world > 1
            yield from outcomes if every else _thinned(outcomes)
        except (StoreError, OSError, NotSharded):
            raise
        except Exception as error:  # noqa: BLE001 - whatever a method dies of ends its cell, not the study
            reason = str(error) if isinstance(error, CasehardenError) else f"{type(error).__name__}: {error}"
    if reason is not None:
        yield Failed(reason)


def _thinned(outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
    """The first step, but not every one: each that a driver elsewhere is told of costs both about a millisecond."""
    told = -float("inf")
    for outcome in outcomes:
        if not isinstance(outcome, Stepped):
            yield outcome
        elif time.monotonic() - told > STEPPED_SECONDS:
            yield outcome
            told = time.monotonic()


def _check_place(job: Job) -> None:
    """Raise `StoreError` if this process is not the driver, and could not do the cell as the driver would."""
    if job.driver == this_process():
        return
    if holder_in(job.folder, job.key) != job.held:
        raise StoreError(
            f"on {platform.node()}, {job.folder} is not the folder of the study's store. Put the store into a "
            "folder that all machines share, under the same path."
        )
    if not job.source.is_dir():
        raise StoreError(f"on {platform.node()} there is no {job.source}. Put models where all machines find them.")
    # Of processes that work together one reads the weights, so what the others would read proves nothing.
    several = here(job.device).world > 1
    mark = job.inputs["parent"] if several else fingerprint(job.source)
    inputs = _environment(job.spec, job.device.type).inputs(job.cell, mark)
    if other := list(differences(dict(job.inputs), inputs)):
        raise StoreError(
            f"{platform.node()} would come to other results than the machine that the study was begun on: it has "
            "other models, data, packages or code, or they have changed meanwhile. Install the same everywhere, "
            "and run the study again:\n  " + "\n  ".join(other)
        )


def this_process() -> tuple[int, str]:
    """What tells this process from others."""
    return os.getpid(), platform.node()


_environments: dict[str, Environment] = {}
"""By the spec, which is sent with each cell anew."""


def _environment(spec: StudySpec, device: str) -> Environment:
    written = hashed([spec.to_dict(), device])
    if written not in _environments:
        _environments[written] = Environment.of(spec, device)
    return _environments[written]


def _harden(job: Job) -> Iterator[Outcome]:
    cell = job.cell
    assert cell.defense is not None
    run = Run(_load(job), job.spec.domain, "defender", cell.defense_seed, engine=job.spec.engine)
    job.checkpoint.restore(run)
    total = getattr(cell.defense, "max_steps", None)
    for _ in _steps(job, run, cell.defense):
        yield Stepped(run.step, run.step / total if total else 0.0)
    yield Made(run.step, 1.0, Weights(job.folder / "weights").keep(run.finish(), job.key))


def _release(job: Job) -> Iterator[Outcome]:
    for number, found in enumerate(_measure(job, _load(job), _at(0, job.stored)), 1):
        yield Found(0, number / len(job.measures), *found)


def _attack(job: Job) -> Iterator[Outcome]:
    if job.is_stored():
        return
    cell, wanted = job.cell, job.wanted
    assert cell.attack is not None
    known = dict(job.stored)
    last, missing = wanted.within(known)[-1], wanted.missing(known)
    run = Run(_load(job), job.spec.domain, "attacker", cell.seed, engine=job.spec.engine)
    job.checkpoint.restore(run, before=min(missing, default=last))
    for _ in _steps(job, run, cell.attack):
        if run.step in missing:
            here = dict(_at(run.step, known))
            with run.evaluating() as lm:
                for name, found, answers in _measure(job, lm, here):
                    here[name] = found
                    yield Found(run.step, run.step / last, name, found, answers)
            known[run.step] = Point(run.step, here)
            last, missing = wanted.within(known)[-1], wanted.missing(known)  # it may have broken the model
        yield Stepped(run.step, run.step / last)
        if missing or (run.step < last and job.to_keep(last)):
            continue
        if job.to_keep(last):
            job.checkpoint.save(run)  # a larger budget goes on from here
            yield Made(run.step, 1.0, Weights(job.folder / "weights").keep(run.finish(), job.key))
        return
    raise CasehardenError(
        f"the attack ended at step {run.step}, and budget {last} was asked for. Raise its max_steps, or leave "
        "out the budgets that it does not reach."
    )


def _at(step: int, known: Known) -> Mapping[str, Reading]:
    return known[step].readings if step in known else {}


def _load(job: Job) -> LM:
    gc.collect()  # models refer to themselves: those of cells before are held until somebody looks for them
    spec, placement = job.spec, here(job.device)
    how = {"precision": spec.precision, "reasoning": spec.reasoning, "memory": spec.memory}
    return LM.load(job.source, device=job.device, placement=placement, **how)  # type: ignore[arg-type]


def _leads(job: Job) -> bool:
    """Whether this process writes: of several that work on the cell together one does."""
    return here(job.device).rank == 0


def _steps(job: Job, run: Run, tuner: Tuner) -> Iterator[None]:
    """`tuner`'s steps from where `run` stands, logged, and checkpointed as they go.

    A step is saved only after its caller is through with it. So a resumed run, which begins with the step
    after the checkpoint, comes again through every step that was not measured yet.
    """
    log, leads = StepLog.of(job.folder, job.key), _leads(job)
    if leads:
        log.resume()
    steps = run.drive(tuner)
    unsaved = 0.0
    while True:
        started = time.monotonic()
        metrics = next(steps, None)
        if metrics is None:
            return
        unsaved += time.monotonic() - started
        if leads:
            log.add(run.step, metrics)
        yield
        if run.lm.placement.agree(unsaved >= job.checkpoint_every):
            job.checkpoint.save(run)
            unsaved = 0.0


def _measure(job: Job, lm: LM, known: Mapping[str, Reading]) -> Iterator[tuple[str, Reading, Sequence[Answer]]]:
    """Those measures of `lm` that are not known, each with its reading and the answers behind it."""
    for name, measure in job.measures.items():
        if name not in known:
            # Of the measure alone: the same questions under the same seed in every cell.
            answers = measure.answers(lm, job.spec.domain, derive_seed(0, name), job.spec.engine)
            if judge := measure.judge:
                answers = lm.placement.once(partial(judged, judge, answers))
            version = measure.judge.version if measure.judge else ""
            scores, clusters = [answer.score for answer in answers], [answer.cluster for answer in answers]
            found = reading(scores, clusters, judge=judge_name(measure.judge), judge_version=version)
            yield name, found, answers
