"""Where a study's cells, records and answers are kept: a folder with a database, or a database by URL."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from sqlalchemy import delete, inspect, select, text
from sqlalchemy.orm import Session
from sqlalchemy.schema import CreateColumn

from caseharden.errors import CasehardenError
from caseharden.judges.judge import Answer
from caseharden.records.results import Point, Reading
from caseharden.store.database import StoreError, connected, storing
from caseharden.store.locks import FileLocks, InUse, Leases, Locks, held
from caseharden.store.patience import patiently
from caseharden.store.tables import NAME, Base, CellRow, GenerationRow, KeptRow, PlaceRow, RecordRow, StudyRow, now


class Taken(StoreError):
    """Somebody else holds it, or the very thread that asks does: `by_asker`."""

    by_asker = False


PREPARING = 4_211_720_563
"""The number of the lock under which a PostgreSQL database's tables are made; any would do."""


@contextmanager
def writing(folder: Path, key: str, *, wait: bool = True) -> Iterator[None]:
    """Hold the files of a cell in a store's folder, to write them; wait for a process that still does.

    Whoever holds the cell may have others write them, and those can outlive it for a moment. Without `wait` this
    raises `Taken` then.
    """
    with ExitStack() as stack:
        with storing(f"locking the store {folder}"):
            try:
                stack.enter_context(held(f"files of cell {key}", [FileLocks(folder / "locks")], wait=wait))
            except InUse as error:
                raise Taken(str(error)) from error
        yield


def holder_in(folder: Path, key: str) -> str:
    """Who holds the cell with this key, by the store's folder as this machine sees it; empty if nobody does."""
    return FileLocks(folder / "locks").holder(f"cell {key}")


