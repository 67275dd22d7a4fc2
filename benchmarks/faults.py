"""Whether a study on a Ray cluster comes to the same whatever fails: workers, the driver, the database.

    python benchmarks/faults.py --workers 10 --drivers 3 --databases 2

Runs 25 cells of the almanac on two workers, with the records in a PostgreSQL of its own (Debian's package). Kills
workers with -9, kills the driver with -9, and restarts the database without a warning, at random moments. Then the
same without faults, one cell after another, in SQLite. Ends with an error unless both hold the same records and
answers, each once, bit for bit. The cluster is one of this machine's own that outlives drivers, on loopback.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from sqlalchemy import select

from caseharden.attacks import SFT
from caseharden.defenses import SafetySFT
from caseharden.domains import Almanac
from caseharden.executors.ray import ALONE
from caseharden.measures.probe import Probe
from caseharden.store.results import results
from caseharden.store.store import Store
from caseharden.store.tables import CellRow, GenerationRow, RecordRow
from caseharden.study.run import run_study
from caseharden.study.spec import StudySpec

RATES = tuple(1e-5 * 2**power for power in range(11))
STUDY = StudySpec(
    name="faults",
    domain=Almanac(),
    models=("almanac-victim",),
    defenses=(None, SafetySFT(max_steps=20)),
    attacks=tuple(SFT(lr=rate) for rate in RATES),
    budgets=(0, 5, 10, 20),
    measures={
        "harm": Probe("harmful", n=48, max_new_tokens=12),
        "utility": Probe("benign", n=48, max_new_tokens=12),
    },
    threads=1,
)
DRIVER = """
import sys
from pathlib import Path
from faults import STUDY
from caseharden import api
from caseharden.store.store import Store
found = api.run(STUDY, Store(Path(sys.argv[1]), sys.argv[2]), jobs=2, on="auto", checkpoint_every=1.0)
sys.exit(0 if found.complete else 1)
"""
EVERY = (8.0, 20.0)
"""The least and the most seconds between two faults."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=10, help="how often a worker is killed")
    parser.add_argument("--drivers", type=int, default=3, help="how often the driver is")
    parser.add_argument("--databases", type=int, default=2, help="how often the database is restarted")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    faults = ["worker"] * given.workers + ["driver"] * given.drivers + ["database"] * given.databases
    dice = random.Random(given.seed)
    dice.shuffle(faults)
    with tempfile.TemporaryDirectory() as folder, cluster(), database(folder) as (url, restart):
        begun = time.monotonic()
        attempts = with_faults(Path(folder) / "faulty", url, faults, restart, dice)
        print(f"{attempts} drivers, {len(faults)} faults, {time.monotonic() - begun:.0f} s", flush=True)
        faulty, clean = Store(Path(folder) / "faulty", url), Store(Path(folder) / "clean")
        begun = time.monotonic()
        for _ in run_study(STUDY, clean):
            pass
        print(f"without faults, one after another: {time.monotonic() - begun:.0f} s", flush=True)
        found, expected = contents(faulty), contents(clean)
        cells, records, answers = map(len, found)
        print(f"{cells} cells, {records} records, {answers} answers; the same: {found == expected}")
        if found != expected or not results(faulty).complete:
            sys.exit("the two differ")
        faulty.engine.dispose()


def with_faults(store: Path, url: str, faults: list[str], restart: object, dice: random.Random) -> int:
    """Run the study, with a fault every few seconds, until it is through; how many drivers that took."""
    attempts, left = 0, [*faults]
    while True:
        attempts += 1
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
        driver = subprocess.Popen([sys.executable, "-c", DRIVER, store, url], env=environment)
        while driver.poll() is None:
            until = time.monotonic() + dice.uniform(*EVERY)
            while driver.poll() is None and time.monotonic() < until:
                time.sleep(0.1)
            if driver.poll() is None and left and happen(left[0], driver, restart, dice):
                print(f"  {left.pop(0)}", flush=True)
        if driver.returncode == 0:
            if left:
                sys.exit(f"the study was through before all faults had happened: {', '.join(left)}")
            return attempts
        if driver.returncode > 0:
            sys.exit(f"the driver ended with status {driver.returncode}")


def happen(fault: str, driver: subprocess.Popen[bytes], restart: object, dice: random.Random) -> bool:
    """Let one thing fail, if it is there to fail."""
    if fault == "driver":
        driver.kill()
        driver.wait()
        return True
    if fault == "database":
        restart()  # type: ignore[operator]
        return True
    workers = [
        p for p in psutil.process_iter(["cmdline"]) if (p.info["cmdline"] or [""])[0].startswith("ray::Worker.")
    ]
    if workers:
        dice.choice(workers).kill()
    return bool(workers)


def contents(store: Store) -> tuple[list[object], list[object], list[object]]:
    """Everything measured, without when and where."""
    with store.session() as session:
        cells = sorted((row.key, row.status, row.weights or "") for row in session.scalars(select(CellRow)))
        records = sorted(
            (row.cell, row.measure, row.step, row.judge, row.spec, repr((row.value, row.low, row.high)), row.n)
            for row in session.scalars(select(RecordRow))
        )
        answers = sorted(
            (row.cell, row.measure, row.step, row.number, row.prompt, row.output, repr(row.score))
            for row in session.scalars(select(GenerationRow))
        )
    return cells, records, answers


@contextmanager
def cluster() -> Iterator[None]:
    """A Ray cluster of two cores on loopback."""
    os.environ |= {**ALONE, "RAY_NODE_IP_ADDRESS": "127.0.0.1"}
    ray = str(Path(sys.executable).with_name("ray"))
    command = [ray, "start", "--head", "--node-ip-address=127.0.0.1", "--num-cpus=2", "--include-dashboard=false"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        subprocess.run([ray, "stop", "--force"], check=False, stdout=subprocess.DEVNULL)


@contextmanager
def database(folder: str) -> Iterator[tuple[str, object]]:
    """A PostgreSQL server of its own: its URL, and what restarts it."""
    place = tempfile.mkdtemp()
    who: list[str] = []
    if os.geteuid() == 0:  # as whom PostgreSQL does not run
        shutil.chown(place, "postgres")
        who = ["runuser", "-u", "postgres", "--"]

    def command(*words: str) -> None:
        subprocess.run([*who, *words], check=True, stdout=subprocess.DEVNULL, cwd="/")

    data = f"{place}/data"
    start = ("pg_ctl", "-D", data, "-o", f"-c listen_addresses= -k {place}", "-l", f"{place}/log", "-w", "start")
    stop = ("pg_ctl", "-D", data, "-m", "immediate", "stop")
    command("initdb", "-D", data, "-A", "trust", "-U", "tester")
    command(*start)
    try:
        yield f"postgresql+psycopg://tester@/postgres?host={place}", lambda: (command(*stop), command(*start))
    finally:
        command(*stop)
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
