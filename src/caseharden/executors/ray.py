"""Ray: pieces of work on the machines of a Ray cluster, each in a worker that has what it needs for itself."""

from __future__ import annotations

import logging
import os
import pickle
import socket
import sys
import time
from collections.abc import Generator, Iterable, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from logging.handlers import QueueHandler
from queue import SimpleQueue
from typing import Any

from caseharden.errors import CasehardenError
from caseharden.executors.executor import Came, Ended, Work
from caseharden.executors.processes import Around, cannot_travel, packed
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
PATIENCE, LOOK = 5.0, 30.0
"""Seconds that a cluster is given to answer at all, and to find a worker a place before it is called busy."""


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


@dataclass(eq=False)
class _Asked:
    """A worker that was asked for the next outcome of a piece of work, which `message` holds.

    It is `placed` once it has answered: until then the cluster may have no room for it.
    """

    number: int
    message: bytes
    worker: Handle
    placed: bool = False
    since: float = field(default_factory=time.monotonic)
    """When the worker was wanted."""
    warned: bool = False


class Cluster:
    """Does up to `jobs` pieces of work at a time on a Ray cluster, each worker an actor that has what it `needs`.

    `address` is `HERE`, ``auto`` (what ``ray start`` has begun here), ``host:port`` or ``ray://host:port``. At most
    as many `jobs` are done as there is room for. A worker does its work `around`, with `environment` over the
    environment of its machine; it is kept for more work, and where it is lost, another one begins elsewhere, as
    soon as there is room. Ray ends workers when this process ends, however it ends. What work needs has to be
    importable there.
    Raises `CasehardenError` if Ray is not installed, the cluster cannot be reached, or no machine has the room.
    """

    elsewhere = True

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
        self._needs = needs
        self._options = {
            "num_cpus": needs.cores,
            "num_gpus": needs.gpus,
            "memory": needs.memory // MEMORY * MEMORY or None,
            "runtime_env": {"env_vars": dict(environment or {})},
        }
        self._around = around
        self._idle: list[Handle] = []
        self._asked: dict[Any, _Asked] = {}
        self._answered: _Asked | None = None

    def begin(self, number: int, work: Work) -> None:
        message = packed(work)
        if self._idle:
            self._ask(_Asked(number, message, self._idle.pop(), placed=True))
        else:
            self._ask(_Asked(number, message, self._worker()))

    def wait(self, seconds: float | None = None) -> Came | Ended | None:
        if self._answered is not None:
            self._asked[self._answered.worker.go_on.remote()] = self._answered
            self._answered = None
        until = time.monotonic() + seconds if seconds is not None else float("inf")
        while self._asked:
            self._place()
            left = max(0.0, min(until - time.monotonic(), LOOK))
            ready, _ = self._ray.wait([*self._asked], num_returns=1, timeout=left)
            if ready:
                return self._heard(self._asked.pop(ready[0]), ready[0])
            if time.monotonic() >= until:
                break
        return None

    def stop(self) -> None:
        busy = [asked.worker for asked in self._asked.values()]
        busy += [self._answered.worker] if self._answered else []
        self._end(busy)
        self._asked.clear()
        self._answered = None

    def close(self) -> None:
        self.stop()
        self._end(self._idle)
        self._idle.clear()
        self._ray.shutdown()

    def _heard(self, asked: _Asked, answer: Any) -> Came | Ended:
        """What a worker has to say of its work; what it has logged is logged here."""
        exceptions = self._ray.exceptions
        try:
            what, given, said = self._ray.get(answer)
        except exceptions.RayTaskError:  # a mistake of this file's own
            raise
        except exceptions.RayError as error:
            self._end([asked.worker])
            if getattr(error, "actor_init_failed", False):
                raise CasehardenError(
                    f"a machine of the Ray cluster cannot work: {_cause(error)}. Install the same there as here."
                ) from error
            return Ended(asked.number, f"was lost: {_cause(error)}")
        asked.placed = True
        for record in said:
            logger = logging.getLogger(record.name)
            if logger.isEnabledFor(record.levelno):
                logger.handle(record)
        if what == CAME:
            self._answered = asked
            return Came(asked.number, given)
        self._idle.append(asked.worker)
        if what == ENDED:
            return Ended(asked.number)
        raise cannot_travel(given) if what == UNREADABLE else given

    def _ask(self, asked: _Asked) -> None:
        self._asked[asked.worker.begin.remote(asked.message)] = asked

    def _place(self) -> None:
        """Give idle workers the work of those that wait for a place, maybe for ever, where a machine is lost."""
        for answer, asked in [*self._asked.items()]:
            if not asked.placed and time.monotonic() - asked.since > LOOK:
                if self._idle:
                    del self._asked[answer]
                    self._end([asked.worker])
                    self._ask(_Asked(asked.number, asked.message, self._idle.pop(), placed=True))
                elif not asked.warned:
                    log.warning("the Ray cluster is busy: a worker waits for %s; see `ray status`", self._needs)
                    asked.warned = True

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
    if address == HERE:
        address = os.environ.get("RAY_ADDRESS", "local")
    if address == "local" and "ray" not in sys.modules:  # it reads them when imported, and half of it again later
        os.environ.update(ALONE)
    _check_listening(address)
    try:
        import ray
    except ImportError as error:
        raise CasehardenError("to work on a Ray cluster, install it: pip install 'caseharden[ray]'.") from error
    dashboard = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **dashboard)
    except Exception as error:  # Ray raises errors of all kinds here
        raise _unreachable(address, _first_line(error)) from error
    return ray


def _check_listening(address: str) -> None:
    """Raise `CasehardenError` if nothing listens at ``host:port``: Ray would try for minutes."""
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
