"""What each step of a hardening or an attack reported, one line of JSON a step, kept beside the store."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from caseharden.store.database import storing


class StepLog:
    """A file of steps in which a run that begins again, or goes on, writes only those that are not there yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._last = 0

    @classmethod
    def of(cls, folder: Path, cell: str) -> StepLog:
        """The log of one cell in the store at `folder`."""
        return cls(folder / "logs" / f"{cell}.jsonl")

    def steps(self) -> tuple[Mapping[str, float], ...]:
        """What each step reported, first step first, up to a line that was cut off; nothing without the file."""
        with storing("reading a log of steps"):
            lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        found: list[Mapping[str, float]] = []
        for line in lines:
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return tuple(found)

    def resume(self) -> None:
        """Forget a line that was cut off, and see which step is the last."""
        found = self.steps()
        self._last = int(found[-1]["step"]) if found else 0
        with storing("writing a log of steps"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text("".join(f"{json.dumps(step)}\n" for step in found), encoding="utf-8")

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write what `step` reported, unless that is there already."""
        if step <= self._last:
            return
        with storing("writing a log of steps"), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")
