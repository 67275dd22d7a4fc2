"""Cells in several processes: the same records, whatever dies; and how many processes there are."""

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy
import pytest
import torch
from sqlalchemy import select

from caseharden.attacks import SFT
from caseharden.bilevel.asynchronous import Asynchronous
from caseharden.defenses import Patcher, SafetySFT
from caseharden.errors import CasehardenError
from caseharden.executors.executor import Local, Work
from caseharden.executors.ray import Cluster
from caseharden.store.database import StoreError
from caseharden.store.results import results
from caseharden.store.store import Store
from caseharden.store.tables import CellRow, RecordRow
from caseharden.study import jobs
from caseharden.study.cells import Failed, Job
from caseharden.study.jobs import executor, fitting
from executor_toys import is_alive, until
from study_toys import HARD_TO_RESUME, Dies, Fails, Logged, contents, outcomes, run, study
from toys import Short


@pytest.fixture(scope="module")
def two():
    """Two workers for all tests of this file: each takes seconds to start."""
    with closing(executor([study(Path("any"))], 2, None)) as found:
        yield found


@pytest.fixture(scope="module")
def raylets():
    """Two workers of a Ray cluster."""
    if find_spec("ray") is None:
        pytest.skip("Ray is not installed")
    with closing(Cluster(jobs=2)) as found:
        yield found


@pytest.fixture(params=["two", "raylets"])
def either(request):
    """Two workers of one kind, and what is said of one that is killed."""
    return request.getfixturevalue(request.param), KILLED[request.param]


KILLED = {"two": "was killed by signal 9 (Killed)", "raylets": "was lost: its worker process has died"}


def threads() -> Iterator[tuple[object, int]]:
    """Say how many threads PyTorch and NumPy's library may have, and how many there are once both compute."""
    from threadpoolctl import threadpool_info

    torch.randn(500, 500) @ torch.randn(500, 500)
    numpy.ones((500, 500)) @ numpy.ones((500, 500))
    blas = {pool["internal_api"]: pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}
    yield (torch.get_num_threads(), blas), len(os.listdir("/proc/self/task"))


def logs(store: Store) -> dict[str, str]:
    return {path.name: path.read_text() for path in (store.folder / "logs").iterdir()}


def test_records_are_the_same_bit_for_bit_even_where_workers_are_killed(either, model, store, tmp_path, caplog):
    """Methods and domain of one's own, attacks that are hard to resume, models that are kept."""
    two, killed = either
    flags = tmp_path / "flags"
    dies = Dies(lr=1e-2, batch_size=4, at=3, flags=flags)
    hardening = Dies({"refusal": 1.0}, lr=1e-2, max_steps=4, batch_size=4, at=2, flags=flags)
    spec = study(model, defenses=(None, hardening), attacks=(*HARD_TO_RESUME, dies), keep_attacked=True, threads=1)
    flags.mkdir()
    events = run(spec, store, executor=two, checkpoint_every=0.0)
    assert sorted(outcomes(events)) == ["done"] * 9
    assert len([event for event in events if event.what == "begun"]) == 9 + 2, "one attack and the hardening again"
    assert caplog.text.count(killed) == 2
    assert {*flags.iterdir()} == {flags / "attacker 0", flags / "defender 0"}
    alone = Store(tmp_path / "alone")
    run(spec, alone)
    assert contents(store) == contents(alone)
    assert logs(store) == logs(alone)
    assert results(store, whole=True).curves == results(alone, whole=True).curves
    kept = [{path.name for path in (one.folder / "weights").iterdir()} for one in (store, alone)]
    assert kept[0] == kept[1] and len(kept[0]) == 1 + 6
    with store.session() as session:
        assert {row.host["threads"] for row in session.scalars(select(CellRow))} == {1}
    assert outcomes(run(spec, store, executor=two)) == ["stored"] * 9


def test_what_fails_or_kills_its_process_again_is_stored_with_its_reason(
    either, model, store, tmp_path, monkeypatch
):
    two, killed = either
    monkeypatch.setattr("caseharden.study.run.TRIES", 2)
    bad = Fails({"refusal": 1.0}, max_steps=3, at=2)
    deadly = Dies(lr=1e-2, batch_size=4, at=2, flags=tmp_path, times=2)
    spec = study(model, defenses=(bad, None), attacks=(Short(), deadly, SFT(lr=1e-2)))
    events = run(spec, store, executor=two)
    found = {event.position: event for event in events}
    assert [found[n].what for n in range(9)] == [
        *("failed", "blocked", "blocked", "blocked", "blocked"),
        *("done", "failed", "failed", "done"),
    ]
    assert found[0].text == "it diverged" and "ended at step 2" in found[6].text
    said = found[7].text
    assert said.startswith(f"each of 2 processes {killed}") and said.endswith("If memory ran out, run fewer jobs.")
    assert said in [failure.reason for failure in results(store).failures]


DRIVER = """
import pickle, sys
from pathlib import Path
from caseharden.store.store import Store
from caseharden.study import jobs
from caseharden.study.run import run_study
spec = pickle.loads(Path(sys.argv[1]).read_bytes())
workers = jobs.executor([spec], 2, None)
for event in run_study(spec, Store(Path(sys.argv[2])), checkpoint_every=0.0, executor=workers):
    print(event.what, flush=True)
"""


