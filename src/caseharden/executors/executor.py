"""Executor: does pieces of work, one or several at a time, and hands out what comes of each; and the plain loop."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Protocol

Work = Callable[[], Generator[Any, None, None]]
"""A piece of work, whose outcomes come one at a time. Whoever asks for the next is through with the one before."""


@dataclass(frozen=True)
class Came:
    """An outcome of the work with this number."""

    number: int
    outcome: Any


@dataclass(frozen=True)
class Ended:
    """The work with this number is over; `death` says what its process died of, and is empty if it did not."""

    number: int
    death: str = ""


class Executor(Protocol):
    """Does as many pieces of work at a time as it has `jobs`. Knows nothing of what they are."""

    @property
    def jobs(self) -> int: ...

    @property
    def elsewhere(self) -> bool:
        """Whether work is done on other machines, which may have devices that this one lacks."""
        ...

    def begin(self, number: int, work: Work) -> None:
        """Begin a piece of work; there has to be room for it."""
        ...

    def wait(self, seconds: float | None = None) -> Came | Ended | None:
        """What happens next to any work under way; None if nothing has in that many `seconds`.

        Work goes on after an outcome when this is called again. Raises what the work raises.
        """
        ...

    def stop(self) -> None:
        """End all work under way, wherever it is. More can be begun afterwards."""
        ...

    def close(self) -> None:
        """Stop, and give back what is kept for further work."""
        ...


class Local:
    """Does one piece of work at a time, in this process."""

    jobs = 1
    elsewhere = False

    def __init__(self) -> None:
        self._under_way: tuple[int, Generator[Any, None, None]] | None = None

    def begin(self, number: int, work: Work) -> None:
        assert self._under_way is None, "one at a time"
        self._under_way = number, work()

    def wait(self, seconds: float | None = None) -> Came | Ended | None:
        """The next outcome, however long it takes."""
        if self._under_way is None:
            return None
        number, outcomes = self._under_way
        for outcome in outcomes:
            return Came(number, outcome)
        self._under_way = None
        return Ended(number)

    def stop(self) -> None:
        if self._under_way is not None:
            self._under_way[1].close()
        self._under_way = None

    def close(self) -> None:
        self.stop()