class Store:
    """A folder with the database (unless that is elsewhere, at a URL), weights and checkpoints.

    Every method is one transaction. Raises `StoreError` where the disk or the database refuses.
    """

    def __init__(
        self, folder: Path, url: str | None = None, *, create: bool = True, patience: float = 30.0
    ) -> None:
        """Open the store; `patience` is how many seconds to wait for a database that another program holds.

        So many seconds a study waits for a database server that has gone away, too.
        """
        self.folder = folder
        self.patience = patience
        file = folder / "caseharden.db"
        if not create and url is None and not file.is_file():
            raise StoreError(f"{folder} holds no study: no {file.name}. Run one there, or name its folder.")
        if create:
            with storing(f"opening the store {folder}"):
                folder.mkdir(parents=True, exist_ok=True)
        self.engine = connected(file, url, patience)
        self._leases = Leases(self.engine, patience) if self.engine.dialect.name != "sqlite" else None
        if create:
            self.complete()

    def complete(self) -> None:
        """Make the tables that are missing, and the columns that a store of an earlier version lacks."""
        with ExitStack() as alone:
            if self._leases is None:
                alone.enter_context(self._held("the database's tables", wait=True))
            alone.enter_context(storing(f"preparing the store {self.folder}"))
            connection = alone.enter_context(self.engine.begin())
            if self._leases is not None:  # which are in a table themselves
                connection.execute(text(f"SELECT pg_advisory_xact_lock({PREPARING})"))
            Base.metadata.create_all(connection)
            for table in Base.metadata.sorted_tables:
                there = {column["name"] for column in inspect(connection).get_columns(table.name)}
                for column in (column for column in table.columns if column.name not in there):
                    made = f"{CreateColumn(column).compile(connection)}"
                    connection.execute(text(f"ALTER TABLE {table.name} ADD COLUMN {made}"))

    @contextmanager
    def session(self, what: str = "reading the store") -> Iterator[Session]:
        """One transaction."""
        with storing(what), Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def exclusive(self, study: str) -> Iterator[None]:
        """Hold a study for a run. Raises `StoreError` that says who holds it, if somebody else does."""
        with self._held(f"study {study!r}", wait=False):
            yield

    @contextmanager
    def executing(self, key: str) -> Iterator[None]:
        """Hold a cell, in the database and in the folder. Raises `Taken` if somebody else holds it."""
        with self._held(f"cell {key}", self.folder, wait=False):
            yield

    @contextmanager
    def _holding(self, name: str, what: str) -> Iterator[Session]:
        """One transaction. Raises `StoreError` if somebody else has taken over what this process held."""
        with self.session(what) as session:
            if self._leases is not None and self._leases.is_lost(name, session):
                raise StoreError(
                    f"the database was away for so long that another run has taken over {name}. Run the same "
                    "command again: it takes what the other has done."
                )
            yield session

    @contextmanager
    def _held(self, name: str, *folders: Path, wait: bool) -> Iterator[None]:
        """Hold what has this name in the database, whichever folder it is used from, and in `folders`."""
        with ExitStack() as stack:
            with storing(f"locking the store {self.folder}"):
                places: dict[str, Locks] = {}
                for locks in (*(FileLocks(folder / "locks") for folder in folders), self._database_locks()):
                    places.setdefault(locks.place, locks)
                try:
                    stack.enter_context(held(name, [*places.values()], wait=wait))
                except InUse as error:
                    taken = Taken(f"{error} Wait for it, end it, or use another store.")
                    taken.by_asker = error.by_asker
                    raise taken from error
            yield

    def _database_locks(self) -> Locks:
        if self._leases is not None:
            return self._leases
        with self.engine.connect() as connection:
            _, _, file = connection.execute(text("PRAGMA database_list")).first() or ("", "", "")
        return FileLocks(Path(file).parent / "locks")

    # ---- studies and their cells --------------------------------------------------------------------

    @patiently
    def refuse_another(self, study: str, spec: dict[str, Any]) -> None:
        """Raise `CasehardenError` if the study was entered with another spec than `spec`, which has every field."""
        with self.session() as session:
            row = session.get(StudyRow, study)
            if row and (changed := list(differences(row.spec, spec))):
                raise CasehardenError(
                    f"study {study!r} is stored in {self.folder} with another spec:\n  "
                    + "\n  ".join(changed)
                    + "\nPass --update to run the new one (what is measured stays stored and is used where it "
                    "still fits), or give the new study a name of its own."
                )

    @patiently
    def adopt(
        self,
        study: str,
        spec: dict[str, Any],
        source: str,
        labels: Sequence[Mapping[str, Any]],
        *,
        update: bool = False,
    ) -> None:
        """Enter the study, with a place for each of its cells, or find it as it was entered before.

        `spec` has every field, to compare with; `source` is for people.

        Raises `CasehardenError` if it was entered with another spec, unless `update` says to replace it:
        cells that no longer belong to it stay stored.
        """
        if not update:
            self.refuse_another(study, spec)
        with self._holding(f"study {study!r}", "entering the study") as session:
            row = session.get(StudyRow, study)
            if row is None:
                session.add(row := StudyRow(name=study))
            row.spec, row.source, row.updated = spec, source, now()
            session.flush()
            session.execute(delete(PlaceRow).where(PlaceRow.study == study))
            session.add_all(PlaceRow(study=study, position=i, labels=dict(label)) for i, label in enumerate(labels))

    @patiently
    def place(self, study: str, keys: Mapping[int, str]) -> None:
        """Say which cells are at which positions of the study."""
        with self._holding(f"study {study!r}", "placing cells") as session:
            for position, key in keys.items():
                row = session.get_one(PlaceRow, (study, position))
                row.cell = key

    def studies(self) -> list[str]:
        """The names of all studies, the last one run first."""
        with self.session() as session:
            return list(session.scalars(select(StudyRow.name).order_by(StudyRow.updated.desc())))

    @patiently
    def cell(self, key: str) -> CellRow | None:
        """The cell with this key, if it was ever begun."""
        with self.session() as session:
            return session.get(CellRow, key)

    def made(self, study: str) -> list[str]:
        """Fingerprints of the weights that the study's finished hardenings have made, in the study's order."""
        rows = select(CellRow.weights).join(PlaceRow, PlaceRow.cell == CellRow.key)
        done = rows.where(PlaceRow.study == study, CellRow.status == "done", CellRow.weights.is_not(None))
        with self.session() as session:
            return [str(mark) for mark in session.scalars(done.order_by(PlaceRow.position))]

    @patiently
    def begin(self, key: str, inputs: Mapping[str, Any], host: Mapping[str, Any]) -> None:
        """Mark a cell as running. What an earlier attempt stored of it stays."""
        with self.session("beginning a cell") as session:
            row = session.get(CellRow, key) or CellRow(key=key, inputs=dict(inputs))
            row.status, row.reason, row.host, row.started, row.finished = "running", "", dict(host), now(), None
            session.add(row)

    @patiently
    def at(self, key: str, machine: str, host: Mapping[str, Any]) -> None:
        """Enter which machine a cell runs on, by its name, and what it is like."""
        with self._holding(f"cell {key}", "entering a machine") as session:
            row = session.get_one(CellRow, key)
            row.host = {**host, NAME: machine}

    @patiently
    def finish(self, key: str, weights: str | None = None) -> None:
        """Mark a cell as done; `weights` are those that a hardening made. The last thing written of a cell."""
        with self._holding(f"cell {key}", "finishing a cell") as session:
            row = session.get_one(CellRow, key)
            row.status, row.weights, row.finished = "done", weights, now()

    @patiently
    def fail(self, key: str, reason: str) -> None:
        """Mark a cell as failed, and why."""
        with self._holding(f"cell {key}", "recording a failure") as session:
            row = session.get_one(CellRow, key)
            row.status, row.reason, row.finished = "failed", reason, now()

    # ---- what was measured --------------------------------------------------------------------------

    @patiently
    def keep(self, key: str, step: int, weights: str) -> None:
        """Enter the weights of an attacked model, as it was after `step` steps."""
        with self._holding(f"cell {key}", "entering weights") as session:
            session.merge(KeptRow(cell=key, step=step, weights=weights))

    @patiently
    def kept(self, key: str) -> dict[int, str]:
        """Fingerprints of an attacked model's weights that were kept, by step."""
        with self.session() as session:
            rows = session.scalars(select(KeptRow).where(KeptRow.cell == key).order_by(KeptRow.step))
            return {row.step: row.weights for row in rows}

    @patiently
    def points(self, key: str) -> dict[int, Point]:
        """What is stored of a cell: see `points_of`."""
        with self.session() as session:
            return points_of(session, key)

    @patiently
    def record(
        self,
        key: str,
        measure: str,
        step: int,
        reading: Reading,
        spec: str,
        answers: Sequence[Answer],
        harmful: set[str],
    ) -> None:
        """Store a reading with the answers behind it, both or neither. `harmful` are ids of harmful questions."""
        where = {"cell": key, "measure": measure, "step": step}
        with self._holding(f"cell {key}", "storing a record") as session:
            own = select(RecordRow).where(*(getattr(RecordRow, name) == is_ for name, is_ in where.items()))
            row = session.scalar(own.where(RecordRow.own))
            if row is not None and row.spec == spec and repr(row.value) == repr(float(reading.value)):
                return  # the connection was lost before this was told
            session.add(RecordRow(**where, own=True, spec=spec, **vars(reading)))
            session.add_all(
                GenerationRow(
                    **where,
                    number=number,
                    item=answer.id,
                    prompt=_text(answer.prompt),
                    output=_text(answer.output),
                    expected=_text(answer.expected),
                    topic=answer.topic,
                    group=answer.cluster,
                    finished=answer.finished,
                    score=answer.score,
                    harmful=answer.id in harmful,
                )
                for number, answer in enumerate(answers)
            )


