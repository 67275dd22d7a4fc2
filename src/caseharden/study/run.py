"""Run what is missing of a study, so that a crash at any moment loses little and changes nothing."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from caseharden.errors import CasehardenError
from caseharden.executors import torchrun
from caseharden.executors.executor import Came, Executor, Local
from caseharden.lm import sources as models
from caseharden.lm.facts import fingerprint
from caseharden.lm.machine import check_threads, device_of
from caseharden.store.database import StoreError
from caseharden.store.patience import PAUSE
from caseharden.store.store import Store, Taken, holder_in
from caseharden.store.weights import Checkpoint, Weights
from caseharden.study import provenance
from caseharden.study.cells import Begun, Failed, Found, Job, Made, Outcome, Stepped, execute, this_process
from caseharden.study.check import check_models
from caseharden.study.plan import Cell, Environment, directions, hashed, plan
from caseharden.study.spec import StudySpec, computing_on, named_devices

TRIES = 3
"""How often a cell is begun whose process dies, each time before anything new has come of it."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Event:
    """Something that happened to the cell at `position`, `share` of which is over. `text` is for people."""

    position: int
    cell: Cell
    what: Literal["begun", "step", "measured", "done", "stored", "failed", "blocked"]
    share: float
    text: str = ""


Events = Generator[Event, None, None]


def run_study(
    spec: StudySpec,
    store: Store,
    *,
    update: bool = False,
    retry_failed: bool = False,
    checkpoint_every: float = 120.0,
    threads: int | None = None,
    executor: Executor | None = None,
) -> Events:
    """Do what the store does not hold yet of the study, an event at a time; stop asking to stop it.

    `executor` works on the cells, and is stopped at the end, not closed; without one, they are done one after
    another in this process. Where it has several jobs, each has one thread unless `threads` or the spec says
    otherwise. A cell that fails is stored with its reason, and is tried again only if `retry_failed`; the study
    goes on. `update` accepts a spec that differs from the stored one. At most about `checkpoint_every` seconds
    of training are lost in a crash. A cell that another study is at just now is waited for, and not done again.
    Raises `StoreError` if the store cannot be used or somebody else runs this very study, and `CasehardenError`
    for a spec that cannot be run at all.
    """
    for named in named_devices(spec):
        device_of(named)
    check_threads(threads)
    if not checkpoint_every >= 0:
        raise CasehardenError(f"checkpoints are every so many seconds, 0 or more, not every {checkpoint_every}.")
    workers = executor or (torchrun.joined() if torchrun.launched() else Local())
    threads = threads or spec.threads or (1 if workers.jobs > 1 else None)
    with store.exclusive(spec.name):
        device = computing_on(spec, elsewhere=workers.elsewhere)
        study = _Study(spec, store, device, threads, checkpoint_every, workers)
        study.enter(update, retry_failed)
        try:
            yield from study.run(retry_failed)
        finally:
            study.stop()


@dataclass
class _UnderWay:
    """A cell that is held and worked on, and what has come of it.

    `first` is the first step that its process told, and `before` that of the process before it; `deaths` are
    those since something new was kept.
    """

    source: Path
    lock: ExitStack
    made: str | None = None
    failure: str | None = None
    deaths: int = 0
    first: int | None = None
    before: int | None = None
    share: float = 0.0

    def heard(self, outcome: Stepped | Found | Made) -> None:
        """Forget deaths if something new is kept: it is not the cell then that its processes die of.

        Steps alone are lost with their process. That they are kept shows in where the next process goes on: its
        first step, and only that, is always told. Weights that are made are what a cell ends with.
        """
        new = isinstance(outcome, Found)
        if isinstance(outcome, Stepped) and self.first is None:
            self.first = outcome.step
            new = self.before is not None and self.first > self.before
        if new:
            self.deaths = 0

    def died(self) -> None:
        """Count a death; what was made is made again, and is nothing new then."""
        self.deaths += 1
        self.before, self.first = (self.before if self.first is None else self.first), None
        self.made = self.failure = None


