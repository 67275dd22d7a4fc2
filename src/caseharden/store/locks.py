"""Locks by name on what runs share: in a folder, or in a PostgreSQL database that several folders use."""

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
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from caseharden.errors import CasehardenError

log = logging.getLogger(__name__)

PAUSE = 0.5
"""Seconds between two looks at a lock that somebody else holds."""

Release = Callable[[], None]


class InUse(CasehardenError):
    """Somebody else holds what was asked for, or the very thread that asks does: `by_asker`."""

    by_asker = False


class Locks(Protocol):
    """Where locks are kept. They end with the process that holds them, however it ends."""

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


@dataclass(frozen=True)
class PostgresLocks:
    """Advisory locks of a PostgreSQL database, each held by a connection of its own, whose name says by whom."""

    engine: Engine

    @property
    def place(self) -> str:
        return str(self.engine.url)

    def take(self, name: str) -> Release | None:
        connection = self.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        connection.detach()  # not back to the pool: the lock ends with the connection
        taken = connection.scalar(text("SELECT pg_try_advisory_lock(:number)"), {"number": _number(name)})
        if not taken:
            connection.close()
            return None
        connection.execute(text("SELECT set_config('application_name', :name, false)"), {"name": _me()})

        def release() -> None:
            with connection, suppress(DBAPIError):  # a connection that was lost holds nothing
                connection.scalar(text("SELECT pg_advisory_unlock(:number)"), {"number": _number(name)})

        return release

    def holder(self, name: str) -> str:
        found = text(
            "SELECT application_name FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE locktype = 'advisory' "
            "AND granted AND objsubid = 1 AND (classid::bigint << 32) | objid::bigint = :number "
            "AND pg_locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        with self.engine.connect() as connection:
            return str(connection.scalar(found, {"number": _number(name)}) or "")


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
    return f"process {os.getpid()} on {platform.node()}"[:63]  # all that PostgreSQL keeps of a name


def _number(name: str) -> int:
    """The number that an advisory lock goes by."""
    return int.from_bytes(hashlib.sha256(f"caseharden {name}".encode()).digest()[:8], "big") >> 1
