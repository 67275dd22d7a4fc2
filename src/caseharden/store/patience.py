"""Waiting for a database that has gone away for a moment: one that restarts, or a network that comes back."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

log = logging.getLogger(__name__)

PAUSE = 0.5
"""Seconds between two attempts, and between two looks at what somebody else holds."""
Given = ParamSpec("Given")
Told = TypeVar("Told")


class Patient(Protocol):
    """Whoever keeps to a database, and waits up to so many seconds for it."""

    patience: float


Mine = TypeVar("Mine", bound=Patient)


def patiently(method: Callable[Concatenate[Mine, Given], Told]) -> Callable[Concatenate[Mine, Given], Told]:
    """Do the method, one transaction, again where its connection was lost, as long as there is patience.

    It may have been carried out although nobody was told: the method has to come to the same if it is done twice.
    """

    @wraps(method)
    def again(self: Mine, /, *args: Given.args, **kwargs: Given.kwargs) -> Told:
        until, said = time.monotonic() + self.patience, False
        while True:
            try:
                return method(self, *args, **kwargs)
            except Exception as error:
                if not is_gone(error) or time.monotonic() >= until:
                    raise
                if not said:
                    log.warning("waiting for the database: %s", str(_refusal(error)).strip().splitlines()[0])
                said = True
                time.sleep(PAUSE)

    return again


def is_gone(error: BaseException) -> bool:
    """Whether an error, or what it was raised from, says that a server is away; a database in a file never is."""
    refusal = _refusal(error)
    if not isinstance(refusal, DBAPIError) or "sqlite3" in type(refusal.orig).__module__:
        return False
    return refusal.connection_invalidated or isinstance(refusal, OperationalError | InterfaceError)


def _refusal(error: BaseException) -> Any:
    return error if isinstance(error, DBAPIError) else error.__cause__
