"""Weights kept by what is in them, and the checkpoints of running cells: whole on the disk, or not there."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError

from caseharden.lm.facts import fingerprint
from caseharden.lm.lm import LM
from caseharden.lm.placement import Placement
from caseharden.store import sharded
from caseharden.store.database import StoreError, storing
from caseharden.train.tuner import Run


class Weights:
    """A folder of models, each under its own fingerprint."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._whole: set[str] = set()

    def find(self, mark: str) -> Path | None:
        """The folder of the model with fingerprint `mark`, if it is there and whole."""
        folder = self.root / mark
        if mark not in self._whole and folder.is_dir() and fingerprint(folder) == mark:
            self._whole.add(mark)
        return folder if mark in self._whole else None

    def keep(self, lm: LM, cell: str) -> str:
        """Save `lm`, which the cell with this key has made, and return its fingerprint."""
        with storing("saving weights", SafetensorError, RuntimeError):
            unique = lm.placement.agree(uuid4().hex)  # whoever is thought lost may still be writing
            fresh = self.root / f".unfinished-{cell}-{unique}"
            lm.placement.once(lambda: fresh.mkdir(parents=True))
            lm.save(fresh)
            return lm.placement.once(lambda: self._settle(fresh))

    def _settle(self, fresh: Path) -> str:
        mark = fingerprint(fresh)
        if Weights(self.root).find(mark):  # made by another cell, and perhaps being read
            shutil.rmtree(fresh)
        else:
            shutil.rmtree(self.root / mark, ignore_errors=True)  # a damaged one
            fresh.rename(self.root / mark)
        _sync(self.root)
        return mark

    def sweep(self, cell: str) -> None:
        """Remove what attempts at a cell that is over have left unfinished."""
        for left in self.root.glob(f".unfinished-{cell}-*"):
            shutil.rmtree(left, ignore_errors=True)


def copy_out(folder: Path, output: Path) -> Path:
    """Copy a model's folder to `output`, where nothing may be: whole, or not at all. Returns `output`."""
    with storing(f"copying the model to {output}"):
        output.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=output.parent, prefix=".", suffix=".part") as beside:
            try:
                draft = shutil.copytree(folder, Path(beside) / "model")
            except shutil.Error as errors:  # each as source, destination, reason
                raise OSError("; ".join(sorted({str(reason) for *_, reason in errors.args[0]}))) from errors
            if os.path.lexists(output):  # since it was asked for
                raise FileExistsError(f"{output} exists already")
            draft.rename(output)
        _sync(output.parent)
    return output


class Checkpoint:
    """Where a run stands: in one file, or in a folder with parts where several processes have written it.

    Any number of processes goes on from either.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, folder: Path, cell: str) -> Checkpoint:
        """That of one cell in the store at `folder`."""
        return cls(folder / "checkpoints" / f"{cell}.pt")

    def save(self, run: Run) -> None:
        """Put `run`'s state in the place of the one before."""
        placement = run.lm.placement
        with storing("saving a checkpoint", RuntimeError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            fresh = self.path.with_suffix(f".{placement.agree(uuid4().hex)}.unfinished")
            if placement.world > 1:
                sharded.write(fresh, run.state_dict(), placement)
            else:
                with fresh.open("wb") as file:
                    torch.save(run.state_dict(), file)
                    file.flush()
                    os.fsync(file.fileno())
            name = self.path.with_suffix(f".{run.step}.parts") if placement.world > 1 else self.path
            placement.once(lambda: self._settle(fresh, name))

    def _settle(self, fresh: Path, name: Path) -> None:
        """Give the newest state its name, and remove those before it."""
        if name.is_dir():
            _remove(name)
        fresh.replace(name)
        _sync(self.path.parent)
        for path in self._found():
            if path != name:
                _remove(path)

    def _found(self) -> list[Path]:
        """What is saved: one state, or two if a process has died before it had removed the older one."""
        return [*([self.path] if self.path.is_file() else []), *self.path.parent.glob(f"{self.path.stem}.*.parts")]

    def restore(self, run: Run, before: int | None = None) -> None:
        """Let a fresh `run` stand where it was saved, if it was, and if that was before step `before`."""
        states = []
        for path in self._found():
            with storing("reading a checkpoint"):
                try:
                    states.append(_read(path, run.lm.placement))
                except (RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
                    raise StoreError(f"the checkpoint {path} is damaged ({error}). Delete it.") from error
        state = max(states, key=lambda one: int(one["step"]), default=None)
        if state is not None and (before is None or state["step"] < before):
            run.load_state_dict(state)

    def drop(self) -> None:
        """Remove what is saved; the cell is over."""
        for left in (*self._found(), *self.path.parent.glob(f"{self.path.stem}.*.unfinished")):
            _remove(left)


def _read(path: Path, placement: Placement) -> dict[str, Any]:
    found: dict[str, Any]
    if path.is_dir():
        found = sharded.read(path, placement)
    else:  # of several processes each takes its part of what is mapped
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=placement.world > 1)
    return found


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