def test_kill_9_of_the_driver_leaves_nobody_behind_and_loses_nothing(two, model, tmp_path):
    log, folder, pickled = tmp_path / "log", tmp_path / "killed", tmp_path / "spec"
    attacks = (Logged(lr=1e-2, batch_size=4, log=log), Logged(lr=2e-2, batch_size=4, log=log))
    spec = study(model, attacks=attacks, budgets=(0, 2, 4, 20), threads=1)
    pickled.write_bytes(pickle.dumps(spec))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER, pickled, folder], env=env, stdout=subprocess.PIPE
    ) as driver:
        while driver.stdout.readline() != b"measured\n" or not log.exists() or len(log.read_text()) < 100:
            assert driver.poll() is None
        processes = subprocess.run(["ps", "-o", "pid=", "--ppid", str(driver.pid)], capture_output=True, text=True)
        workers = [int(line) for line in processes.stdout.split()]
        assert len(workers) == 2
        driver.kill()
    assert until(lambda: not any(map(is_alive, workers)))
    killed = Store(folder)
    with killed.session() as session:
        before = {row.id for row in session.scalars(select(RecordRow))}
    assert before
    run(spec, killed, executor=two, checkpoint_every=0.0)
    alone = Store(tmp_path / "alone")
    run(spec, alone)
    assert contents(killed) == contents(alone) and logs(killed) == logs(alone)
    with killed.session() as session:
        assert before < {row.id for row in session.scalars(select(RecordRow))}


def test_a_store_that_cannot_be_written_ends_the_study_and_nobody_is_to_blame(two, model, store, monkeypatch):
    spec = study(model, defenses=(None, SafetySFT(max_steps=1)))
    (store.folder / "logs").write_text("no folder")
    with pytest.raises(StoreError, match="log of steps"):
        run(spec, store, executor=two)
    with store.session() as session:
        assert {row.status for row in session.scalars(select(CellRow))} <= {"running", "done"}
    (store.folder / "logs").unlink()
    assert {*outcomes(run(spec, store, executor=two))} <= {"done", "stored"}


def test_a_worker_has_the_threads_that_it_is_given(two):
    two.begin(0, threads)
    happened = two.wait()
    two.stop()
    numbers, running = happened.outcome
    assert numbers == (1, {"openblas": 1} if numbers[1] else {})
    assert running <= 4, "the interpreter's, and one that listens to the driver"


def test_how_many_jobs_suit_a_study(model, monkeypatch):
    spec = study(model)  # a hardening and two attacks
    single = replace(spec, defenses=(None,))
    pinned = replace(spec, threads=2)

    def on(cores: int, one, threads=None) -> int:
        monkeypatch.setattr(jobs, "cores", lambda: cores)
        return fitting(one, threads)

    assert [on(cores, spec) for cores in (1, 2, 3, 4)] == [1, 2, 3, 1], "for the fourth core, threads do more"
    assert [on(cores, single) for cores in (1, 2)] == [1, 1]
    assert [on(cores, pinned) for cores in (1, 2, 4, 5, 8)] == [1, 1, 2, 2, 3], "two threads each"
    assert on(2, spec, threads=1) == 1
    released = replace(spec, attacks=(), defenses=(None,))
    assert [fitting(released, None, to_come) for to_come in (0, 4)] == [1, 2], (
        "on two cores, attacks yet to be named"
    )
    monkeypatch.setattr(jobs, "BARE", 2**60)
    assert on(2, spec) == 1, "for want of memory"
    for wrong in (0, -1, 10**6):
        with pytest.raises(CasehardenError, match="jobs is from 1 to 1024"):
            executor([spec], wrong, None)
    assert isinstance(executor([spec], 1, None), Local) and jobs.cores() > 0


def test_each_gpu_is_some_workers_own(model, monkeypatch):
    monkeypatch.setattr(jobs, "device_of", lambda name: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    spec = study(model)

    def seen(one) -> list[str | None]:
        return [env.get("CUDA_VISIBLE_DEVICES") for env in executor([one], 3, None).environments]

    assert (fitting(spec, None), seen(spec)) == (2, ["0", "1", "0"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-7")
    assert seen(spec) == ["5", "GPU-7", "5"]
    patcher = Patcher((SFT(),), loops=1, attacker=Asynchronous(device="cuda:1"))
    elsewhere = replace(spec, defenses=(patcher,))
    assert (fitting(elsewhere, None), seen(elsewhere)) == (1, [None] * 3)


class Elsewhere(Local):
    """Another machine, as far as anybody can tell: with a GPU, and what it does is thrown away."""

    elsewhere = True

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[Job] = []

    def begin(self, number: int, work: Work) -> None:
        self.begun.append(work.args[0])
        super().begin(number, lambda: iter([Failed("not done")]))


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without")
def test_a_machine_without_a_gpu_lets_others_compute_on_theirs(model, store):
    with pytest.raises(CasehardenError, match="cannot compute on 'cuda'"):
        run(study(model, device="cuda"), store)
    machines = Elsewhere()
    run(study(model, device="cuda", defenses=(None,)), store, executor=machines)
    assert {(job.device.type, job.inputs["device"]) for job in machines.begun} == {("cuda", "cuda")}
    with store.session() as session:
        assert {row.host["accelerator"] for row in session.scalars(select(CellRow))} == {"none"}, "until they say"
