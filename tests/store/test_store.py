"""A store that cannot be used: what is said, and that nothing is lost."""

import errno
import os
import sqlite3
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import event

from caseharden.attacks import SFT
from caseharden.errors import CasehardenError
from caseharden.store import weights
from caseharden.store.database import StoreError
from caseharden.store.store import Store
from caseharden.study.run import run_study
from strategies import many, texts
from study_toys import contents, outcomes, run, study


@pytest.fixture
def spec(tiny_lm, tmp_path):
    tiny_lm.save(tmp_path / "tiny")
    return study(tmp_path / "tiny", attacks=(SFT(lr=1e-2),))


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store", patience=0.2)


def expected(spec, tmp_path):
    fresh = Store(tmp_path / "expected")
    run(spec, fresh)
    return contents(fresh)


def test_two_runs_at_once(spec, store):
    first = run_study(spec, store)
    next(first)
    with pytest.raises(StoreError, match=f"in use by process {os.getpid()} on"):
        run(spec, Store(store.folder))
    first.close()
    assert set(outcomes(run(spec, store))) == {"done"}


def test_a_locked_database(spec, store, tmp_path):
    events = run_study(spec, store)
    next(events)
    other = sqlite3.connect(store.folder / "caseharden.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreError, match=r"locked\. Another program holds the database"):
        list(events)
    other.close()
    assert set(outcomes(run(spec, store))) == {"done"}
    assert contents(store) == expected(spec, tmp_path)


def test_a_full_disk_under_the_database(spec, store, tmp_path):
    events = run_study(spec, store)
    for happened in events:
        if happened.what == "done":
            break

    @event.listens_for(store.engine, "checkout")
    def shrink(connection, *_):
        connection.execute("PRAGMA max_page_count = 1")

    with pytest.raises(StoreError, match=r"full\. Free some space"):
        list(events)
    event.remove(store.engine, "checkout", shrink)
    store.engine.dispose()
    assert set(outcomes(run(spec, store))) == {"stored", "done"}
    assert contents(store) == expected(spec, tmp_path)


@pytest.mark.parametrize("what", ["checkpoint", "weights"])
def test_a_full_disk_under_the_files(spec, store, tmp_path, monkeypatch, what):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        if what == "checkpoint":
            patch.setattr(weights.torch, "save", full)
        else:
            patch.setattr(weights.LM, "save", full)
        with pytest.raises(StoreError, match=f"{what} failed: .*No space left on device. Free some space"):
            run(spec, store, checkpoint_every=0.0)
    assert "failed" not in outcomes(run(spec, store))
    assert contents(store) == expected(spec, tmp_path)


def test_a_read_only_database(spec, store):
    run(spec, store)
    url = f"sqlite:///file:{store.folder}/caseharden.db?mode=ro&uri=true"
    with pytest.raises(StoreError, match=r"readonly database. Make the store's folder and files writable"):
        run(spec, Store(store.folder, url))
    assert set(outcomes(run(spec, store))) == {"stored"}


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="opening the store"):
        Store(tmp_path / "file" / "store")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder(spec, store):
    run(spec, store)
    before = contents(store)
    store.engine.dispose()
    store.folder.chmod(0o555)
    try:
        with pytest.raises(StoreError, match="writable"):
            run(spec, Store(store.folder))
        assert contents(Store(store.folder, create=False)) == before
    finally:
        store.folder.chmod(0o755)


def test_a_file_that_is_no_database(tmp_path):
    (tmp_path / "caseharden.db").write_text("not a database" * 100)
    with pytest.raises(StoreError, match="file is not a database"):
        Store(tmp_path)


def test_reading_where_no_study_ever_ran(tmp_path):
    with pytest.raises(StoreError, match="holds no study"):
        Store(tmp_path, create=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("url", ["nonsense", "oracle99://here/there"])
def test_a_database_url_that_means_nothing(tmp_path, url):
    with pytest.raises(StoreError, match=r"PostgreSQL is written postgresql\+psycopg"):
        Store(tmp_path, url)


@pytest.mark.parametrize(
    "url",
    [
        *("", " ", "postgresql+psycopg://user:secret/x@host:port/name", "postgresql+psycopg://host:54:32/name"),
        *("postgresql+psycopg://[::1/name", "postgresql+psycopg://host/name?host=a&host=b:port", "postgres://h/d"),
        *("mysql://host/name", "http://host/name", "postgresql+nonesuch://host/name", "sqlite+aiosqlite:///x.db"),
        *(
            "sqlite://",
            "sqlite:///:memory:",
            "sqlite:///a\0b",
            "sqlite:///x.db?timeout=abc",
            "sqlite:////no/such/x.db",
        ),
    ],
)
@pytest.mark.parametrize("create", [True, False])
def test_a_database_url_that_cannot_be_used_is_told_without_its_password(tmp_path, url, create):
    with pytest.raises(StoreError) as told:
        Store(tmp_path, url, create=create)
    assert "secret" not in str(told.value)
    assert not (tmp_path / "caseharden.db").exists()


def test_a_damaged_checkpoint(spec, store):
    stopped = False
    for happened in (events := run_study(spec, store, checkpoint_every=0.0)):
        if happened.what == "step" and stopped:
            events.close()
            break
        stopped = happened.what == "step" and happened.share > 0
    (checkpoint,) = (store.folder / "checkpoints").glob("*.pt")
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    with pytest.raises(StoreError, match=r"is damaged .* Delete it"):
        run(spec, store)
    checkpoint.unlink()
    assert "failed" not in outcomes(run(spec, store))


PARTS = [
    "sqlite",
    "postgresql",
    "+psycopg",
    "+asyncpg",
    "mysql",
    "://",
    ":///",
    ":",
    "@",
    "/",
    "?",
    "&",
    "=",
    "%",
    "%zz",
    "#",
    "localhost",
    "[::1]",
    "[",
    "5432",
    "99999",
    "-1",
]
PARTS += ["mode=ro", "uri=true", "file:", ":memory:", "a.db", ".."]


@many
@given(url=st.lists(st.sampled_from(PARTS) | texts, max_size=9).map("".join), create=st.booleans())
def test_any_text_is_a_database_url_or_said_to_be_none(url, create, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with suppress(CasehardenError):
        assert Store(tmp_path, url, create=create, patience=0.1).studies() == []
