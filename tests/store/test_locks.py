"""Locks belong to what is shared: a study and a cell, in a folder and in a database."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
from sqlalchemy import create_engine, select, text

from caseharden.attacks import SFT
from caseharden.defenses import SafetySFT
from caseharden.judges.judge import Answer
from caseharden.lm.lm import LM
from caseharden.records.results import Reading
from caseharden.store import locks
from caseharden.store.database import StoreError
from caseharden.store.locks import FileLocks, InUse, Leases, held
from caseharden.store.results import results
from caseharden.store.store import Store, Taken, writing
from caseharden.store.tables import Base, GenerationRow, RecordRow
from caseharden.study.run import run_study
from executor_toys import until
from study_toys import Logged, contents, outcomes, run, study


class Server(NamedTuple):
    """A PostgreSQL server: the URL of its first database, and what begins it again."""

    url: str
    restart: Callable[[], None]


@pytest.fixture(scope="session")
def server():
    """A PostgreSQL server of this test's own; skipped where there is none."""
    pytest.importorskip("psycopg")
    if not (shutil.which("initdb") and shutil.which("pg_ctl")):
        pytest.skip("there is no PostgreSQL here")
    folder = tempfile.mkdtemp()
    who: list[str] = []
    if os.geteuid() == 0:  # as whom PostgreSQL does not run
        shutil.chown(folder, "postgres")
        who = ["runuser", "-u", "postgres", "--"]
    data = f"{folder}/data"

    def command(*words: str) -> None:
        subprocess.run([*who, *words], check=True, stdout=subprocess.DEVNULL, cwd="/")

    command("initdb", "-D", data, "-A", "trust", "-U", "tester", "--no-sync")
    options = f"-c listen_addresses= -k {folder} -c fsync=off"
    start = ("pg_ctl", "-D", data, "-o", options, "-l", f"{folder}/log", "-w", "start")

    def restart() -> None:
        command("pg_ctl", "-D", data, "-m", "immediate", "stop")
        time.sleep(1.0)
        command(*start)

    command(*start)
    yield Server(f"postgresql+psycopg://tester@/postgres?host={folder}", restart)
    command("pg_ctl", "-D", data, "-m", "immediate", "stop")
    shutil.rmtree(folder)


@pytest.fixture
def postgres(server):
    """The URL of an empty database."""
    engine = create_engine(server.url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("DROP DATABASE IF EXISTS lent WITH (FORCE)"))
        connection.execute(text("CREATE DATABASE lent"))
    engine.dispose()
    return server.url.replace("/postgres?", "/lent?")


@pytest.fixture(params=["sqlite", "postgres"])
def database(request, tmp_path):
    """The URL of a database that several folders share."""
    if request.param == "postgres":
        return request.getfixturevalue("postgres")
    (tmp_path / "shared").mkdir()
    return f"sqlite:///{tmp_path}/shared/studies.db"


@pytest.fixture
def spec(tiny_lm, tmp_path):
    tiny_lm.save(tmp_path / "tiny")
    return study(tmp_path / "tiny", attacks=(SFT(lr=1e-2),))


@pytest.fixture
def leases(postgres):
    """Leases of one database, as two runs have them."""
    engines = [create_engine(postgres, pool_pre_ping=True) for _ in range(2)]
    Base.metadata.create_all(engines[0])
    yield tuple(Leases(engine, patience=30.0) for engine in engines)
    for engine in engines:
        engine.dispose()


@pytest.fixture(params=["files", "postgres"])
def two(request, tmp_path):
    """The same locks, as two runs have them."""
    if request.param == "files":
        return FileLocks(tmp_path / "locks"), FileLocks(tmp_path / "x" / ".." / "locks")
    return request.getfixturevalue("leases")


def test_a_lock_is_held_by_one_who_is_named(two):
    first, second = two
    with held("it", [first], wait=False):
        with (
            pytest.raises(InUse, match=f"it is in use by process {os.getpid()} on"),
            held("it", [second], wait=False),
        ):
            pass
        with held("something else", [second], wait=False):
            pass
    with held("it", [second], wait=False):
        pass


def test_who_waits_gets_the_lock_and_nobody_waits_for_themselves(two):
    first, second = two
    got, order = threading.Event(), []

    def wait() -> None:
        with held("it", [second], wait=True):
            order.append("waiter")
            got.set()

    with held("it", [first], wait=False):
        thread = threading.Thread(target=wait)
        thread.start()
        assert not got.wait(1.0)
        with pytest.raises(InUse), held("it", [second], wait=True):
            pass
        order.append("holder")
    assert got.wait(10.0)
    thread.join()
    assert order == ["holder", "waiter"]


