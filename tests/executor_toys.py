"""Work for executors to do, which imports next to nothing."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from caseharden.errors import CasehardenError
from caseharden.executors.executor import Came, Ended, Executor


def counts(log: Path, to: int) -> Iterator[int]:
    """Count, and write down each number before it is told."""
    for number in range(to):
        note(log, str(number))
        yield number


def note(log: Path, text: str) -> None:
    with log.open("a") as file:
        file.write(f"{text}\n")


def who(*names: str) -> Iterator[tuple[int, dict[str, str | None]]]:
    """Say which process this is, and what is in its environment."""
    yield os.getpid(), {name: os.environ.get(name) for name in names}


def dies(how: int, before: int = 0) -> Iterator[int]:
    yield from range(before)
    os.kill(os.getpid(), how)
    time.sleep(60)


def leaves(status: int) -> Iterator[int]:
    yield 0
    sys.exit(status)


def dies_with_a_child() -> Iterator[int]:
    """Leave a child behind that holds all that this process had open, and die."""
    child = os.fork()
    if not child:
        time.sleep(60)
        os._exit(0)
    yield child
    os.kill(os.getpid(), signal.SIGKILL)


class Awkward(Exception):
    """Can be raised, and pickled, and not read again."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} {two}")


def fails(how: str) -> Iterator[int]:
    yield 0
    errors = {
        "ours": CasehardenError("put it right"),
        "full": OSError(28, "no space", "f"),
        "odd": Awkward("a", "b"),
    }
    raise errors[how]


def talks() -> Iterator[int]:
    logging.getLogger("toys").info("nobody asked")
    logging.getLogger("toys").warning("%d of %s", 3, "them")
    warnings.warn("mind this", stacklevel=1)
    yield 0


def ticks(log: Path) -> Iterator[int]:
    """Write down this process's number, and then whatever happens, until it is ended."""
    note(log, str(os.getpid()))
    yield 0
    try:
        while True:
            note(log, "tick")
            time.sleep(0.01)
    finally:
        note(log, "clean")


def finish(executor: Executor) -> dict[int, list[object]]:
    """What comes of all work under way, the deaths last."""
    found: dict[int, list[object]] = {}
    while happened := executor.wait():
        if isinstance(happened, Came):
            found.setdefault(happened.number, []).append(happened.outcome)
        elif isinstance(happened, Ended) and happened.death:
            found.setdefault(happened.number, []).append(happened.death)
    return found


def is_alive(process: int) -> bool:
    """Whether a process of this number runs; one that only waits to be buried does not."""
    status = subprocess.run(["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True).stdout
    return bool(status.strip()) and not status.startswith("Z")


def until(condition, seconds: float = 30.0) -> bool:
    end = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return met
