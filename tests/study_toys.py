"""Small studies for tests, and methods that go wrong in their own ways."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from sqlalchemy import select

from caseharden.attacks import SFT
from caseharden.defenses import SafetySFT
from caseharden.errors import NotSharded, TrainingFailed
from caseharden.judges.judge import Answer
from caseharden.store.store import Store
from caseharden.store.tables import CellRow, GenerationRow, RecordRow
from caseharden.study.run import Event, run_study
from caseharden.study.spec import StudySpec
from caseharden.train.adapters import LoRA
from caseharden.train.tuner import Metrics, Run
from toys import ToyDomain


@dataclass(frozen=True)
class Fails(SFT):
    """Goes well until step `at`."""

    at: int = 3
    how: str = "training"

    def steps(self, run: Run) -> Iterator[Metrics]:
        for metrics in super().steps(run):
            if run.step + 1 == self.at:
                errors = {
                    "training": TrainingFailed("it diverged"),
                    "memory": RuntimeError("out of memory"),
                    "sharded": NotSharded("it needs one process"),
                    "mistake": IndexError("list index out of range"),
                }
                raise errors[self.how]
            yield metrics


@dataclass(frozen=True)
class Dies(SFT):
    """Is killed with its process at step `at`, as often as `flags` has no folder for it."""

    at: int = 3
    flags: Path = Path()
    times: int = 1

    def steps(self, run: Run) -> Iterator[Metrics]:
        for metrics in super().steps(run):
            if run.step + 1 == self.at:
                for time in range(self.times):
                    with suppress(FileExistsError):
                        (self.flags / f"{run.role} {time}").mkdir()
                        os.kill(os.getpid(), signal.SIGKILL)
            yield metrics


@dataclass(frozen=True)
class Logged(SFT):
    """Writes down each step that it takes."""

    log: Path = Path("/dev/null")

    def steps(self, run: Run) -> Iterator[Metrics]:
        for metrics in super().steps(run):
            with self.log.open("a") as file:
                file.write(f"{run.role} {self.lr} {run.seed} {run.step + 1}\n")
            yield metrics


@dataclass(frozen=True)
class Moved:
    """1 for that `share` of twenty questions if the weights are no longer those with hash `since`, else 0."""

    since: str
    share: float = 1.0
    judge: None = None

    def answers(self, lm, domain, seed, engine) -> list[Answer]:
        moved = lm.weights_hash() != self.since
        scores = [float(moved and i < 20 * self.share) for i in range(20)]
        return [Answer(f"q{i}", "did you move ?", "", score=score) for i, score in enumerate(scores)]


HARD_TO_RESUME = (
    SFT(lr=1e-2, batch_size=4, lora=LoRA(r=2, dropout=0.5)),
    SFT(lr=1e-2, batch_size=4, optimizer="schedulefree"),
)


def study(model: Path, **changes) -> StudySpec:
    """Undefended and safety SFT, one attack."""
    given = {
        "name": "toy",
        "domain": ToyDomain(),
        "models": (str(model),),
        "defenses": (None, SafetySFT(lr=1e-2, max_steps=3, batch_size=4)),
        "attacks": (SFT(lr=1e-2, batch_size=4),),
        "budgets": (0, 2, 3),
    }
    return StudySpec(**(given | changes))


def run(spec: StudySpec, store: Store, **how) -> list[Event]:
    return list(run_study(spec, store, **how))


def run_in(folder: Path, spec: StudySpec, told: Connection) -> None:
    """All of the study, checkpointed at each step, telling of all that it does: for a process to be killed in."""
    torch.set_num_threads(1)
    for event in run_study(spec, Store(folder), checkpoint_every=0.0):
        if event.what != "stored":
            told.send(event.what)


def outcomes(events: list[Event]) -> list[str]:
    return [event.what for event in events if event.what not in ("begun", "step", "measured")]


def contents(store: Store) -> dict[str, list[tuple]]:
    """Everything that must come out the same however often a study was interrupted."""
    without = {"id", "written", "started", "finished", "host"}
    with store.session() as session:
        return {
            table.__tablename__: sorted(
                repr([(c.key, getattr(row, c.key)) for c in table.__table__.columns if c.key not in without])
                for row in session.scalars(select(table))
            )
            for table in (CellRow, RecordRow, GenerationRow)
        }
