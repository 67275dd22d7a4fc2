"""What of a study runs now, where, and how long the rest will take."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from sqlalchemy import select

from caseharden.store.leftovers import leftovers
from caseharden.store.results import named, undamaged
from caseharden.store.store import Store
from caseharden.store.tables import NAME, CellRow, PlaceRow, now


@dataclass(frozen=True)
class Running:
    """A cell that is marked as running: its labels, the machine it is on, and since how many seconds.

    A run that was killed leaves its cells marked.
    """

    labels: Mapping[str, Any]
    machine: str
    seconds: float


@dataclass(frozen=True)
class Outlook:
    """What runs now, and the seconds that the rest takes with as many cells at a time; None if that is unknown.

    `checkpoints` are the cells of the store, whichever study's, that have left something to go on from.
    """

    running: tuple[Running, ...]
    left: float | None
    checkpoints: int = 0


def outlook(store: Store, study: str | None = None) -> Outlook:
    """Of one study: the one named, or the last one run. A cell takes as long as those of its kind have taken."""
    name, present = named(store, study), now()
    with undamaged(store), store.session() as session:
        found = select(PlaceRow, CellRow).outerjoin(CellRow, PlaceRow.cell == CellRow.key)
        rows = [(place, cell) for place, cell in session.execute(found.where(PlaceRow.study == name))]
    took: dict[str, list[float]] = defaultdict(list)
    for place, cell in rows:
        if cell is not None and cell.status == "done" and cell.finished is not None:
            took[place.labels["kind"]].append((cell.finished - cell.started).total_seconds())
    running = [
        Running(place.labels, cell.host.get(NAME, ""), (present - _aware(cell.started)).total_seconds())
        for place, cell in rows
        if cell is not None and cell.status == "running"
    ]
    kinds = [place.labels["kind"] for place, cell in rows if cell is None or cell.status == "running"]
    if not kinds or any(kind not in took for kind in kinds):
        return Outlook(tuple(running), None if kinds else 0.0, len(leftovers(store)))
    work = sum(fmean(took[kind]) for kind in kinds)
    work -= sum(min(one.seconds, fmean(took[one.labels["kind"]])) for one in running)
    return Outlook(tuple(running), work / max(1, len(running)), len(leftovers(store)))


def _aware(moment: Any) -> Any:
    """A moment with its time zone, which SQLite does not keep."""
    return moment if moment.tzinfo else moment.replace(tzinfo=now().tzinfo)