class _Study:
    """A study under way: which of its cells are left, and which are worked on."""

    def __init__(
        self,
        spec: StudySpec,
        store: Store,
        device: torch.device,
        threads: int | None,
        checkpoint_every: float,
        executor: Executor,
    ) -> None:
        self.spec = spec
        self.store = store
        self.device = device
        self.threads = threads
        self.checkpoint_every = checkpoint_every
        self.executor = executor
        self.cells = plan(spec)
        self.harmful = {e.id for e in spec.domain.pools("evaluator").get("harmful", ())}
        self.environment = Environment.of(spec, device.type)
        self.weights = Weights(store.folder / "weights")
        self.sources = {model: models.resolve(model) for model in (*spec.models, *spec.controls)}
        self.marks = {model: fingerprint(folder) for model, folder in self.sources.items()}
        self.hardened: dict[int, str] = {}
        self.keys: dict[int, str] = {}
        self.keys = self._new_keys()
        self.checked = False
        self.left = [*range(len(self.cells))]
        if executor.jobs > 1:  # first what others wait for
            self.left.sort(key=lambda position: self.cells[position].kind != "harden")
        self.under_way: dict[int, _UnderWay] = {}
        self.look_at = 0.0  # when to look for cells to begin: when one has ended, or another study may have let go
        self.waited_for: set[str] = set()
        self.to_remake: set[int] = set()
        self.remade: set[int] = set()

    def enter(self, update: bool, retry_failed: bool) -> None:
        """Enter the study in the store, unless something of it is to run and its models cannot be measured."""
        if not update:  # before models are loaded
            self.store.refuse_another(self.spec.name, self.spec.to_dict())
        if any(self._state(position, retry_failed) == "missing" for position in self.keys):
            self._check()
        labels = [{**cell.labels(), "better": directions(self.spec)} for cell in self.cells]
        self.store.adopt(self.spec.name, self.spec.to_dict(), self.spec.to_yaml(), labels, update=update)
        self.store.place(self.spec.name, self.keys)

    def _check(self) -> None:
        """Check the models, once. Only where something is to run: what is stored may have outlived them."""
        if not self.checked:
            here = torch.device("cpu") if self.executor.elsewhere else self.device
            check_models(self.spec, self.sources.values(), here)
            self.checked = True

    def _new_keys(self) -> dict[int, str]:
        """Keys of the cells whose starting weights have become known, by position."""
        keys: dict[int, str] = {}
        unmade: set[int] = set()
        for position, cell in enumerate(self.cells):
            if position in self.keys or cell.parent in unmade:
                continue
            mark = self.marks[cell.model]
            if cell.parent is not None:  # once known it stays, even where somebody is making the weights again
                made = self.hardened.get(cell.parent) or self._made(self.keys.get(cell.parent) or keys[cell.parent])
                if made is None:
                    unmade.add(cell.parent)
                    continue
                mark = self.hardened[cell.parent] = made
            keys[position] = hashed(self.environment.inputs(cell, mark))
        return keys

    def _made(self, key: str) -> str | None:
        """Fingerprint of the weights that a finished hardening made."""
        row = self.store.cell(key)
        return row.weights if row and row.status == "done" else None

    def run(self, retry_failed: bool) -> Events:
        """Begin cells as there is room for them, and store what comes of them, until none is left."""
        while self.left or self.under_way:
            pause = self.look_at - time.monotonic()
            if pause <= 0:
                self.look_at = math.inf
                yield from self._begin(retry_failed)
            elif self.under_way:
                happened = self.executor.wait(pause if math.isfinite(pause) else None)
                if isinstance(happened, Came):
                    yield self._store(happened.number, happened.outcome)
                elif happened is not None:
                    yield self._end(happened.number, happened.death)
            else:
                time.sleep(pause)

    def stop(self) -> None:
        """End all work under way, and give back its cells."""
        try:
            self.executor.stop()
        finally:
            for cell in self.under_way.values():
                cell.lock.close()

    def _begin(self, retry_failed: bool) -> Events:
        """Begin what can be begun, as far as there is room, and be through with what is stored already."""
        for position in [*self.left]:
            if len(self.under_way) >= self.executor.jobs:
                return
            key, parent = self.keys.get(position), self.cells[position].parent
            if key is None:
                if parent not in self.left and parent not in self.under_way:
                    self.left.remove(position)
                    yield Event(position, self.cells[position], "blocked", 1.0, "its hardening failed")
            elif key not in {self.keys[one] for one in self.under_way}:
                with ExitStack() as lock:
                    if self._is_free(key, lock):
                        yield from self._do(position, lock, retry_failed)

    def _is_free(self, key: str, lock: ExitStack) -> bool:
        """Hold a cell, unless another study is at it just now: then look again later, and say so once."""
        try:
            lock.enter_context(self.store.executing(key))
        except Taken as error:
            if error.by_asker:
                raise
            if key not in self.waited_for:
                log.warning("waiting: %s", error.__cause__)
            self.waited_for.add(key)
            self.look_at = min(self.look_at, time.monotonic() + PAUSE)
            return False
        return True

    def _do(self, position: int, lock: ExitStack, retry_failed: bool) -> Events:
        """What is to be done of one cell, as it is stored now."""
        cell, state = self.cells[position], self._state(position, retry_failed)
        if position in self.to_remake:
            if self.weights.find(self.hardened[position]) is not None:  # another study has made them
                self._over(position)
                return
        elif state == "stored":
            self._clear(position)
            self._over(position)
            yield Event(position, cell, "stored", 1.0)
            return
        elif state != "missing":
            self._over(position)
            yield Event(position, cell, "failed", 1.0, f"{state} (earlier; --retry-failed tries it again)")
            return
        source = self._source(cell)
        if source is None:
            return
        self._check()
        job = self._job(position, source)
        self.store.begin(self.keys[position], job.inputs, provenance.host(self.device, self.threads))
        self.left.remove(position)
        self.under_way[position] = _UnderWay(source, lock.pop_all())
        self.executor.begin(position, partial(execute, job))
        yield Event(position, cell, "begun", 0.0)

    def _state(self, position: int, retry_failed: bool) -> str:
        """Whether a cell is ``stored`` or ``missing``, or why it failed, if it is not to be tried again."""
        row = self.store.cell(self.keys[position])
        if row is None or row.status == "running":
            return "missing"
        if self._job(position).is_stored() if self.cells[position].kind == "attack" else row.status == "done":
            return "stored"
        return f"{row.reason}" if row.status == "failed" and not retry_failed else "missing"

    def _inputs(self, position: int) -> dict[str, Any]:
        """All that decides the results of a cell whose starting weights are known."""
        cell = self.cells[position]
        mark = self.marks[cell.model] if cell.parent is None else self.hardened[cell.parent]
        return self.environment.inputs(cell, mark)

    def _job(self, position: int, source: Path | None = None) -> Job:
        """The cell at `position`, with what the store holds of it; to be begun, if it has a `source`."""
        key = self.keys[position]
        return Job(
            cell=self.cells[position],
            key=key,
            spec=self.spec,
            source=(source or Path()).absolute(),  # a worker may stand in another folder
            folder=self.store.folder.absolute(),
            device=self.device,
            threads=self.threads,
            checkpoint_every=self.checkpoint_every,
            stored=self.store.points(key),
            kept=frozenset(self.store.kept(key)),
            inputs=self._inputs(position) if source else {},
            driver=this_process(),
            held=holder_in(self.store.folder, key) if source else "",
        )

    def _store(self, position: int, outcome: Outcome) -> Event:
        """Store what has come of a cell."""
        cell, key, under_way = self.cells[position], self.keys[position], self.under_way[position]
        if isinstance(outcome, Failed):
            under_way.failure = outcome.reason
            return Event(position, cell, "step", 1.0)
        if isinstance(outcome, Begun):
            self.store.at(key, outcome.machine, outcome.host)
            return Event(position, cell, "step", under_way.share)
        under_way.heard(outcome)
        under_way.share = outcome.share
        if isinstance(outcome, Found):
            name, step = outcome.measure, outcome.step
            spec = hashed(self.environment.measures[name])
            self.store.record(key, name, step, outcome.reading, spec, outcome.answers, self.harmful)
            return Event(position, cell, "measured", outcome.share, f"{name} at {step}")
        if isinstance(outcome, Made) and cell.kind == "harden":
            under_way.made = outcome.weights
        elif isinstance(outcome, Made):
            self.store.keep(key, outcome.step, outcome.weights)
        return Event(position, cell, "step", outcome.share)

    def _end(self, position: int, death: str) -> Event:
        """Mark a cell as done, or as failed and why; begin it again if its process has died, but not for ever."""
        cell, key, under_way = self.cells[position], self.keys[position], self.under_way[position]
        if death:
            under_way.died()
            log.warning("the process that worked on cell %s %s", key, death)
            if under_way.deaths < TRIES:
                self.executor.begin(position, partial(execute, self._job(position, under_way.source)))
                return Event(position, cell, "begun", 0.0)
            under_way.failure = f"each of {TRIES} processes {death}. If memory ran out, run fewer jobs."
        with self.under_way.pop(position).lock:
            if under_way.failure is None:
                self.store.finish(key, under_way.made)
            else:
                self.store.fail(key, under_way.failure)
            if not death:  # else its checkpoint is as good as ever
                self._clear(position)
        if position in self.to_remake:
            self.remade.add(position)
        self._over(position)
        if under_way.failure is not None:
            return Event(position, cell, "failed", 1.0, under_way.failure)
        return Event(position, cell, "done", 1.0)

    def _over(self, position: int) -> None:
        """Leave a cell, and see what can begin now."""
        if position in self.left:
            self.left.remove(position)
        self.to_remake.discard(position)
        self.look_at = 0.0
        if self.cells[position].kind == "harden" and position + 1 not in self.keys:
            new = self._new_keys()  # what comes next starts from its weights
            self.keys |= new
            self.store.place(self.spec.name, new)

    def _clear(self, position: int) -> None:
        """Remove the checkpoint of a cell that is over, unless its attacked model is kept: it may yet go on."""
        key = self.keys[position]
        self.weights.sweep(key)
        if not self.store.kept(key):
            Checkpoint.of(self.store.folder, key).drop()

    def _source(self, cell: Cell) -> Path | None:
        """The folder of the weights that `cell` starts from; None while they are made again, if they are gone."""
        if cell.parent is None:
            return self.sources[cell.model]
        mark = self.hardened[cell.parent]
        folder = self.weights.find(mark)
        if folder is None and cell.parent in self.remade:
            raise StoreError(
                f"the hardened weights {mark} are gone from {self.weights.root}, and hardening again did not bring "
                "them back: it failed or gave others. Run the study in a fresh store."
            )
        if folder is None and cell.parent not in self.to_remake:
            self.to_remake.add(cell.parent)
            self.left.insert(0, cell.parent)
            self.look_at = 0.0
        return folder
