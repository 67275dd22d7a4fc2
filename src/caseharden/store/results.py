"""What a store holds of a study, as the plain values that `audit` and `report` read."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from textwrap import shorten
from typing import Any

from sqlalchemy import ColumnElement, and_, func, inspect, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from caseharden.errors import CasehardenError, nearest
from caseharden.records.asking import worst_asked
from caseharden.records.results import BETTER, Answers, Curve, Failure, Point, Reading, Results, Sample, Traits
from caseharden.records.stopping import Known, Wanted
from caseharden.store.database import StoreError
from caseharden.store.log import StepLog
from caseharden.store.store import Store, lacking, points_of
from caseharden.store.tables import NAME, CellRow, GenerationRow, PlaceRow, RecordRow, ScoreRow, StudyRow

SAMPLES = 8
"""Answers handed to a report for each measure, budget and cell."""

Readings = Mapping[int, Mapping[str, Reading]]
"""By step and measure."""


def results(store: Store, study: str | None = None, *, whole: bool = False) -> Results:
    """Everything `store` holds of one study: the one named, or the last one run.

    If `whole`, with the answers behind each reading and the log of each step, which an audit needs.

    A curve begins with the readings of the model as released. Readings of a judge other than the measure's
    own are under ``measure@judge``. An attack that is not through yet is missing in `progress`, and has no
    curve. Raises `StoreError` if what is stored cannot be read.
    """
    name = named(store, study)
    with undamaged(store), store.session() as session:
        row = session.get_one(StudyRow, name)
        places = list(session.scalars(select(PlaceRow).where(PlaceRow.study == name).order_by(PlaceRow.position)))
        cells = {key: session.get_one(CellRow, key) for key in _begun(session, places)}
        points = {key: points_of(session, key) for key in cells}
        wanted = {key: _wanted(row.spec, cell) for key, cell in cells.items()}
        done = {key for key, cell in cells.items() if _is_done(cell, wanted[key], points[key])}
        groups = list(_groups(places, cells, done))
        curves: list[Curve] = []
        samples: list[Sample] = []
        for group in groups:
            for place in group.ends:
                if place.cell and group.state(group.release) == group.state(place) == "done":
                    parts = [*dict.fromkeys([str(group.release.cell), place.cell])]
                    # Another study may have gone on from here, or looked at other budgets.
                    within = (0, *wanted[place.cell].within(points[place.cell]))
                    found = [point for part in parts for b, point in points[part].items() if b in within]
                    log: tuple[Mapping[str, float], ...] = ()
                    if whole:
                        answers = _answers(session, parts, {point.budget: point.readings for point in found})
                        found = [replace(point, answers=answers.get(point.budget, {})) for point in found]
                        log = StepLog.of(store.folder, place.cell).steps()
                        log = tuple(step for step in log if step["step"] <= found[-1].budget)
                    curves.append(_curve(place, found, row.spec["phi"], row.spec.get("watched", "harm"), log))
                    samples += [s for s in _samples(session, place.cell, parts) if s.budget in within]
    states = [group.state(place) for group in groups for place in group.places]
    return Results(
        study=name,
        phi=row.spec["phi"],
        spec=row.source,
        provenance=_provenance(cells.values()),
        curves=tuple(curves),
        failures=tuple(failure for group in groups for failure in group.failures()),
        samples=tuple(samples),
        progress={word: states.count(word) for word in ("done", "failed", "missing")},
        better=places[0].labels.get("better", BETTER) if places else BETTER,
    )


@contextmanager
def undamaged(store: Store) -> Iterator[None]:
    """Turn whatever reading damaged rows raises into a `StoreError`."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, SQLAlchemyError, TypeError, ValueError) as error:
        said = shorten(f"{type(error).__name__}: {error}", 200, placeholder=" …")
        raise StoreError(
            f"what {store.folder} holds cannot be read ({said}): its database was damaged, or written by another "
            "version. Restore a copy of it, or run the study again in a new store."
        ) from error


def named(store: Store, study: str | None) -> str:
    """The study of this name, or the last one run if that is None. Raises `CasehardenError` if there is none."""
    known = store.studies()
    if not known:
        raise CasehardenError(f"no study was ever run in {store.folder}.")
    if study is not None and study not in known:
        raise CasehardenError(f"{store.folder} holds no study {study!r}.{nearest(study, known)}")
    return study or known[0]


