"""Run what is missing of a study, so that a crash at any moment loses little and changes nothing."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from caseharden.errors import CasehardenError
from caseharden.lm import sources as models
from caseharden.lm.facts import fingerprint
from caseharden.lm.machine import Placed, check_threads, device_of
from caseharden.store.store import Store, StoreError
from caseharden.store.weights import Checkpoint, Weights
from caseharden.study import provenance
from caseharden.study.cells import Found, Job, Made, execute
from caseharden.study.check import check_models
from caseharden.study.plan import Cell, Environment, directions, hashed, plan
from caseharden.study.spec import StudySpec, among


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
) -> Events:
    """Do what the store does not hold yet of the study, an event at a time; stop asking to stop it.

    A cell that fails is stored with its reason, and is tried again only if `retry_failed`; the study goes
    on. `update` accepts a spec that differs from the stored one. At most about `checkpoint_every` seconds
    of training are lost in a crash. A cell that another study is at just now is waited for, and not done again.
    Raises `StoreError` if the store cannot be used or somebody else runs this very study, and `CasehardenError`
    for a spec that cannot be run at all.
    """
    for placed in among(spec, Placed):  # a simulated attacker may have a device of its own
        if placed.device is not None:
            device_of(placed.device)
    check_threads(threads)
    if not checkpoint_every >= 0:
        raise CasehardenError(f"checkpoints are every so many seconds, 0 or more, not every {checkpoint_every}.")
    device = device_of(spec.device)
    with store.exclusive(spec.name), _torch(device, threads or spec.threads):
        study = _Study(spec, store, device, checkpoint_every)
        study.enter(update, retry_failed)
        yield from study.run(retry_failed)


@contextmanager
def _torch(device: torch.device, threads: int | None) -> Iterator[None]:
    """PyTorch as it has to be for results that can be had again; as it was, afterwards."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(threads or before[0])
    if device.type == "cpu":
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # slow, for debugging
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])


