"""A worker: a process that does one piece of work after another for its driver, and ends with it."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import closing
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection
from queue import SimpleQueue

BOOT = """\
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to answer
import pickle
from multiprocessing.connection import Connection
connection = Connection(int(sys.argv[1]))
sys.path[:] = pickle.loads(connection.recv_bytes())
from caseharden.executors.worker import serve
serve(connection)
"""
"""What a worker's interpreter is given to run. It never imports the driver's own script."""
GO_ON = b"go on"
"""What the driver says when it is through with an outcome."""
CAME, ENDED, RAISED, UNREADABLE, LOGGED = range(5)
"""What a worker tells, each with something to go with it."""
LOOK = 2.0
"""Seconds after which it is looked whether a driver that says nothing is alive."""
PATIENCE = 5.0
"""Seconds that work is given to clean up, where it is to end."""
Tell = Callable[[int, object], None]


def serve(connection: Connection) -> None:
    """Do what the driver sends, until it is gone."""
    around, level, driver = pickle.loads(connection.recv_bytes())
    telling = threading.Lock()

    def tell(what: int, given: object) -> None:
        message = pickle.dumps((what, given))
        try:
            with telling:
                connection.send_bytes(message)
        except OSError:  # nobody is left to tell
            sys.exit(1)

    inbox: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_listen, args=(connection, inbox, driver), daemon=True).start()
    signal.signal(signal.SIGTERM, _leave)
    logging.captureWarnings(True)
    logging.getLogger().setLevel(level)
    logging.getLogger().addHandler(_Teller(tell))
    with around():
        while True:
            _do(inbox, tell)


def _leave(*_: object) -> None:
    """End this process, and let its work clean up; once."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(1)


def _do(inbox: SimpleQueue[bytes], tell: Tell) -> None:
    """One piece of work."""
    sent = inbox.get()
    try:
        work = pickle.loads(sent)
    except Exception as error:  # noqa: BLE001 - whatever an import may raise
        tell(UNREADABLE, f"{type(error).__name__}: {error}")
        return
    try:
        with closing(work()) as outcomes:
            for outcome in outcomes:
                tell(CAME, outcome)
                inbox.get()
    except Exception as error:  # noqa: BLE001 - the driver's to judge
        tell(RAISED, portable(error))
    else:
        tell(ENDED, None)


def _listen(connection: Connection, inbox: SimpleQueue[bytes], driver: int) -> None:
    """Pass on what the driver sends, and end this process as soon as the driver is gone, however it went."""
    while os.getppid() == driver:  # what it has forked may hold its end of the connection
        try:
            if connection.poll(LOOK):
                inbox.put(connection.recv_bytes())
        except (EOFError, OSError):
            break
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(PATIENCE)
    os._exit(1)


def portable(error: Exception) -> Exception:
    """An error that the driver can read, with where it came from; another with its text if it cannot be sent."""
    error.add_note("".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - an exception's own constructor may do anything
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


class _Teller(QueueHandler):
    """Sends log records to the driver."""

    def __init__(self, tell: Tell) -> None:
        super().__init__(SimpleQueue())
        self.tell = tell

    def enqueue(self, record: logging.LogRecord) -> None:
        self.tell(LOGGED, record)
