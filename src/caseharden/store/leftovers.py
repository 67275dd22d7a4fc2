"""What interrupted runs have left on the disk, attacked models among it: checkpoints, and files half written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from caseharden.store.store import Store, Taken
from caseharden.store.weights import Checkpoint, Weights

KEY = 64
"""Characters of a cell's key."""


@dataclass(frozen=True)
class Cleaned:
    """How many cells' leftovers are gone, how many bytes they had, and how many cells somebody is at just now."""

    cells: int
    bytes: int
    busy: int


def clean(store: Store) -> Cleaned:
    """Remove what cells have left that nobody is at: whoever runs them again begins anew.

    Attacked models that a study was to keep stay. Raises `StoreError` if the store cannot be used.
    """
    cells = size = busy = 0
    for key, paths in leftovers(store.folder).items():
        try:
            with store.executing(key):
                size += sum(file.stat().st_size for path in paths for file in _files(path))
                Checkpoint.of(store.folder, key).drop()
                Weights(store.folder / "weights").sweep(key)
                cells += 1
        except Taken:
            busy += 1
    return Cleaned(cells, size, busy)


def leftovers(folder: Path) -> dict[str, list[Path]]:
    """Checkpoints and unfinished files in a store's folder, by the key of their cell."""
    found: dict[str, list[Path]] = {}
    for path in sorted((folder / "checkpoints").glob("*")):
        found.setdefault(path.name[:KEY], []).append(path)
    for path in sorted((folder / "weights").glob(".unfinished-*")):
        found.setdefault(path.name.removeprefix(".unfinished-")[:KEY], []).append(path)
    return found


def _files(path: Path) -> Iterator[Path]:
    return (file for file in path.rglob("*") if file.is_file()) if path.is_dir() else iter([path])
