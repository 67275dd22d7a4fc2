"""An attacker in a process of its own beside the defender: Patcher's parallel form."""

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
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import transformers
from filelock import FileLock, Timeout
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from caseharden.bilevel.simulate import NewAttacks, SimulatedAttack, SimulatesAttacks
from caseharden.bilevel.vector import AttackVector
from caseharden.errors import CasehardenError, TrainingFailed
from caseharden.lm.lm import LM
from caseharden.lm.machine import check_threads
from caseharden.lm.memory import Memory
from caseharden.lm.template import Reasoning
from caseharden.train.optim import restore
from caseharden.train.tuner import Metrics, Run

SHARED_MEMORY = Path("/dev/shm")
COPIES = 5
"""Of the parameters, that an exchange holds at most: the model, and a new version beside the old one each way."""
PREFIX, ALIVE = "caseharden-", "alive.lock"
"""How an exchange's folder begins, and the lock in it that its defender holds."""
YOUNG_SECONDS = 60.0
"""A younger folder may be one whose lock is not taken yet."""
RESTARTS = 3
"""How often in a row an attacker that was killed is started again."""
IDLE_SECONDS = 0.002

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Asynchronous:
    """Attack and defend at the same time: two processes that exchange versions and never wait for each other.

    The defender publishes θ at the beginning of every round of `defense_steps`. The attacker takes the newest
    θ that it has not attacked yet, and publishes the weights it ends at. The defender uses them from its next
    step on, with v seen from its current θ. An attack that was launched more than `max_rounds` rounds ago is
    dropped. The attacker computes on `device` (the defender's if None) with `threads` CPU threads.

    Which attack meets which step depends on timing: no two runs are alike bit for bit.
    """

    max_rounds: int | None = 8
    device: str | None = None
    threads: int = 1

    def __post_init__(self) -> None:
        if self.threads < 1 or (self.max_rounds is not None and self.max_rounds < 1):
            raise CasehardenError("asynchronous needs threads and max_rounds above 0.")
        check_threads(self.threads)

    @contextmanager
    def attacks(self, defense: SimulatesAttacks, run: Run) -> Iterator[NewAttacks]:
        run.lm.placement.refuse("an asynchronous attacker", "it is one process beside one")
        size = sum(p.numel() * p.element_size() for p in run.lm.model.parameters())
        root = exchange_root(COPIES * size) or Path(tempfile.gettempdir())
        clear_abandoned(root)
        with tempfile.TemporaryDirectory(prefix=PREFIX, dir=root) as folder, FileLock(Path(folder) / ALIVE):
            process = AttackerProcess(self, defense, run, Exchange(Path(folder)))
            try:
                process.wait_until_ready()
                yield process.new_attacks
            finally:
                process.stop()


def exchange_root(needed: int) -> Path | None:
    """Shared memory, where there is some with `needed` bytes free; else None, for the temporary directory."""
    writable = os.access(SHARED_MEMORY, os.W_OK)
    return SHARED_MEMORY if writable and shutil.disk_usage(SHARED_MEMORY).free >= needed else None


def clear_abandoned(root: Path) -> None:
    """Remove exchanges, which hold attacked weights, whose processes were all killed: nobody holds their lock."""
    for folder in root.glob(f"{PREFIX}*"):
        with suppress(OSError, Timeout):
            if time.time() - folder.stat().st_mtime > YOUNG_SECONDS and (folder / ALIVE).is_file():
                with FileLock(folder / ALIVE, timeout=0):
                    shutil.rmtree(folder, ignore_errors=True)


class Exchange:
    """A folder where two processes leave each other versions: lists of tensors, each under a step's number.

    Versions are written whole before they get their name, so that either side may be killed at any time.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = folder / "model"
        self.ready = folder / "ready"
        self.stderr = folder / "stderr"

    def publish(self, kind: str, step: int, tensors: Iterable[Tensor], metrics: Metrics | None = None) -> None:
        """Write a version, then remove those of its kind that came before."""
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


class AttackerProcess:
    """The attacker as the defender sees it: publishes θ to it, collects its attacks, and keeps it alive."""

    def __init__(self, how: Asynchronous, defense: SimulatesAttacks, run: Run, exchange: Exchange) -> None:
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

    def new_attacks(self, step: int) -> list[SimulatedAttack]:
        """Publish θ if a round begins here, or none was published yet; the attacks that have ended since."""
        self._check()
        if self.published < 0 or step % self.defense.defense_steps == 0:
            self.exchange.publish("theta", step, self.parameters)
            self.published = step
        found = self.exchange.newest("attack", after=self.received)
        if found is None:
            return []
        self.received, attacked, metrics = found
        self.deaths = 0
        end = [tensor.to(self.run.lm.device) for tensor in attacked]
        return [SimulatedAttack(self.received, AttackVector.between(self.parameters, end), metrics)]

    def stop(self) -> None:
        self.process.kill()
        self.process.join()

    def _start(self) -> BaseProcess:
        run = self.run
        arguments = (self.how, self.defense, run.domain, run.role, run.seed, run.share, run.engine)
        place = (self.how.device or str(run.lm.device), run.lm.precision, run.lm.reasoning, run.lm.memory)
        process = multiprocessing.get_context("spawn").Process(
            target=attack_forever, args=(self.exchange.folder, *place, *arguments), daemon=True
        )
        process.start()
        return process

    def _check(self) -> None:
        """Start an attacker again that a signal has killed. Raises `TrainingFailed` if it failed or keeps dying."""
        if self.process.is_alive():
            return
        said = self.exchange.stderr.read_text(encoding="utf-8") if self.exchange.stderr.is_file() else ""
        self.deaths += 1
        status = self.process.exitcode or 0
        if status >= 0 or self.deaths > RESTARTS:
            raise TrainingFailed(
                f"the attacker beside the defense ended with status {status}, the {self.deaths}. time in a row. "
                f"It said: {said or 'nothing'}"
            )
        log.warning("the attacker beside the defense has died; starting another")
        self.process = self._start()


def attack_forever(
    folder: Path,
    device: str,
    precision: Any,
    reasoning: Reasoning,
    memory: Memory,
    how: Asynchronous,
    defense: SimulatesAttacks,
    domain: Any,
    *run: Any,
) -> None:
    """The attacker's process: attack the newest θ, publish, and again, until the defender is gone."""
    exchange = Exchange(folder)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the defender's to answer
    threading.Thread(target=_end_with_parent, args=(folder,), daemon=True).start()
    torch.set_num_threads(how.threads)
    transformers.utils.logging.disable_progress_bar()
    # The terminal is the defender's, who reads this if we fail.
    sys.stderr = exchange.stderr.open("w", buffering=1, encoding="utf-8", errors="backslashreplace")
    role, seed, share, engine = run
    lm = LM.load(exchange.model, device=device, precision=precision, reasoning=reasoning, memory=memory)
    adversary_run = Run(lm, domain, role, seed, share=share, engine=engine)
    parameters = adversary_run.trainable()
    exchange.ready.touch()
    last = exchange.last("attack")  # of an attacker before this one
    while True:
        found = exchange.newest("theta", after=last)
        if found is None:
            time.sleep(IDLE_SECONDS)
            continue
        last, theta, _ = found
        restore(parameters, theta)
        del theta, found  # not kept through the attack
        attack = defense.attack(adversary_run, last)
        end = torch._foreach_add(attack.vector.vector, [p.detach() for p in parameters])
        exchange.publish("attack", last, end, attack.metrics)


def _end_with_parent(folder: Path) -> None:
    """End this process, and take the exchange away, as soon as the defender is gone, however it went."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)
