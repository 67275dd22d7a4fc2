"""Ray: pieces of work on the machines of a Ray cluster, each in a worker that has what it needs for itself."""

from __future__ import annotations

import logging
import os
import pickle
import socket
import sys
from collections.abc import Generator, Iterable, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from logging.handlers import QueueHandler
from queue import SimpleQueue
from typing import Any

from caseharden.errors import CasehardenError
from caseharden.executors.executor import Came, Ended, Work
from caseharden.executors.processes import Around, cannot_travel
from caseharden.executors.worker import CAME, ENDED, RAISED, UNREADABLE, portable

Handle = Any
"""What Ray gives of an actor, to call its methods elsewhere."""
log = logging.getLogger(__name__)

HERE = "ray"
"""The address of a cluster of this machine's own, begun for the run; of ``RAY_ADDRESS``, where that is set."""
ALONE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}
"""How Ray is told to listen on loopback only, and to work for nobody who lacks the token in ~/.ray."""
MEMORY = 2**20
"""Ray takes memory in whole mebibytes."""
PATIENCE = 5.0
"""Seconds that a cluster is given to answer at all."""


@dataclass(frozen=True)
class Needs:
    """What each worker has for itself: processor cores, GPUs and bytes of memory."""

    cores: int = 1
    gpus: int = 0
    memory: int = 0

    def __str__(self) -> str:
        parts = [f"{self.cores} cores"] + [f"{self.gpus} GPUs"] * bool(self.gpus)
        return ", ".join(parts + [f"{self.memory / 2**30:.1f} GiB of memory"] * bool(self.memory))

    def fit(self, machine: Mapping[str, float]) -> int:
        """How many workers a machine with these resources of Ray's has room for."""
        wanted = {"CPU": self.cores, "GPU": self.gpus, "memory": self.memory}
        return int(min(machine.get(name, 0.0) // much for name, much in wanted.items() if much))


class Cluster:
    """Does up to `jobs` pieces of work at a time on a Ray cluster, each worker an actor that has what it `needs`.

    `address` is `HERE`, ``auto`` (what ``ray start`` has begun here), ``host:port`` or ``ray://host:port``. At most
    as many `jobs` are done as there is room for. A worker does its work `around`, with `environment` over the
    environment of its machine; it is kept for more work, and where it is lost, another one begins elsewhere. Ray
    ends workers when this process ends, however it ends. What work needs has to be importable there.
    Raises `CasehardenError` if Ray is not installed, the cluster cannot be reached, or no machine has the room.
    """

    def __init__(
        self,
        address: str = HERE,
        jobs: int | None = None,
        needs: Needs = Needs(),
        environment: Mapping[str, str] | None = None,
        around: Around = nullcontext,
    ) -> None:
        self._ray = _connected(address)
        machines = [machine["Resources"] for machine in self._ray.nodes() if machine["Alive"]]
        room = sum(map(needs.fit, machines))
        if not room:
            self._ray.shutdown()
            raise CasehardenError(f"no machine of the Ray cluster has {needs} for a worker. Ask for less.")
        if jobs is not None and jobs > room:
            log.warning("the Ray cluster has room for %d workers, not %d; each has %s", room, jobs, needs)
        self.jobs = min(jobs or room, room)
        self._options = {
            "num_cpus": needs.cores,
            "num_gpus": needs.gpus,
            "memory": needs.memory // MEMORY * MEMORY or None,
            "runtime_env": {"env_vars": dict(environment or {})},
        }
        self._around = around
        self._idle: list[Handle] = []
        self._asked: dict[Any, tuple[int, Handle]] = {}
        self._answered: tuple[int, Handle] | None = None

    def begin(self, number: int, work: Work) -> None:
        try:
            message = pickle.dumps(work)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise cannot_travel(str(error)) from error
        worker = self._idle.pop() if self._idle else self._worker()
        self._asked[worker.begin.remote(message)] = number, worker

    def wait(self, seconds: float | None = None) -> Came | Ended | None:
        if self._answered is not None:
            number, worker = self._answered
            self._answered = None
            self._asked[worker.go_on.remote()] = number, worker
        if not self._asked:
            return None
        ready, _ = self._ray.wait([*self._asked], num_returns=1, timeout=seconds)
        if not ready:
            return None
        number, worker = self._asked.pop(ready[0])
        try:
            what, given, said = self._ray.get(ready[0])
        except self._ray.exceptions.RayActorError as error:
            return Ended(number, f"was lost: {_cause(error)}")
        for record in said:
            logger = logging.getLogger(record.name)
            if logger.isEnabledFor(record.levelno):
                logger.handle(record)
        if what == CAME:
            self._answered = number, worker
            return Came(number, given)
        self._idle.append(worker)
        if what == ENDED:
            return Ended(number)
        raise cannot_travel(given) if what == UNREADABLE else given

    def stop(self) -> None:
        busy = [worker for _, worker in self._asked.values()]
        busy += [self._answered[1]] if self._answered else []
        self._end(busy)
        self._asked.clear()
        self._answered = None

    def close(self) -> None:
        self.stop()
        self._end(self._idle)
        self._idle.clear()
        self._ray.shutdown()

    def _worker(self) -> Handle:
        made = self._ray.remote(Worker).options(**self._options)
        # Classes are looked for where this process finds them, too, as on machines that are set up alike.
        return made.remote(sys.path, logging.getLogger().level, pickle.dumps(self._around))

    def _end(self, workers: Iterable[Handle]) -> None:
        for worker in workers:
            self._ray.kill(worker)


class Worker:
    """Does one piece of work after another, an outcome each time that it is asked; an actor of Ray's."""

    def __init__(self, path: list[str], level: int, around: bytes) -> None:
        sys.path += [folder for folder in path if folder not in sys.path]
        self._said: SimpleQueue[logging.LogRecord] = SimpleQueue()
        logging.captureWarnings(True)
        logging.getLogger().setLevel(level)
        logging.getLogger().addHandler(QueueHandler(self._said))
        self._around = ExitStack()
        self._around.enter_context(pickle.loads(around)())
        self._outcomes: Generator[Any, None, None] | None = None

    def begin(self, work: bytes) -> tuple[int, object, list[logging.LogRecord]]:
        """Begin a piece of work, and tell its first outcome."""
        try:
            self._outcomes = pickle.loads(work)()
        except Exception as error:  # noqa: BLE001 - whatever an import may raise
            return self._told(UNREADABLE, f"{type(error).__name__}: {error}")
        return self.go_on()

    def go_on(self) -> tuple[int, object, list[logging.LogRecord]]:
        """The next outcome, or that the work is over, or what it raised; and what was logged meanwhile."""
        assert self._outcomes is not None
        try:
            for outcome in self._outcomes:
                return self._told(CAME, outcome)
        except Exception as error:  # noqa: BLE001 - the driver's to judge
            return self._told(RAISED, portable(error))
        return self._told(ENDED, None)

    def _told(self, what: int, given: object) -> tuple[int, object, list[logging.LogRecord]]:
        return what, given, [self._said.get() for _ in range(self._said.qsize())]


def _connected(address: str) -> Any:
    """Ray, connected to the cluster at `address`."""
    if address == HERE and "RAY_ADDRESS" not in os.environ:
        if "ray" not in sys.modules:  # which reads them when it is imported, and would believe half of it later
            os.environ.update(ALONE)
    else:
        _refuse_silence(address)
    try:
        import ray
    except ImportError as error:
        raise CasehardenError("to work on a Ray cluster, install it: pip install 'caseharden[ray]'.") from error
    quiet = {"include_dashboard": False} if address == HERE else {"address": address}
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **quiet)
    except Exception as error:  # Ray raises errors of all kinds here
        raise _unreachable(address, _first_line(error)) from error
    return ray


def _refuse_silence(address: str) -> None:
    """Raise `CasehardenError` if nothing listens where a cluster is to be: Ray would wait for it for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE).close()
        except OSError as error:
            raise _unreachable(address, str(error)) from error


def _unreachable(address: str, why: str) -> CasehardenError:
    return CasehardenError(
        f"the Ray cluster {address!r} cannot be reached: {why}. It is {HERE!r} for one of this machine's own, auto "
        "for the one that `ray start` has begun here, host:6379, or ray://host:10001."
    )


def _cause(error: Exception) -> str:
    """Why a worker is lost: the last line of what Ray says, without its guesses."""
    said = str(error).strip().splitlines()[-1]
    return said.partition(" Some common causes")[0].removeprefix("The actor is dead because ").rstrip(".")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
