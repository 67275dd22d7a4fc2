"""Databases of stores: SQLite in a folder, or PostgreSQL by URL; and what they and the disk refuse, as errors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from caseharden.errors import CasehardenError


class StoreError(CasehardenError):
    """The store cannot be read or written. It ends a study: no cell is to blame, and none is marked failed."""


ADVICE = {
    "locked": "Another program holds the database; wait for it or end it.",
    "readonly": "Make the store's folder and files writable.",
    "read-only": "Make the store's folder and files writable.",
    "permission denied": "Make the store's folder and files writable.",
    "full": "Free some space.",
    "no space": "Free some space.",
    "no module named": "PostgreSQL is written postgresql+psycopg://user@host/name, and needs the extra: "
    "pip install 'caseharden[postgres]'.",
}
"""What to do, by a part of what the system says."""
WRITTEN = (
    "PostgreSQL is written postgresql+psycopg://user:password@host:5432/name, special characters of a password as "
    "%40 and the like; SQLite is written sqlite:////folder/file.db."
)


HEARD_OF = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
"""How soon a connection to PostgreSQL is given up that nothing is heard of: seconds, a number, milliseconds."""


@contextmanager
def storing(what: str, *also: type[Exception]) -> Iterator[None]:
    """Turn what the disk or the database refuses, while busy with `what`, into a `StoreError` with advice."""
    refusals: tuple[type[Exception], ...] = (OSError, DBAPIError, *also)
    try:
        yield
    except refusals as error:
        said = str(error.orig if isinstance(error, DBAPIError) else error).strip() or type(error).__name__
        advice = next((text for part, text in ADVICE.items() if part in said.lower()), "Put that right.")
        raise StoreError(
            f"{what} failed: {said}. {advice} What was stored so far is safe; the same command goes on from there."
        ) from error


def connected(file: Path, url: str | None, patience: float) -> Engine:
    """The database at `url`, or in `file`; `patience` is how many seconds to wait for another program's write.

    Raises `StoreError` if it cannot be opened, or if no store can be there.
    """
    with storing(f"opening the store {file.parent}", SQLAlchemyError, ImportError, ValueError, TypeError):
        engine = _engine(_local(file) if url is None else _url(url), patience)
        engine.connect().close()
    return engine


def _local(file: Path) -> URL:
    if os.access(file.parent, os.W_OK):
        return URL.create("sqlite", database=str(file))
    # SQLite's write-ahead log needs a writable folder even to read it; an archive is read as it lies.
    query = {"uri": "true", "mode": "ro", "immutable": "1"}
    return URL.create("sqlite", database=f"file:{quote(str(file.resolve()))}", query=query)


def _url(given: str) -> URL:
    """A database URL as it was given. Raises `StoreError` if it is none, or if no store can be there."""
    try:
        url = make_url(given)
        url = url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url
        if url.get_backend_name() not in ("sqlite", "postgresql"):
            raise StoreError(f"a store's database is not {url.get_backend_name()}. {WRITTEN}")
        asynchronous = url.get_dialect().is_async
    except (ArgumentError, ValueError) as error:
        # Without its text, which may have a password in it: that is where most go wrong.
        why = "cannot be read" if isinstance(error, ArgumentError) else "has a port that is no number"
        raise StoreError(f"the database URL {why}. {WRITTEN}") from None
    if asynchronous:
        raise StoreError(f"a store needs a driver that is not asynchronous, as {url.drivername} is. {WRITTEN}")
    if url.get_backend_name() == "sqlite" and (url.database or ":memory:").startswith(
        (":memory:", "file::memory:")
    ):
        raise StoreError(f"a database in memory would lose what a study found. Name a file: {WRITTEN}")
    return url


def _engine(url: URL, patience: float) -> Engine:
    sqlite = url.get_backend_name() == "sqlite"
    arguments = {"timeout": patience} if sqlite else {k: v for k, v in HEARD_OF.items() if k not in url.query}
    engine = create_engine(url, connect_args=arguments, pool_pre_ping=not sqlite)
    if sqlite:
        event.listen(engine, "connect", _prepare)
    return engine


def _prepare(connection: Any, _: Any) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
