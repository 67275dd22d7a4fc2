"""Torchrun: the processes that `torchrun` has started do each piece of work together, one after another.

The first one leads: it has the driver, and tells the others what to begin, when to go on and when to stop. All do
the same work, and come to the same outcomes; the leader's are handed out. What they tell each other goes through
the store in which torchrun's processes meet, apart from what the work itself exchanges.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from caseharden.errors import CasehardenError
from caseharden.executors.executor import Came, Ended, Work
from caseharden.executors.processes import packed

BEGIN, GO_ON, STOP, LEAVE = range(4)
"""What the leader tells the others."""
PATIENCE = timedelta(hours=1)
"""How long processes wait for one another at an outcome, which they come to at about the same time."""
FOREVER = timedelta(days=365)
"""How long others wait for what the leader says, and processes for one another within the work."""

log = logging.getLogger(__name__)


def launched() -> bool:
    """Whether `torchrun` has started this process, with others."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def together() -> Iterator[bool]:
    """Join the processes that torchrun has started; inside, whether this one leads.

    The others have done what the leader told them when they come in: there is nothing left for them to do. A
    process that torchrun has not started leads itself.
    """
    if not launched():
        yield True
        return
    import torch
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    store, rank, world = next(rendezvous("env://"))
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"
    group = PrefixStore("group", store)
    dist.init_process_group(backend, store=group, rank=rank, world_size=world, timeout=FOREVER)
    Torchrun.here = Torchrun(PrefixStore("work", store), rank, world)
    try:
        if rank != 0:
            Torchrun.here.follow()
        yield rank == 0
    finally:
        if rank == 0:
            Torchrun.here.tell(LEAVE)
        Torchrun.here = None
        dist.destroy_process_group()


class Torchrun:
    """Does one piece of work at a time, in all processes that torchrun has started."""

    jobs = 1
    elsewhere = False
    here: Torchrun | None = None
    """The one that this process belongs to, once it has joined the others."""

    def __init__(self, store: Any, rank: int, world: int) -> None:
        self._store = store
        self._rank = rank
        self._world = world
        self._told = self._forgotten = 0
        self._met = 0
        self._under_way: tuple[int, Generator[Any, None, None]] | None = None

    # ---- the leader ---------------------------------------------------------------------------------

    def begin(self, number: int, work: Work) -> None:
        assert self._under_way is None, "one at a time"
        self.tell(BEGIN, packed(work))
        self._under_way = number, work()

    def wait(self, seconds: float | None = None) -> Came | Ended | None:
        """The next outcome, however long it takes. Raises `CasehardenError` if a process comes to another."""
        if self._under_way is None:
            return None
        number, outcomes = self._under_way
        self.tell(GO_ON)
        came = [Came(number, outcome) for outcome in self._next(outcomes)]
        if came:
            return came[0]
        self._under_way = None
        return Ended(number)

    def stop(self) -> None:
        if self._under_way is not None:
            self.tell(STOP)
            self._under_way[1].close()
        self._under_way = None

    def close(self) -> None:
        self.stop()

    def tell(self, what: int, given: bytes = b"") -> None:
        """Tell the others something."""
        self._store.set(f"told/{self._told}", pickle.dumps((what, given)))
        self._told += 1

    # ---- the others ---------------------------------------------------------------------------------

    def follow(self) -> None:
        """Do what the leader tells, until it is through."""
        outcomes: Generator[Any, None, None] | None = None
        while True:
            self._store.wait([f"told/{self._told}"], FOREVER)
            what, given = pickle.loads(self._store.get(f"told/{self._told}"))
            self._told += 1
            if what == LEAVE:
                return
            if what == BEGIN:
                outcomes = pickle.loads(given)()
            elif outcomes is not None and what == GO_ON:
                try:
                    [*self._next(outcomes)]
                except Exception:  # noqa: BLE001 - the leader's own, which is raised there
                    outcomes = None
            elif outcomes is not None:
                outcomes.close()
                outcomes = None

    # ---- all ----------------------------------------------------------------------------------------

    def _next(self, outcomes: Generator[Any, None, None]) -> Iterator[Any]:
        """The next outcome, if there is one, as soon as all processes have come to it."""
        try:
            found = [next(outcomes)]
        except StopIteration:
            found = []
        except Exception as error:
            log.error("process %d: %s: %s", self._rank, type(error).__name__, error)  # it may be alone with it
            self._meet(f"{type(error).__name__}: {error}")
            raise
        self._meet(type(found[0]).__name__ if found else "the end")
        yield from found

    def _meet(self, said: str) -> None:
        """Wait for all processes to say what this one says. Ends this process's work for good if one does not."""
        keys = [f"met/{self._met}/{rank}" for rank in range(self._world)]
        self._store.set(keys[self._rank], said)
        self._met += 1
        try:
            self._store.wait(keys, PATIENCE)
        except Exception:  # noqa: BLE001 - which it is differs from store to store
            raise Parted(f"process {self._rank} has come to this, and not all others: {said}") from None
        others = {self._store.get(key).decode() for key in keys}
        if len(others) > 1:
            raise Parted(f"the processes have come to different outcomes: {' / '.join(sorted(others))}")
        # Whoever is here has read what was told and said before.
        if self._met > 1:
            self._store.delete_key(f"met/{self._met - 2}/{self._rank}")
        if self._rank == 0:
            while self._forgotten < self._told:
                self._store.delete_key(f"told/{self._forgotten}")
                self._forgotten += 1


class Parted(BaseException):
    """Processes that work together have come to different ends, after which none can go on: torchrun ends them all.

    No `Exception`, so that no cell is blamed for it.
    """


def joined() -> Torchrun:
    """The executor of the processes that torchrun has started. Raises `CasehardenError` if they have not joined."""
    if Torchrun.here is None:
        raise CasehardenError(
            "torchrun has started several processes, of which each would run the study. Run it by `torchrun -m "
            "caseharden study run`; in Python, by the one that leads (`caseharden.executors.torchrun.together`)."
        )
    return Torchrun.here