def test_files_of_a_cell_wait_for_a_process_that_still_writes_them(tmp_path):
    begun, order = threading.Event(), []

    def next_attempt() -> None:
        begun.set()
        with writing(tmp_path, "a"):
            order.append("next")

    with writing(tmp_path, "a"), writing(tmp_path, "b"):
        thread = threading.Thread(target=next_attempt)
        thread.start()
        begun.wait()
        thread.join(1.0)
        order.append("orphan")
    thread.join(10.0)
    assert order == ["orphan", "next"]


def test_a_cell_that_somebody_is_at_is_left_for_later_and_nobody_waits_for_themselves(spec, tmp_path):
    store = Store(tmp_path / "store")
    spec = replace(spec, defenses=(None,))
    first = run_study(spec, store)
    assert next(first).position == 0
    other, begun = replace(spec, name="other"), []

    def go() -> None:
        for event in run_study(other, Store(store.folder)):
            begun.append((event.position, event.what))

    thread = threading.Thread(target=go)
    with pytest.raises(Taken, match="in use by process"):
        run(other, Store(store.folder))
    thread.start()
    while (1, "done") not in begun:
        assert thread.is_alive()
        time.sleep(0.05)
    assert not [what for position, what in begun if position == 0]
    assert "done" in outcomes([*first])
    thread.join(60)
    assert begun[-1] == (0, "stored")


def test_two_folders_on_one_database_do_not_run_the_same_study(spec, database, tmp_path):
    first = run_study(spec, Store(tmp_path / "a", database))
    next(first)
    other = Store(tmp_path / "b", database)
    with pytest.raises(StoreError, match=f"'toy' is in use by process {os.getpid()} on .* Wait for it"):
        run(spec, other)
    first.close()
    assert {*outcomes(run(spec, other))} == {"done"}
    other.engine.dispose()


def test_studies_that_share_nothing_run_side_by_side(spec, tmp_path):
    other = replace(spec, name="other", defenses=(SafetySFT(lr=2e-2, max_steps=2),))
    one = replace(spec, defenses=(SafetySFT(lr=1e-2, max_steps=2),))
    first = run_study(one, Store(tmp_path / "store"))
    next(first)
    assert {*outcomes(run(other, Store(tmp_path / "store")))} == {"done"}
    assert {*outcomes([*first])} == {"done"}


