"""Locks by name on what runs share: in a folder, or leases in a PostgreSQL database that several folders use."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import psutil
from filelock import FileLock, Timeout
from sqlalchemy import Engine, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from caseharden.errors import CasehardenError
from caseharden.store.patience import PAUSE, patiently
from caseharden.store.tables import LeaseRow

log = logging.getLogger(__name__)

LASTS, RENEWED = 60.0, 10.0
"""Seconds that a lease lasts without being renewed, and after which it is."""
clock = func.clock_timestamp
"""The database's time, which is the same for all."""

Release = Callable[[], None]


class InUse(CasehardenError):
    """Somebody else holds what was asked for, or the very thread that asks does: `by_asker`."""

    by_asker = False


class Locks(Protocol):
    """Where locks are kept. They end with the process that holds them, or soon after, however it ends."""

    @property
    def place(self) -> str:
        """The same for whoever shares these locks."""
        ...

    def take(self, name: str) -> Release | None:
        """Take the lock `name`, and return what gives it back; None if somebody holds it."""
        ...

    def holder(self, name: str) -> str:
        """Who holds the lock `name`, as far as that is known; empty if not."""
        ...


@dataclass(frozen=True)
class FileLocks:
    """Locks as files of a folder, a note beside each of who holds it."""

    folder: Path

    @property
    def place(self) -> str:
        return str(self.folder.resolve())

    def take(self, name: str) -> Release | None:
        self.folder.mkdir(parents=True, exist_ok=True)
        lock, note = FileLock(self._path(name, "lock")), self._path(name, "pid")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return None

        def release() -> None:
            note.unlink(missing_ok=True)
            lock.release()

        try:
            note.write_text(_me(), encoding="utf-8")
        except OSError:
            lock.release()
            raise
        return release

    def holder(self, name: str) -> str:
        note = self._path(name, "pid")
        return note.read_text(encoding="utf-8") if note.is_file() else ""

    def _path(self, name: str, ending: str) -> Path:
        return self.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.{ending}"


class Leases:
    """Locks as rows of a PostgreSQL database, each for `LASTS` seconds, and renewed while their holder lives.

    So they outlast a restart of the database, and a connection that is lost. A process that dies holds its leases
    until they end, or until somebody on the same machine asks. Each lease has a token of its own.
    """

    def __init__(self, engine: Engine, patience: float = 0.0) -> None:
        self.engine = engine
        self.patience = patience
        self._tokens: dict[str, str] = {}
        self._changing = threading.Lock()
        self._renewing: threading.Thread | None = None

    @property
    def place(self) -> str:
        return str(self.engine.url)

    def take(self, name: str) -> Release | None:
        token = uuid4().hex
        if not self._taken(name, token):
            return None
        with self._changing:
            self._tokens[name] = token
            if self._renewing is None or not self._renewing.is_alive():
                self._renewing = threading.Thread(target=self._renew, daemon=True)
                self._renewing.start()

        def release() -> None:
            with self._changing:
                if self._tokens.get(name) == token:
                    del self._tokens[name]
            with suppress(DBAPIError), self.engine.begin() as connection:  # else it ends, being renewed no more
                connection.execute(delete(LeaseRow).where(LeaseRow.holder == token))

        return release

    @patiently
    def holder(self, name: str) -> str:
        found = select(LeaseRow.who).where(LeaseRow.name == name, LeaseRow.until > clock())
        with self.engine.connect() as connection:
            return connection.scalar(found) or ""

    def is_lost(self, name: str, session: Session) -> bool:
        """Whether somebody else has taken a lease over that is held here; until `session` ends nobody can."""
        token = self._tokens.get(name)
        mine = (
            select(LeaseRow.name).where(LeaseRow.name == name, LeaseRow.holder == token).with_for_update(read=True)
        )
        return token is not None and session.scalar(mine) is None

    @patiently
    def _taken(self, name: str, token: str) -> bool:
        """Whether the lease is the token's now. It may have become so although nobody was told."""
        given = {"holder": token, "who": _me(), "process": _process(), "until": clock() + timedelta(seconds=LASTS)}
        with self.engine.begin() as connection:
            row = connection.execute(select(LeaseRow).where(LeaseRow.name == name)).first()
            free = LeaseRow.until < clock()
            if row is not None and (row.holder == token or _is_dead(row.process)):
                free = LeaseRow.holder == row.holder
            taken = insert(LeaseRow).values(name=name, **given)
            taken = taken.on_conflict_do_update(index_elements=[LeaseRow.name], set_=given, where=free)
            return connection.scalar(taken.returning(LeaseRow.name)) is not None

    def _renew(self) -> None:
        """Renew what is held, every so often, until nothing is."""
        while True:
            time.sleep(RENEWED)
            with self._changing:
                tokens = [*self._tokens.values()]
                if not tokens:
                    self._renewing = None
                    return
            renewed = update(LeaseRow).where(LeaseRow.holder.in_(tokens))
            try:
                with self.engine.begin() as connection:
                    connection.execute(renewed.values(until=clock() + timedelta(seconds=LASTS)))
            except Exception as error:  # noqa: BLE001 - next time perhaps; whoever writes finds out what is lost
                log.warning("leases could not be renewed: %s", f"{error}".strip().partition("\n")[0])


_held: set[tuple[str, str, int]] = set()
"""Place, name and thread of every lock that this process holds."""


@contextmanager
def held(name: str, places: Sequence[Locks], *, wait: bool) -> Iterator[None]:
    """Hold the lock `name` in all `places`.

    If somebody else holds it, wait for them, or else raise `InUse`, which says who; nobody waits for a lock that
    their own thread holds.
    """
    with ExitStack() as stack:
        for locks in places:
            mine = (locks.place, name, threading.get_ident())
            said = False
            while (release := locks.take(name)) is None:
                holder = locks.holder(name) or "a process unknown"
                if not wait or mine in _held:
                    refused = InUse(f"{name} is in use by {holder}.")
                    refused.by_asker = mine in _held
                    raise refused
                if not said:
                    log.warning("waiting for %s, which has %s in use", holder, name)
                said = True
                time.sleep(PAUSE)
            stack.callback(release)
            _held.add(mine)
            stack.callback(_held.discard, mine)
        yield


def _me() -> str:
    return f"process {os.getpid()} on {platform.node()}"


def _process() -> str:
    """This process as no other machine or container can name one of its own; empty where that cannot be told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}/{os.getpid()}/{psutil.Process().create_time()}"
    except (OSError, psutil.Error):
        return ""


def _is_dead(process: str) -> bool:
    """Whether a process, as `_process` has named it, was one of this machine that is no more."""
    *machine, number, begun = process.split("/") if process else ("", "")
    if not machine or machine != _process().split("/")[:2]:
        return False
    try:
        return str(psutil.Process(int(number)).create_time()) != begun
    except psutil.NoSuchProcess:
        return True
