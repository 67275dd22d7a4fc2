"""Run what is missing of a study, so that a crash at any moment loses little and changes nothing."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from caseharden.data.stream import derive_seed
from caseharden.errors import CasehardenError
from caseharden.judges.judge import judged
from caseharden.lm import sources as models
from caseharden.lm.facts import fingerprint
from caseharden.lm.lm import LM
from caseharden.records.statistics import reading
from caseharden.store.log import StepLog
from caseharden.store.store import Store, StoreError
from caseharden.store.weights import Checkpoint, Weights
from caseharden.study import provenance
from caseharden.study.plan import Cell, Environment, described, hashed, judge_name, plan
from caseharden.study.spec import StudySpec
from caseharden.train.tuner import Run, Tuner


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
    of training are lost in a crash. Raises `StoreError` if the store cannot be used or somebody else runs
    in it, and `CasehardenError` for a spec that cannot be run at all.
    """
    best = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(best if spec.device == "auto" else spec.device)
    with store.exclusive(), _torch(device, threads or spec.threads):
        yield from _Study(spec, store, device, update, checkpoint_every).run(retry_failed)


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

    def __init__(
        self, spec: StudySpec, store: Store, device: torch.device, update: bool, checkpoint_every: float
    ) -> None:
        self.spec = spec
        self.store = store
        self.device = device
        self.checkpoint_every = checkpoint_every
        self.cells = plan(spec)
        self.measures = dict(sorted(spec.all_measures().items()))
        self.harmful = {e.id for e in spec.domain.pools("evaluator").get("harmful", ())}
        self.environment = Environment.of(spec, device.type)
        self.weights = Weights(store.folder / "weights")
        self.sources = {model: models.resolve(model) for model in (*spec.models, *spec.controls)}
        self.marks = {model: fingerprint(folder) for model, folder in self.sources.items()}
        labels = [cell.labels() for cell in self.cells]
        store.adopt(spec.name, spec.to_dict(), spec.to_yaml(), labels, update=update)
        self.keys = self._known_keys()

    def _known_keys(self) -> dict[int, str]:
        """Keys of the cells whose starting weights are known, by position; entered in the store as well."""
        keys: dict[int, str] = {}
        for position, cell in enumerate(self.cells):
            mark = self.marks[cell.model] if cell.parent is None else self._made(keys[cell.parent])
            if mark is not None:
                keys[position] = hashed(self.environment.inputs(cell, mark))
        self.store.place(self.spec.name, keys)
        return keys

    def _made(self, key: str) -> str | None:
        """Fingerprint of the weights that a finished cell made."""
        row = self.store.cell(key)
        return row.weights if row and row.status == "done" else None

    def run(self, retry_failed: bool) -> Events:
        for position, cell in enumerate(self.cells):
            key = self.keys.get(position)
            row = self.store.cell(key) if key else None
            if key is None:
                yield Event(position, cell, "blocked", 1.0, "its hardening failed")
            elif row and row.status == "done":
                self._checkpoint(key).drop()
                yield Event(position, cell, "stored", 1.0)
            elif row and row.status == "failed" and not retry_failed:
                yield Event(position, cell, "failed", 1.0, f"{row.reason} (earlier; --retry-failed tries it again)")
            else:
                yield from self._execute(position)

    def _execute(self, position: int) -> Events:
        """Run one cell to its end and mark it."""
        cell, key = self.cells[position], self.keys[position]
        source = yield from self._source(cell)
        mark = self.marks[cell.model] if cell.parent is None else source.name
        self.store.begin(key, self.environment.inputs(cell, mark), provenance.host(self.device))
        yield Event(position, cell, "begun", 0.0)
        work = {"harden": self._harden, "release": self._release, "attack": self._attack}[cell.kind]
        try:
            made = yield from work(position, source)
        except (StoreError, OSError):
            raise
        except Exception as error:  # noqa: BLE001 - whatever a method dies of ends its cell, not the study
            reason = str(error) if isinstance(error, CasehardenError) else f"{type(error).__name__}: {error}"
            self.store.fail(key, reason)
            self._checkpoint(key).drop()
            yield Event(position, cell, "failed", 1.0, reason)
            return
        self.store.finish(key, made)
        self._checkpoint(key).drop()
        if cell.kind == "harden":
            self.keys = self._known_keys()
        yield Event(position, cell, "done", 1.0)

    def _source(self, cell: Cell) -> Generator[Event, None, Path]:
        """The folder of the weights that `cell` starts from, made again if somebody has deleted them."""
        if cell.parent is None:
            return self.sources[cell.model]
        mark = self._made(self.keys[cell.parent])
        assert mark is not None, "a cell's key is known only when its starting weights are"
        if self.weights.find(mark) is None:
            yield from self._execute(cell.parent)
        folder = self.weights.find(mark)
        if folder is None:
            raise StoreError(
                f"the hardened weights {mark} are gone from {self.weights.root}, and hardening again did not bring "
                "them back: it failed or gave others. Run the study in a fresh store."
            )
        return folder

    # ---- the three kinds of cell --------------------------------------------------------------------

    def _harden(self, position: int, source: Path) -> Generator[Event, None, str]:
        cell = self.cells[position]
        assert cell.defense is not None
        run = Run(self._load(source), self.spec.domain, "defender", cell.defense_seed)
        total = getattr(cell.defense, "max_steps", None)
        for _ in self._steps(run, cell.defense, self._checkpoint(self.keys[position])):
            yield Event(position, cell, "step", run.step / total if total else 0.0)
        return self.weights.keep(run.finish())

    def _release(self, position: int, source: Path) -> Generator[Event, None, None]:
        yield from self._measure(self._load(source), position, 0)

    def _attack(self, position: int, source: Path) -> Generator[Event, None, str | None]:
        cell, key, last = self.cells[position], self.keys[position], self._last(self.keys[position])
        assert cell.attack is not None
        stored = self.store.measured(key)
        budgets = [budget for budget in self.spec.budgets[1:] if budget <= last]
        missing = [b for b in budgets if any((name, b) not in stored for name in self.measures)]
        if not missing and not self.spec.keep_attacked:
            return None
        run = Run(self._load(source), self.spec.domain, "attacker", cell.seed)
        for _ in self._steps(run, cell.attack, self._checkpoint(key), before=min(missing, default=None)):
            if run.step in missing:
                with run.evaluating() as lm:
                    yield from self._measure(lm, position, run.step)
                last = self._last(key)
            yield Event(position, cell, "step", run.step / last)
            if run.step == last:
                return self.weights.keep(run.finish()) if self.spec.keep_attacked else None
        raise CasehardenError(
            f"the attack ended at step {run.step}, and budget {last} was asked for. Raise its max_steps, or leave "
            "out the budgets that it does not reach."
        )

    def _last(self, key: str) -> int:
        """The budget that an attack ends with: the first that broke the model, if the spec says to stop there."""
        broken = self.store.exceeded(key, "harm", self.spec.phi) if self.spec.stop_when_broken else None
        return self.spec.budgets[-1] if broken is None else broken

    # ---- what they share ----------------------------------------------------------------------------

    def _load(self, source: Path) -> LM:
        return LM.load(source, device=self.device, precision=self.spec.precision)

    def _checkpoint(self, key: str) -> Checkpoint:
        return Checkpoint(self.store.folder / "checkpoints" / f"{key}.pt")

    def _steps(
        self, run: Run, tuner: Tuner, checkpoint: Checkpoint, before: int | None = None
    ) -> Iterator[Mapping[str, float]]:
        """`tuner`'s steps from the last checkpoint before step `before`, checkpointed as they go.

        A step is saved only after its caller is through with it. So a resumed run, which begins with the
        step after the checkpoint, comes again through every step that was not measured yet.
        """
        checkpoint.restore(run, before)
        log = StepLog.of(self.store.folder, checkpoint.path.stem)
        log.resume(run.step)
        steps = run.drive(tuner)
        unsaved = 0.0
        while True:
            started = time.monotonic()
            metrics = next(steps, None)
            if metrics is None:
                return
            unsaved += time.monotonic() - started
            log.add(run.step, metrics)
            yield metrics
            if unsaved >= self.checkpoint_every:
                checkpoint.save(run)
                unsaved = 0.0

    def _measure(self, lm: LM, position: int, step: int) -> Events:
        """Take those measures of `lm` that are not stored yet, each stored as soon as it is taken."""
        cell, key = self.cells[position], self.keys[position]
        stored = self.store.measured(key)
        for number, (name, measure) in enumerate(self.measures.items(), 1):
            if (name, step) not in stored:
                # Of the measure alone: the same questions under the same seed in every cell.
                answers = measure.answers(lm, self.spec.domain, derive_seed(0, name))
                if measure.judge:
                    answers = judged(measure.judge, answers)
                found = reading(
                    [answer.score for answer in answers],
                    judge=judge_name(measure.judge),
                    judge_version=measure.judge.version if measure.judge else "",
                )
                self.store.record(key, name, step, found, hashed(described(measure)), answers, self.harmful)
            share = step / self.spec.budgets[-1] if step else number / len(self.measures)
            yield Event(position, cell, "measured", share, f"{name} at {step}")
