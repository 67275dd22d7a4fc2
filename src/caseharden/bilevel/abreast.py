"""An attacker at work beside the defender, in a process of its own: Patcher's parallel form."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from caseharden.bilevel.simulate import Arrivals, Attack, Simulates
from caseharden.bilevel.vector import AttackVector
from caseharden.errors import CasehardenError, TrainingFailed
from caseharden.lm.lm import LM
from caseharden.train.optim import restore
from caseharden.train.tuner import Metrics, Run

SHARED_MEMORY = Path("/dev/shm")
IDLE_SECONDS = 0.002

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Abreast:
    """Attacker and defender exchange versions and, once both are there, never wait for each other.

    The defender publishes θ at the beginning of every stretch of `defense_steps`. The attacker takes the
    newest θ that it has not attacked yet, and publishes where it got. The defender takes that up at its
    next step: as v from its θ of now (``arrival``), so that θ+v is where the attack ended and v holds minus
    the defender's way since, or from the θ that was attacked (``launch``). An attack launched more than
    `max_stretches` stretches ago is not used; the defender goes on without until the next comes in.

    Versions are files in `folder` (shared memory if None, where there is some), written whole before they
    get their name. So either side may be killed: an attacker that dies is started again, up to `restarts`
    times in a row; a defender that resumes has the attacks it held, and starts an attacker of its own.

    Which attack meets which step depends on the machine's timing: no two runs are alike bit for bit.
    The attacker computes on `device` (the defender's if None) with `threads` CPU threads.
    """

    relative_to: Literal["launch", "arrival"] = "arrival"
    max_stretches: int | None = 8
    device: str | None = None
    threads: int = 1
    folder: str | None = None
    restarts: int = 3

    def __post_init__(self) -> None:
        if self.threads < 1 or self.restarts < 0 or (self.max_stretches is not None and self.max_stretches < 1):
            raise CasehardenError("abreast needs threads and max_stretches above 0, and restarts not below.")

    @contextmanager
    def at_work(self, defense: Simulates, run: Run) -> Iterator[Arrivals]:
        folder = self.folder or (str(SHARED_MEMORY) if os.access(SHARED_MEMORY, os.W_OK) else None)
        with tempfile.TemporaryDirectory(prefix="caseharden-", dir=folder) as name:
            pair = Pair(self, defense, run, Exchange(Path(name)))
            try:
                pair.wait_until_ready()
                yield pair.arrivals
            finally:
                pair.stop()


class Exchange:
    """A folder where two processes leave each other versions: lists of tensors, each under a step's number."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = folder / "model"
        self.ready = folder / "ready"
        self.said = folder / "said"

    def publish(self, kind: str, step: int, tensors: Iterable[Tensor], metrics: Metrics | None = None) -> None:
        """Leave a version whole, then take away those of its kind that came before."""
        fresh = self.folder / f"{kind}.unfinished"
        named = {f"{n:06d}": tensor.detach().cpu().contiguous() for n, tensor in enumerate(tensors)}
        save_file(named, fresh, metadata={"metrics": json.dumps(metrics or {})})
        fresh.rename(self._path(kind, step))
        for path in self.folder.glob(f"{kind}-*"):
            if path != self._path(kind, step):
                path.unlink(missing_ok=True)

    def newest(self, kind: str, after: int) -> tuple[int, list[Tensor], Metrics] | None:
        """The newest version of a step after `after`: its step, tensors (on the CPU) and metrics."""
        step = self.last(kind)
        if step <= after:
            return None
        try:
            with safe_open(self._path(kind, step), "pt") as file:
                tensors = [file.get_tensor(name) for name in sorted(file.keys())]
                return step, tensors, json.loads(file.metadata()["metrics"])
        except FileNotFoundError:
            return None  # a newer one has just taken its place: next time

    def last(self, kind: str) -> int:
        """The step of the newest version; −1 if there is none."""
        return max((int(path.name.rpartition("-")[2]) for path in self.folder.glob(f"{kind}-*")), default=-1)

    def _path(self, kind: str, step: int) -> Path:
        return self.folder / f"{kind}-{step:012d}"


class Pair:
    """The defender's end: publishes θ, collects attacks, and keeps an attacker alive."""

    def __init__(self, how: Abreast, defense: Simulates, run: Run, exchange: Exchange) -> None:
        self.how, self.defense, self.run, self.exchange = how, defense, run, exchange
        self.parameters = list(run.lm.model.parameters())
        self.published = self.received = -1
        self.deaths = 0
        run.lm.save(exchange.model)
        self.process = self._start()

    def wait_until_ready(self) -> None:
        """Until the attacker has loaded the model: the only wait, so that the first attacks are not missed."""
        while not self.exchange.ready.exists():
            self._check()
            time.sleep(IDLE_SECONDS)

    def arrivals(self, step: int) -> list[Attack]:
        """Publish θ if a stretch begins here, or none was published yet; whatever has come in since."""
        self._check()
        if self.published < 0 or step % self.defense.defense_steps == 0:
            self.exchange.publish("theta", step, self.parameters)
            self.published = step
        found = self.exchange.newest("attack", after=self.received)
        if found is None:
            return []
        self.received, tensors, metrics = found
        self.deaths = 0
        vector = AttackVector([tensor.to(self.run.lm.device) for tensor in tensors])
        if self.how.relative_to == "arrival":
            vector = AttackVector.between(self.parameters, vector.vector)
        return [Attack(self.received, vector, metrics)]

    def stop(self) -> None:
        self.process.kill()
        self.process.join()

    def _start(self) -> BaseProcess:
        run = self.run
        arguments = (self.how, self.defense, run.domain, run.role, run.seed, run.share)
        place = (self.how.device or str(run.lm.device), run.lm.precision)
        process = multiprocessing.get_context("spawn").Process(
            target=attacker, args=(self.exchange.folder, *place, *arguments), daemon=True
        )
        process.start()
        return process

    def _check(self) -> None:
        """Start an attacker again that a signal has killed. Raises `TrainingFailed` if it failed or keeps dying."""
        if self.process.is_alive():
            return
        said = self.exchange.said.read_text() if self.exchange.said.is_file() else ""
        self.deaths += 1
        status = self.process.exitcode or 0
        if status >= 0 or self.deaths > self.how.restarts:
            raise TrainingFailed(
                f"the attacker beside the defense ended with status {status}, the {self.deaths}. time in a row. "
                f"It said: {said or 'nothing'}"
            )
        log.warning("the attacker beside the defense has died; starting another")
        self.process = self._start()


def attacker(
    folder: Path, device: str, precision: Any, how: Abreast, defense: Simulates, domain: Any, *run: Any
) -> None:
    """The attacker's process: attack the newest θ, publish, and again, until the defender is gone."""
    exchange = Exchange(folder)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the defender's to answer
    threading.Thread(target=_end_with_parent, args=(folder,), daemon=True).start()
    torch.set_num_threads(how.threads)
    transformers.utils.logging.disable_progress_bar()
    sys.stderr = exchange.said.open("w", buffering=1)  # the terminal is the defender's, who reads this if we fail
    role, seed, share = run
    here = Run(LM.load(exchange.model, device=device, precision=precision), domain, role, seed, share=share)
    parameters = here.trainable()
    exchange.ready.touch()
    last = exchange.last("attack")  # of an attacker before this one
    while True:
        found = exchange.newest("theta", after=last)
        if found is None:
            time.sleep(IDLE_SECONDS)
            continue
        last, theta, _ = found
        restore(parameters, theta)
        attack = defense.attack(here, last)
        if how.relative_to == "arrival":
            torch._foreach_add_(attack.vector.vector, [p.detach() for p in parameters])
        exchange.publish("attack", last, attack.vector.vector, attack.metrics)


def _end_with_parent(folder: Path) -> None:
    """End this process, and take the exchange away, as soon as the defender is gone, however it went."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)