@dataclass
class _Group:
    """One model with one defense, and all that is done to it."""

    release: PlaceRow
    cells: Mapping[str, CellRow]
    done: Collection[str]
    harden: PlaceRow | None = None
    attacks: list[PlaceRow] = field(default_factory=list)

    @property
    def ends(self) -> list[PlaceRow]:
        """Where curves end: at attacks, or where there is none at the released model."""
        return self.attacks or [self.release]

    @property
    def places(self) -> list[PlaceRow]:
        return [*([self.harden] if self.harden else []), self.release, *self.attacks]

    def cell(self, place: PlaceRow) -> CellRow | None:
        return self.cells.get(place.cell or "")

    def state(self, place: PlaceRow) -> str:
        """``done``, ``failed`` (also where the hardening has) or ``missing``."""
        if cell := self.cell(place):
            return "done" if cell.key in self.done else "failed" if cell.status == "failed" else "missing"
        blocked = self.harden is not None and self.harden is not place and self.state(self.harden) == "failed"
        return "failed" if blocked else "missing"

    def failures(self) -> Iterator[Failure]:
        for place in self.places:
            if self.state(place) == "failed":
                cell, labels = self.cell(place), place.labels
                yield Failure(
                    model=labels["model"],
                    defense=labels["defense"],
                    attack=labels["attack"],
                    fields=labels["fields"],
                    seed=labels["seed"],
                    reason=cell.reason if cell else "blocked: its hardening failed",
                    defense_fields=_defense_fields(labels),
                    traits=_traits(labels),
                    names=_names(labels),
                )


def _groups(places: Sequence[PlaceRow], cells: Mapping[str, CellRow], done: Collection[str]) -> Iterator[_Group]:
    """Places in groups, by the order of the plan: the hardening if there is one, the release, the attacks."""
    at = 0
    while at < len(places):
        harden = places[at] if places[at].labels["kind"] == "harden" else None
        at += 1 if harden else 0
        group = _Group(places[at], cells, done, harden)
        at += 1
        while at < len(places) and places[at].labels["kind"] == "attack":
            group.attacks.append(places[at])
            at += 1
        yield group


def _wanted(spec: Mapping[str, Any], cell: CellRow) -> Wanted:
    """What the study with this written spec wants of an attack."""
    limit = spec["phi"] if spec.get("stop_when_broken") else None
    confidence = spec.get("confidence", 0.95)
    told = (spec.get("watched", "harm"), limit, confidence, cell.inputs.get("ends"))
    return Wanted(spec["budgets"], cell.inputs.get("measures", ()), *told)


def _is_done(cell: CellRow, wanted: Wanted, known: Known) -> bool:
    """Whether a cell has all that a study wants of it: of an attack, whatever other studies have asked of it."""
    relative = cell.inputs["kind"] == "attack" and "budgets" not in cell.inputs  # in keys of earlier versions
    return not wanted.missing(known) if relative else cell.status == "done"


def _begun(session: Session, places: Iterable[PlaceRow]) -> list[str]:
    keys = {place.cell for place in places if place.cell}
    return list(session.scalars(select(CellRow.key).where(CellRow.key.in_(keys))))


def _defense_fields(labels: Mapping[str, Any]) -> dict[str, Any]:
    """The defense's own fields, and its seed where that is not 0."""
    seed = labels["defense_seed"]
    return {**labels["defense_fields"], **({"seed": seed} if seed else {})}


def _names(labels: Mapping[str, Any]) -> dict[str, str]:
    """The short names that the study gave, the defense's with its seed where that is not 0."""
    names, seed = labels.get("names", {}), labels["defense_seed"]  # an earlier version gave none
    return {**names, "defense": f"{names['defense']} seed={seed}"} if names and seed else names


def _traits(labels: Mapping[str, Any]) -> Traits:
    """What the attack said of its fields; an earlier version stored nothing, and knew them by name."""
    if "traits" not in labels:
        return Traits(_without(labels["fields"], "lr"), pools=tuple(labels["fields"].get("data", ())))
    stored: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in labels["traits"].items()}
    return Traits(**stored)


def _without(value: Any, name: str) -> Any:
    """A written spec without the fields of that name, at any depth."""
    if isinstance(value, Mapping):
        return {key: _without(inner, name) for key, inner in value.items() if key != name}
    return [_without(inner, name) for inner in value] if isinstance(value, list) else value


