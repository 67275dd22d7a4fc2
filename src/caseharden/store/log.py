"""What each step of a hardening or an attack reported, one line of JSON a step, kept beside the store."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from caseharden.store.store import storing


class StepLog:
    """A file of steps that a resumed run goes on writing where it stands, so that none is there twice."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, folder: Path, cell: str) -> StepLog:
        """The log of one cell in the store at `folder`."""
        return cls(folder / "logs" / f"{cell}.jsonl")

    def steps(self) -> tuple[Mapping[str, float], ...]:
        """What each step reported, first step first; nothing if there is no such file."""
        with storing("reading a log of steps"):
            lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        return tuple(json.loads(line) for line in lines if _within(line, sys.maxsize))

    def resume(self, step: int) -> None:
        """Forget what comes after `step`, and lines that were cut off."""
        with storing("reading a log of steps"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
            self.path.write_text("".join(f"{line}\n" for line in lines if _within(line, step)), encoding="utf-8")

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        with storing("writing a log of steps"), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")


def _within(line: str, step: int) -> bool:
    try:
        return int(json.loads(line)["step"]) <= step
    except (json.JSONDecodeError, KeyError, TypeError):
        return False