def test_a_cell_that_two_studies_share_is_done_once(spec, database, tmp_path, monkeypatch):
    log, load, one_by_one = tmp_path / "log", LM.load, threading.Lock()

    def loaded(*args, **kwargs):  # Transformers loads one model at a time
        with one_by_one:
            return load(*args, **kwargs)

    monkeypatch.setattr(LM, "load", loaded)
    attacks = tuple(Logged(lr=lr, log=log) for lr in (1e-2, 2e-2, 3e-2, 4e-2))
    spec = replace(spec, attacks=attacks, defenses=(None,))
    stores = {name: Store(tmp_path / name, database) for name in ("one", "two")}
    outcome: dict[str, list[str]] = {}

    def go(name: str) -> None:
        outcome[name] = outcomes(run(replace(spec, name=name), stores[name]))

    threads = [threading.Thread(target=go, args=(name,)) for name in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert sorted(outcome["one"] + outcome["two"]) == ["done"] * 5 + ["stored"] * 5
    assert len(log.read_text().splitlines()) == 4 * 3, "three steps of each attack"
    alone = Store(tmp_path / "alone")
    run(replace(spec, name="one"), alone)
    assert contents(stores["one"]) == contents(alone)
    assert results(stores["two"], "two").complete
    for store in stores.values():
        store.engine.dispose()


def test_stores_that_are_made_at_once_make_their_tables_once(database, tmp_path):
    made: list[Store] = []
    threads = [
        threading.Thread(target=lambda i=i: made.append(Store(tmp_path / str(i), database))) for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [store.studies() for store in made] == [[]] * 4
    for store in made:
        store.engine.dispose()


def test_a_lease_is_renewed_as_long_as_it_is_held(leases, monkeypatch):
    monkeypatch.setattr(locks, "LASTS", 1.0)
    monkeypatch.setattr(locks, "RENEWED", 0.2)
    first, second = leases
    with held("it", [first], wait=False):
        time.sleep(2.5)
        assert second.take("it") is None and second.holder("it")
    release = second.take("it")
    release()
    assert not second.holder("it")


def test_a_lease_that_could_not_be_given_back_is_renewed_no_more(leases, monkeypatch):
    monkeypatch.setattr(locks, "LASTS", 1.0)
    monkeypatch.setattr(locks, "RENEWED", 0.2)
    first, second = leases
    assert first.take("something else")
    release = first.take("it")
    with monkeypatch.context() as away:
        away.setattr(first, "engine", create_engine("postgresql+psycopg://nobody@127.0.0.1:1/none"))
        release()
    assert second.take("it") is None
    assert until(lambda: second.take("it"), 10)
    assert second.take("something else") is None


def test_a_lease_outlasts_its_database(leases, server):
    first, second = leases
    with held("it", [first], wait=False):
        server.restart()
        assert second.take("it") is None
        assert first.take("something else")
    second.take("it")()


def test_the_lease_of_a_process_that_has_died_ends_and_on_its_own_machine_at_once(leases, postgres, monkeypatch):
    code = "import sys, os; from sqlalchemy import create_engine; from caseharden.store import locks; "
    code += "locks._process = locks._process if sys.argv[2] == 'here' else lambda: 'other boot/1/2/3.0'; "
    code += "locks.LASTS = 3.0; locks.Leases(create_engine(sys.argv[1])).take(sys.argv[2]); os._exit(9)"
    for name in ("here", "there"):
        subprocess.run([sys.executable, "-c", code, postgres, name], check=False, env=os.environ)
    first, _ = leases
    assert first.take("here")
    assert first.take("there") is None and first.holder("there")
    assert until(lambda: first.take("there"), 10)


def test_nothing_is_written_of_a_cell_that_somebody_else_has_taken_over(spec, postgres, tmp_path, monkeypatch):
    """Which takes a database that was away for longer than a lease lasts."""
    monkeypatch.setattr(locks, "LASTS", 0.1)
    store, other = (Store(tmp_path / name, postgres) for name in ("a", "b"))
    with store.executing("cell of one"):
        store.begin("cell of one", {}, {})
        time.sleep(0.2)
        with other.executing("cell of one"):
            with pytest.raises(StoreError, match="another run has taken over cell cell of one"):
                store.finish("cell of one")
            other.finish("cell of one")
    with store.exclusive("a study"):
        store.adopt("a study", {}, "", [{}])
        time.sleep(0.2)
        with other.exclusive("a study"):
            with pytest.raises(StoreError, match="another run has taken over study 'a study'"):
                store.place("a study", {0: "a key"})
            other.place("a study", {0: "a key"})
    for each in (store, other):
        each.engine.dispose()


def test_a_study_waits_for_a_database_that_is_begun_again(spec, postgres, server, tmp_path):
    spec = replace(spec, defenses=(None,), attacks=tuple(SFT(lr=lr) for lr in (1e-2, 2e-2, 3e-2)))
    store, events = Store(tmp_path / "store", postgres), []
    for event in run_study(spec, store):
        events.append(event)
        if event.what == "measured" and len(events) % 7 == 1:
            server.restart()
    assert outcomes(events) == ["done"] * 4
    alone = Store(tmp_path / "alone")
    run(spec, alone)
    assert contents(store) == contents(alone)
    store.engine.dispose()


def test_a_record_is_stored_once_even_if_it_is_not_known_that_it_was(spec, tmp_path):
    store = Store(tmp_path / "store")
    store.begin("a", {}, {})
    given = (Reading(0.5, 0.4, 0.6, 10, 0, judge="j"), "spec", [Answer("q", "p", "o", score=1.0)], set())
    for _ in range(2):
        store.record("a", "harm", 5, *given)
    with store.session() as session:
        assert len([*session.scalars(select(RecordRow))]) == len([*session.scalars(select(GenerationRow))]) == 1
    with pytest.raises(StoreError, match="UNIQUE"):
        store.record("a", "harm", 5, replace(given[0], value=0.6), *given[1:])


def test_locks_end_with_the_process_that_holds_them(tmp_path):
    code = "import sys, os; from pathlib import Path; from caseharden.store.locks import FileLocks; "
    code += "FileLocks(Path(sys.argv[1])).take('it'); os._exit(9)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, env=os.environ)
    with held("it", [FileLocks(Path(tmp_path))], wait=False):
        pass
