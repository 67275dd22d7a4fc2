"""What interrupted runs have left on the disk, attacked models among it: checkpoints, and files half written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from caseharden.store.store import Store, Taken, writing
from caseharden.store.weights import Checkpoint, Weights

OF_CELL = re.compile(r"(?:\.unfinished-)?([0-9a-f]{64})")
"""How files begin that are a cell's: with its key."""


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
    for key, paths in leftovers(store).items():
        try:
            with store.executing(key), writing(store.folder, key, wait=False):
                size += sum(file.stat().st_size for path in paths for file in _files(path))
                Checkpoint.of(store.folder, key).drop()
                Weights(store.folder / "weights").sweep(key)
                cells += 1
        except Taken:
            busy += 1
    return Cleaned(cells, size, busy)


def leftovers(store: Store) -> dict[str, list[Path]]:
    """Checkpoints and unfinished files in a store's folder, by the key of their cell.

    Not of one whose attacked model is kept, which may yet go on from there.
    """
    found: dict[str, list[Path]] = {}
    folder = store.folder
    places = (*(folder / "checkpoints").glob("*"), *(folder / "weights").glob(".unfinished-*"))
    for path in sorted(places):
        if key := OF_CELL.match(path.name):
            found.setdefault(key[1], []).append(path)
    return {key: paths for key, paths in found.items() if not store.kept(key)}


def _files(path: Path) -> Iterator[Path]:
    return (file for file in path.rglob("*") if file.is_file()) if path.is_dir() else iter([path])
