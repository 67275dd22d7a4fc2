"""The plain loop does one piece of work at a time, in this process."""

import os

import pytest

from caseharden.errors import CasehardenError
from caseharden.executors.executor import Came, Ended, Local
from executor_toys import counts, fails, who


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
