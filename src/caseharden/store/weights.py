"""Weights kept by what is in them, and the checkpoints of running cells: whole on the disk, or not there."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import torch
from safetensors import SafetensorError

from caseharden.lm.facts import fingerprint
from caseharden.lm.lm import LM
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
            fresh = self.root / f".unfinished-{cell}-{uuid4().hex}"  # whoever is thought lost may still be writing
            fresh.mkdir(parents=True)
            lm.save(fresh)
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
    """Where a run stands, in one file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, folder: Path, cell: str) -> Checkpoint:
        """That of one cell in the store at `folder`."""
        return cls(folder / "checkpoints" / f"{cell}.pt")

    def save(self, run: Run) -> None:
        """Put `run`'s state in the place of the one before."""
        with storing("saving a checkpoint", RuntimeError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            fresh = self.path.with_suffix(f".{uuid4().hex}.unfinished")
            with fresh.open("wb") as file:
                torch.save(run.state_dict(), file)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self.path)
            _sync(self.path.parent)

    def restore(self, run: Run, before: int | None = None) -> None:
        """Let a fresh `run` stand where it was saved, if it was, and if that was before step `before`."""
        if not self.path.is_file():
            return
        with storing("reading a checkpoint"):
            try:
                state = torch.load(self.path, map_location="cpu", weights_only=True)
            except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
                raise StoreError(f"the checkpoint {self.path} is damaged ({error}). Delete it.") from error
        if before is None or state["step"] < before:
            run.load_state_dict(state)

    def drop(self) -> None:
        """Remove the file; the cell is over."""
        self.path.unlink(missing_ok=True)
        for left in self.path.parent.glob(f"{self.path.stem}.*.unfinished"):
            left.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
