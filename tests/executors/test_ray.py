"""Ray's workers do what processes do, have what they need for themselves, and end with their driver."""

import os
import signal
import subprocess
import sys
from contextlib import closing
from functools import partial
from importlib.util import find_spec

import pytest

from caseharden.executors import ray as executors_ray
from caseharden.executors.executor import Came
from caseharden.executors.ray import Cluster, Needs
from executor_toys import counts, dies, finish, is_alive, leaves, ticks, until, who

if find_spec("ray") is None:
    pytest.skip("Ray is not installed", allow_module_level=True)


@pytest.fixture(scope="module")
def two():
    with closing(Cluster(jobs=2, environment={"WORKER": "of two"})) as found:
        yield found


@pytest.fixture(autouse=True)
def stopped(two):
    yield
    two.stop()


def test_a_worker_has_its_environment_and_is_kept_for_more_work(two):
    assert two.wait(0.1) is None
    seen = []
    for _ in range(2):
        two.begin(0, partial(who, "WORKER"))
        two.begin(1, partial(who, "WORKER"))
        found = finish(two)
        seen.append({found[0][0][0], found[1][0][0]})
        assert found[0][0][1] == found[1][0][1] == {"WORKER": "of two"}
    assert seen[0] == seen[1] and len(seen[0] | {os.getpid()}) == 3


def test_a_worker_that_is_lost_is_told_of_and_others_go_on(two, tmp_path):
    two.begin(0, partial(dies, signal.SIGKILL, 2))
    two.begin(1, partial(counts, tmp_path / "log", 50))
    found = finish(two)
    assert found[1] == [*range(50)]
    assert found[0][:2] == [0, 1] and found[0][2].startswith("was lost: its worker process has died")
    two.begin(0, partial(leaves, 3))
    two.begin(1, partial(counts, tmp_path / "again", 3))
    found = finish(two)
    assert found[1] == [0, 1, 2] and "exit code 3" in found[0][1]


def test_work_that_is_stopped_does_not_go_on(two, tmp_path):
    log = tmp_path / "log"
    two.begin(0, partial(ticks, log))
    assert two.wait() == Came(0, 0)
    assert two.wait(0.5) is None
    worker = int(log.read_text().split()[0])
    assert is_alive(worker)
    two.stop()
    assert until(lambda: not is_alive(worker))
    assert two.wait(0.1) is None


def test_a_machine_has_room_for_so_many_workers():
    machine = {"CPU": 7.0, "GPU": 2.0, "memory": 10.0 * 2**30}
    assert Needs(cores=2).fit(machine) == 3
    assert Needs(cores=1, gpus=1).fit(machine) == 2
    assert Needs(cores=1, memory=4 * 2**30).fit(machine) == 2
    assert Needs(gpus=1).fit({"CPU": 64.0}) == 0


class Cut(Cluster):
    """A cluster that has lost all its room but one worker's."""

    def _worker(self):
        made = super()._worker()
        if not self._options.get("resources"):
            self._options = {**self._options, "resources": {"what no machine has": 1}}
        return made


def test_work_goes_to_an_idle_worker_where_there_is_no_room_for_another(two, monkeypatch, caplog):
    monkeypatch.setattr(executors_ray, "LOOK", 0.5)
    cut = Cut.__new__(Cut)
    cut.__dict__ |= {**vars(two), "_idle": [], "_asked": {}, "_answered": None, "_options": {**two._options}}
    cut.begin(0, partial(who, "WORKER"))
    cut.begin(1, partial(who, "WORKER"))
    found = finish(cut)
    assert found[0] == found[1], "one after the other"
    assert "the Ray cluster is busy: a worker waits for 1 cores" in caplog.text
    cut.stop()
    cut._end(cut._idle)


ALONE = """
from functools import partial
from pathlib import Path
import subprocess, sys, time
from caseharden.errors import CasehardenError
from caseharden.executors import ray as executors_ray
from caseharden.executors.ray import Cluster, Needs
from executor_toys import ticks

for address, needs in ((sys.argv[2], Needs()), ("ray", Needs(cores=10_000, memory=2**31))):
    try:
        Cluster(address, needs=needs)
    except CasehardenError as error:
        print(error)
workers = Cluster(jobs=1)
import ray
print(ray.get_runtime_context().gcs_address)
workers.begin(0, partial(ticks, Path(sys.argv[1])))
print("begun", flush=True)
while True:
    workers.wait()
"""
"""Without ``if __name__ == "__main__"``, which nobody needs."""


def test_a_cluster_of_its_own_is_on_loopback_and_ends_with_its_driver(tmp_path):
    """And one that is not there, or has no machine of the size, is an error that says so."""
    script, log = tmp_path / "script.py", tmp_path / "log"
    script.write_text(ALONE)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    driver = subprocess.Popen(
        [sys.executable, script, log, "127.0.0.1:1"],
        env={**clean, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert until(lambda: log.exists() and log.read_text().count("tick") > 20, 120)
    worker = int(log.read_text().split()[0])
    driver.kill()
    said = driver.communicate(timeout=60)[0]
    assert "the Ray cluster '127.0.0.1:1' cannot be reached: [Errno 111]" in said
    assert "no machine of the Ray cluster has 10000 cores, 2.0 GiB of memory for a worker" in said
    assert "\n127.0.0.1:" in said
    assert until(lambda: not is_alive(worker), 30)