class _Study:
    """A study under way."""

    def __init__(self, spec: StudySpec, store: Store, device: torch.device, checkpoint_every: float) -> None:
        self.spec = spec
        self.store = store
        self.device = device
        self.checkpoint_every = checkpoint_every
        self.cells = plan(spec)
        self.harmful = {e.id for e in spec.domain.pools("evaluator").get("harmful", ())}
        self.environment = Environment.of(spec, device.type)
        self.weights = Weights(store.folder / "weights")
        self.sources = {model: models.resolve(model) for model in (*spec.models, *spec.controls)}
        self.marks = {model: fingerprint(folder) for model, folder in self.sources.items()}
        self.hardened: dict[int, str] = {}
        self.keys = self._known_keys()
        self.checked = False

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
            check_models(self.spec, self.sources.values(), self.device)
            self.checked = True

    def _known_keys(self) -> dict[int, str]:
        """Keys of the cells whose starting weights are known, by position."""
        keys: dict[int, str] = {}
        for position, cell in enumerate(self.cells):
            mark = self.marks[cell.model] if cell.parent is None else self._made(keys[cell.parent])
            if mark is not None and cell.parent is not None:
                self.hardened[cell.parent] = mark
            if mark is not None:
                keys[position] = hashed(self.environment.inputs(cell, mark))
        return keys

    def _made(self, key: str) -> str | None:
        """Fingerprint of the weights that a finished hardening made."""
        row = self.store.cell(key)
        return row.weights if row and row.status == "done" else None

    def run(self, retry_failed: bool) -> Events:
        for position, cell in enumerate(self.cells):
            key = self.keys.get(position)
            if key is None:
                yield Event(position, cell, "blocked", 1.0, "its hardening failed")
                continue
            with self.store.executing(key):
                yield from self._do(position, retry_failed)
            if cell.kind == "harden" and position + 1 not in self.keys:  # what comes next starts from its weights
                self.keys = self._known_keys()
                self.store.place(self.spec.name, self.keys)

    def _do(self, position: int, retry_failed: bool) -> Events:
        """What is to be done of one cell, as it is stored now."""
        cell, state = self.cells[position], self._state(position, retry_failed)
        if state == "stored":
            self._clear(position)
            yield Event(position, cell, "stored", 1.0)
        elif state == "missing":
            yield from self._execute(position)
        else:
            yield Event(position, cell, "failed", 1.0, f"{state} (earlier; --retry-failed tries it again)")

    def _state(self, position: int, retry_failed: bool) -> str:
        """Whether a cell is ``stored`` or ``missing``, or why it failed, if it is not to be tried again."""
        row = self.store.cell(self.keys[position])
        if row is None or row.status == "running":
            return "missing"
        if self._job(position).is_stored() if self.cells[position].kind == "attack" else row.status == "done":
            return "stored"
        return f"{row.reason}" if row.status == "failed" and not retry_failed else "missing"

    def _job(self, position: int, source: Path = Path()) -> Job:
        """The cell at `position`, with what the store holds of it."""
        key = self.keys[position]
        return Job(
            cell=self.cells[position],
            key=key,
            spec=self.spec,
            source=source,
            folder=self.store.folder,
            device=self.device,
            checkpoint_every=self.checkpoint_every,
            stored=self.store.points(key),
            kept=frozenset(self.store.kept(key)),
        )

    def _execute(self, position: int) -> Events:
        """Run one cell to its end, store what it finds and mark it."""
        self._check()
        cell, key = self.cells[position], self.keys[position]
        source = yield from self._source(cell)
        mark = self.marks[cell.model] if cell.parent is None else source.name
        self.store.begin(key, self.environment.inputs(cell, mark), provenance.host(self.device))
        yield Event(position, cell, "begun", 0.0)
        hardened = None
        try:
            for outcome in execute(self._job(position, source)):
                if isinstance(outcome, Found):
                    name, step = outcome.measure, outcome.step
                    spec = hashed(self.environment.measures[name])
                    self.store.record(key, name, step, outcome.reading, spec, outcome.answers, self.harmful)
                    yield Event(position, cell, "measured", outcome.share, f"{name} at {step}")
                elif not isinstance(outcome, Made):
                    yield Event(position, cell, "step", outcome.share)
                elif cell.kind == "harden":
                    hardened = outcome.weights
                else:
                    self.store.keep(key, outcome.step, outcome.weights)
        except (StoreError, OSError):
            raise
        except Exception as error:  # noqa: BLE001 - whatever a method dies of ends its cell, not the study
            reason = str(error) if isinstance(error, CasehardenError) else f"{type(error).__name__}: {error}"
            self.store.fail(key, reason)
            self._clear(position)
            yield Event(position, cell, "failed", 1.0, reason)
            return
        self.store.finish(key, hardened)
        self._clear(position)
        yield Event(position, cell, "done", 1.0)

    def _clear(self, position: int) -> None:
        """Remove the checkpoint of a cell that is over, unless its attacked model is kept: it may yet go on."""
        key = self.keys[position]
        if not self.store.kept(key):
            Checkpoint.of(self.store.folder, key).drop()

    def _source(self, cell: Cell) -> Generator[Event, None, Path]:
        """The folder of the weights that `cell` starts from, made again if somebody has deleted them."""
        if cell.parent is None:
            return self.sources[cell.model]
        mark = self.hardened[cell.parent]  # as the cell's key has it: another study may be making them again
        if self.weights.find(mark) is None:
            with self.store.executing(self.keys[cell.parent]):
                if self.weights.find(mark) is None:
                    yield from self._execute(cell.parent)
        folder = self.weights.find(mark)
        if folder is None:
            raise StoreError(
                f"the hardened weights {mark} are gone from {self.weights.root}, and hardening again did not bring "
                "them back: it failed or gave others. Run the study in a fresh store."
            )
        return folder