def points_of(session: Session, key: str) -> dict[int, Point]:
    """The readings of a cell, by step; those of a judge other than a measure's own are under ``measure@judge``."""
    found: dict[int, dict[str, Reading]] = defaultdict(dict)
    absent = lacking(session, RecordRow)
    given = [field.name for field in fields(Reading) if field.name not in absent]
    columns = ("step", "measure", "own", *given)
    rows = select(*(getattr(RecordRow, name) for name in columns)).where(RecordRow.cell == key)
    for row in session.execute(rows.order_by(RecordRow.id)):
        name = row.measure if row.own else f"{row.measure}@{row.judge}"
        values = {name: getattr(row, name) for name in given}
        found[row.step][name] = Reading(**{name: value for name, value in values.items() if value is not None})
    return {step: Point(step, readings) for step, readings in sorted(found.items())}


def lacking(session: Session, row: type[Base]) -> set[str]:
    """The columns that are not there: a store of an earlier version may have to be read as it lies."""
    there = {column["name"] for column in inspect(session.connection()).get_columns(row.__tablename__)}
    return {*row.__table__.columns.keys()} - there


def _text(text: str) -> str:
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")  # PostgreSQL takes no NUL


def differences(old: Any, new: Any, place: str = "") -> Iterator[str]:
    """Where two written specs differ, one line for each place."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            yield from differences(old.get(key), new.get(key), f"{place}.{key}" if place else key)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from differences(before, after, f"{place}[{i}]")
    elif old != new:
        yield f"{place}: {old!r} → {new!r}"
