"""Processes: several pieces of work at a time, each in a worker, a process of its own on this machine."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from multiprocessing.connection import wait as wait_for

from caseharden.errors import CasehardenError
from caseharden.executors.executor import Came, Ended, Work
from caseharden.executors.worker import BOOT, CAME, ENDED, GO_ON, LOGGED, PATIENCE, UNREADABLE

Around = Callable[[], AbstractContextManager[object]]
"""What a worker does all its work under: a function that can be imported by its name."""


LOOK = 2.0
"""Seconds after which it is looked whether a worker that says nothing is alive."""


class Processes:
    """Does up to `jobs` pieces of work at a time, each in a process that is started when it is first needed.

    The environment of worker i is this process's with ``environments[i]`` over it. A worker does its work `around`.
    Workers end with this process, however it ends. The work, and what comes of it, has to be picklable, and the
    classes in it importable: a worker does not import the script that was started here.
    """

    elsewhere = False

    def __init__(self, environments: Sequence[Mapping[str, str]], around: Around = nullcontext) -> None:
        self.jobs = len(environments)
        self._around = around
        self._places: list[_Worker | None] = [None] * self.jobs
        self.environments = environments
        self._ready: deque[_Worker] = deque()
        self._answered: _Worker | None = None

    def begin(self, number: int, work: Work) -> None:
        message = packed(work)
        place = next(place for place, worker in enumerate(self._places) if worker is None or worker.number is None)
        worker = self._places[place]
        if worker is None or worker.process.poll() is not None:
            worker = self._places[place] = _Worker(self.environments[place], self._around)
        worker.number = number
        worker.send(message)

    def wait(self, seconds: float | None = None) -> Came | Ended | None:
        if self._answered is not None:
            self._answered.send(GO_ON)
            self._answered = None
        until = time.monotonic() + seconds if seconds is not None else float("inf")
        while busy := self._busy():
            if not self._ready:
                left = min(until - time.monotonic(), LOOK)
                found = wait_for([worker.connection for worker in busy], max(0.0, left))
                # A dead one's end of the connection stays open in what it has forked: then nothing is heard of it.
                self._ready += [one for one in busy if one.connection in found or one.process.poll() is not None]
            if self._ready:
                happened = self._heard(self._ready.popleft())
                if happened is not None:
                    return happened
            elif time.monotonic() >= until:
                break
        return None

    def stop(self) -> None:
        self._end(self._busy())
        self._ready.clear()
        self._answered = None

    def close(self) -> None:
        self.stop()
        self._end([worker for worker in self._places if worker is not None])

    def _busy(self) -> list[_Worker]:
        return [worker for worker in self._places if worker is not None and worker.number is not None]

    def _heard(self, worker: _Worker) -> Came | Ended | None:
        """What a worker has to say of its work, if anything."""
        number = worker.number
        assert number is not None
        try:
            if not worker.connection.poll():
                raise EOFError
            what, given = pickle.loads(worker.connection.recv_bytes())
        except (EOFError, OSError):
            return Ended(number, self._bury(worker))
        if what == CAME:
            self._answered = worker
            return Came(number, given)
        if what == LOGGED:
            logger = logging.getLogger(given.name)
            if logger.isEnabledFor(given.levelno):
                logger.handle(given)
            return None
        worker.number = None
        if what == ENDED:
            return Ended(number)
        raise cannot_travel(given) if what == UNREADABLE else given

    def _end(self, workers: Sequence[_Worker]) -> None:
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            self._bury(worker)

    def _bury(self, worker: _Worker) -> str:
        """Take leave of a worker that is dead or dying, and say what it died of."""
        self._places[self._places.index(worker)] = None
        worker.connection.close()  # upon which it ends, should it be alive
        try:
            status = worker.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            worker.process.kill()
            status = worker.process.wait()
        return (
            f"was killed by signal {-status} ({signal.strsignal(-status)})"
            if status < 0
            else f"ended with status {status}"
        )


class _Worker:
    """A worker as its driver sees it; `number` is that of the work it is at."""

    def __init__(self, environment: Mapping[str, str], around: Around) -> None:
        self.number: int | None = None
        self.connection, theirs = multiprocessing.Pipe()
        with theirs:
            end = theirs.fileno()
            command = [sys.executable, "-c", BOOT, str(end)]
            # Of one's own rather than by multiprocessing, which would import the driver's script in every worker.
            self.process = subprocess.Popen(
                command, pass_fds=[end], env={**os.environ, **environment}, stdin=subprocess.DEVNULL
            )
        self.send(pickle.dumps(sys.path))
        self.send(pickle.dumps((around, logging.getLogger().level, os.getpid())))

    def send(self, message: bytes) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # it is dead, as will be seen when it is listened to
            self.connection.send_bytes(message)


def packed(work: Work) -> bytes:
    """A piece of work, to be sent to another process. Raises `CasehardenError` if it cannot be."""
    try:
        return pickle.dumps(work)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise cannot_travel(str(error)) from error


def cannot_travel(why: str) -> CasehardenError:
    """An error that says why work cannot be sent elsewhere."""
    return CasehardenError(
        f"a cell cannot be sent to another process: {why}. Put the classes that it needs into a module of their "
        "own, which can be imported, or run it in one process: with one job, and on no cluster."
    )