def _curve(
    place: PlaceRow, points: Sequence[Point], phi: float, watched: str, log: tuple[Mapping[str, float], ...]
) -> Curve:
    labels = place.labels
    points = worst_asked(points, watched, phi)
    broken = [point.budget for point in points if point.readings[watched].value > phi]
    return Curve(
        model=labels["model"],
        defense=labels["defense"],
        attack=labels["attack"],
        fields=labels["fields"],
        seed=labels["seed"],
        t_phi=broken[0] if broken else None,
        censored_at=None if broken else points[-1].budget,
        points=points,
        defense_fields=_defense_fields(labels),
        cell=str(place.cell),
        traits=_traits(labels),
        log=log,
        watched=watched,
        names=_names(labels),
    )


def _answers(session: Session, cells: Sequence[str], readings: Readings) -> dict[int, dict[str, Answers]]:
    """The answers behind readings at each step, by the name of the reading, further judges' scores among them."""
    found: dict[int, dict[str, list[tuple[str, str, float, str]]]] = defaultdict(lambda: defaultdict(list))
    for step, name, item, topic, score, group in (*_own(session, cells), *_further(session, cells, readings)):
        found[step][name].append((item, topic, score, group))
    return {
        step: {name: Answers(*zip(*answers, strict=True)) for name, answers in names.items()}
        for step, names in found.items()
    }


Scored = Iterator[tuple[int, str, str, str, float, str]]
"""Step, name of the reading, item, topic, score and group of an answer."""


def _group(session: Session) -> ColumnElement[str]:
    """An answer's group; its item where an earlier version stored none."""
    row = GenerationRow
    return row.item.expression if "group" in lacking(session, row) else func.coalesce(row.group, row.item)


def _own(session: Session, cells: Sequence[str]) -> Scored:
    row = GenerationRow
    columns = select(row.step, row.measure, row.item, row.topic, row.score, _group(session))
    columns = columns.where(row.cell.in_(cells))
    for answer in session.execute(columns.order_by(row.id)):
        yield answer._tuple()


def _further(session: Session, cells: Sequence[str], readings: Readings) -> Scored:
    """Scores of further judges, of the version that the reading is of; a store of an earlier version has none."""
    if not inspect(session.connection()).has_table(ScoreRow.__tablename__):
        return
    score, row = ScoreRow, GenerationRow
    same = [getattr(row, name) == getattr(score, name) for name in ("cell", "measure", "step", "number")]
    found = (score.step, score.measure, score.judge, score.judge_version)
    rows = select(*found, row.item, row.topic, score.score, _group(session)).join(row, and_(*same))
    rows = rows.where(score.cell.in_(cells)).order_by(score.id)
    for step, measure, judge, version, item, topic, value, group in session.execute(rows):
        name = f"{measure}@{judge}"
        if name in readings.get(step, {}) and readings[step][name].judge_version == version:
            yield step, name, item, topic, value, group


def _samples(session: Session, curve: str, cells: Sequence[str]) -> Iterator[Sample]:
    """Answers to show: not of a measure without a judge, which looks at given completions."""
    row = GenerationRow
    columns = select(row.measure, row.step, row.prompt, row.output, row.score, row.harmful)
    places = [getattr(row, name) == getattr(RecordRow, name) for name in ("cell", "measure", "step")]
    judged = columns.join(RecordRow, and_(*places, RecordRow.own, RecordRow.judge != ""))
    for sample in session.execute(judged.where(row.cell.in_(cells), row.number < SAMPLES).order_by(row.id)):
        yield Sample(curve, *sample)


def _provenance(cells: Iterable[CellRow]) -> dict[str, Any]:
    """What the cells have in common, and every value where they differ."""
    rows = list(cells)
    inputs = [row.inputs for row in rows]
    return {
        "code": _values(found["code"] for found in inputs),
        "data": _values(found["domain"] for found in inputs),
        "packages": _values(found["packages"] for found in inputs),
        "precision": _values(found["precision"] for found in inputs),
        "device": _values(found["device"] for found in inputs),
        "machine": _values({key: value for key, value in row.host.items() if key != NAME} for row in rows),
        "begun": min((f"{row.started:%Y-%m-%d %H:%M} UTC" for row in rows), default=""),
        "finished": max((f"{row.finished:%Y-%m-%d %H:%M} UTC" for row in rows if row.finished), default=""),
    }


def _values(values: Iterable[Any]) -> Any:
    distinct = list({json.dumps(value): value for value in values}.values())
    return distinct[0] if len(distinct) == 1 else distinct
