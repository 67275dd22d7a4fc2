"""Workers do several pieces of work at a time, tell of all that happens, and end with their driver."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from functools import partial

import pytest

from caseharden.executors import processes, worker
from caseharden.executors.executor import Came
from caseharden.executors.processes import Processes
from executor_toys import (
    counts,
    dies,
    dies_with_a_child,
    finish,
    is_alive,
    leaves,
    ticks,
    until,
    who,
)


@pytest.fixture
def two():
    with closing(Processes([{"WORKER": "0"}, {"WORKER": "1"}])) as found:
        yield found


def test_each_worker_has_its_environment_and_is_kept_for_more_work(two):
    assert two.wait(0.1) is None
    seen = []
    for _ in range(2):
        two.begin(0, partial(who, "WORKER", "PATH"))
        two.begin(1, partial(who, "WORKER", "PATH"))
        seen.append(finish(two))
    assert seen[0] == seen[1]
    ((first, one),), ((second, other),) = seen[0][0], seen[0][1]
    assert len({first, second, os.getpid()}) == 3
    assert [one["WORKER"], other["WORKER"]] == ["0", "1"] and one["PATH"] == os.environ["PATH"]
    two.stop()
    assert is_alive(first) and is_alive(second)
    two.close()
    assert not is_alive(first) and not is_alive(second)


def test_a_worker_that_dies_is_told_of_and_others_go_on(two, tmp_path):
    two.begin(0, partial(dies, signal.SIGKILL, 2))
    two.begin(1, partial(counts, tmp_path / "log", 50))
    found = finish(two)
    assert found == {0: [0, 1, "was killed by signal 9 (Killed)"], 1: [*range(50)]}
    two.begin(0, partial(leaves, 3))
    two.begin(1, partial(dies, signal.SIGSEGV))
    found = finish(two)
    assert found[0] == [0, "ended with status 3"] and "signal 11" in found[1][0]
    two.begin(0, partial(counts, tmp_path / "again", 3))
    assert finish(two) == {0: [0, 1, 2]}


def test_work_that_is_stopped_cleans_up_at_its_outcomes_and_between_them(two, tmp_path):
    log = tmp_path / "log"
    for outcomes in (1, 2):
        two.begin(0, partial(ticks, log))
        assert two.wait() == Came(0, 0)
        if outcomes == 2:
            assert two.wait(0.2) is None
        two.stop()
    assert log.read_text().split().count("clean") == 1, "the first was not yet where there is something to clean"


def test_a_dead_worker_is_seen_even_where_a_child_of_its_own_goes_on(two, monkeypatch):
    monkeypatch.setattr(processes, "LOOK", 0.1)
    two.begin(0, dies_with_a_child)
    (child, death) = finish(two)[0]
    os.kill(child, signal.SIGKILL)
    assert death == "was killed by signal 9 (Killed)"


SCRIPT = """
import signal, sys, time
from functools import partial
from pathlib import Path
from caseharden.executors.processes import Processes
from executor_toys import ticks
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has it ignored in the background
log = Path(sys.argv[1])
with log.with_suffix(".begun").open("a") as file:
    file.write("begun\\n")
workers = Processes([{}, {}])
try:
    for number in range(2):
        workers.begin(number, partial(ticks, log))
    while True:
        workers.wait()
finally:
    workers.close()
"""
"""Without ``if __name__ == "__main__"``, which nobody needs."""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_their_driver_however_it_ends(how, tmp_path):
    script, log = tmp_path / "script.py", tmp_path / "log"
    script.write_text(SCRIPT)
    path = os.pathsep.join(sys.path)
    driver = subprocess.Popen(
        [sys.executable, script, log],
        env={**os.environ, "PYTHONPATH": path},
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    assert until(lambda: log.exists() and log.read_text().count("tick") > 20)
    workers = [int(line) for line in log.read_text().split() if line.isdigit()]
    assert len(workers) == 2 and all(map(is_alive, workers))
    if how == signal.SIGINT:
        os.killpg(driver.pid, how)  # as a terminal does
    else:
        driver.send_signal(how)
    said = driver.communicate(timeout=60)[1]
    assert until(lambda: not any(map(is_alive, workers)), 10 * worker.LOOK)
    text = log.read_text()
    assert text.split().count("clean") == 2
    time.sleep(0.2)
    assert log.read_text() == text
    assert log.with_suffix(".begun").read_text() == "begun\n"
    assert said.count("Traceback") == (how == signal.SIGINT), said
