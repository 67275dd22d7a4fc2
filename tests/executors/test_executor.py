"""The plain loop does one piece of work at a time, in this process; other processes tell of theirs alike."""

import logging
import os
import sys
import time
from contextlib import closing
from functools import partial
from importlib.util import find_spec

import pytest

from caseharden.errors import CasehardenError
from caseharden.executors.executor import Came, Ended, Local
from caseharden.executors.processes import Processes
from caseharden.executors.ray import Cluster
from executor_toys import counts, fails, finish, talks, who


def test_work_goes_on_when_the_next_outcome_is_asked_for(tmp_path):
    log, local = tmp_path / "log", Local()
    assert local.wait() is None
    local.begin(7, lambda: counts(log, 2))
    assert not log.exists()
    assert local.wait() == Came(7, 0)
    assert log.read_text().split() == ["0"]
    assert [local.wait(), local.wait(), local.wait()] == [Came(7, 1), Ended(7), None]
    local.begin(8, lambda: who())
    assert local.wait().outcome[0] == os.getpid()


def test_work_that_is_stopped_cleans_up_and_what_it_raises_is_raised():
    local, closed = Local(), []

    def careful():
        try:
            yield 0
        finally:
            closed.append(True)

    local.begin(0, careful)
    local.wait()
    local.close()
    assert closed and local.wait() is None
    local.begin(1, lambda: fails("ours"))
    local.wait()
    with pytest.raises(CasehardenError, match="put it right"):
        local.wait()
    local.stop()


@pytest.fixture(scope="module", params=["processes", "ray"])
def two(request):
    if request.param == "ray" and find_spec("ray") is None:
        pytest.skip("Ray is not installed")
    with closing(Processes([{}, {}]) if request.param == "processes" else Cluster(jobs=2)) as found:
        yield found


def test_work_goes_on_when_the_driver_is_through_with_an_outcome(two, tmp_path):
    log = tmp_path / "log"
    two.begin(0, partial(counts, log, 2))
    assert two.wait() == Came(0, 0)
    time.sleep(0.3)
    assert log.read_text().split() == ["0"], "it has not gone on by itself"
    assert [two.wait(), two.wait(), two.wait()] == [Came(0, 1), Ended(0), None]


def test_what_work_raises_is_raised_here_and_says_where_it_came_from(two):
    two.begin(0, partial(fails, "ours"))
    with pytest.raises(CasehardenError, match="put it right") as ours:
        finish(two)
    assert "in fails" in ours.value.__notes__[0]
    two.begin(0, partial(fails, "full"))
    with pytest.raises(OSError, match="no space") as full:
        finish(two)
    assert full.value.errno == 28
    two.begin(0, partial(fails, "odd"))
    with pytest.raises(RuntimeError, match="Awkward: a b"):
        finish(two)


def test_work_that_cannot_be_sent_is_said_to_be_so(two, monkeypatch):
    with pytest.raises(CasehardenError, match=r"cannot be sent to another process: .*Put the classes"):
        two.begin(0, lambda: iter([]))

    def mine():
        yield 0

    mine.__module__, mine.__qualname__ = "__main__", "mine"
    monkeypatch.setattr(sys.modules["__main__"], "mine", mine, raising=False)
    two.begin(0, mine)
    with pytest.raises(CasehardenError, match=r"cannot be sent to another process: AttributeError.* 'mine'"):
        finish(two)


def test_what_workers_log_and_warn_of_is_logged_here(two, caplog):
    two.begin(0, talks)
    with caplog.at_level(logging.WARNING):
        finish(two)
    assert ("toys", logging.WARNING, "3 of them") in caplog.record_tuples
    assert any(name == "py.warnings" and "mind this" in text for name, _, text in caplog.record_tuples)
    assert "nobody asked" not in caplog.text
