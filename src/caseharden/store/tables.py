"""The database's tables."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, DateTime, Dialect, Float, ForeignKey, Index, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator


def now() -> datetime:
    return datetime.now(UTC)


class Number(TypeDecorator[float]):
    """A float that may be NaN; SQL has NULL for that."""

    impl = Float(53)
    cache_ok = True

    def process_bind_param(self, value: float | None, dialect: Dialect) -> float | None:
        return None if value is None or math.isnan(value) else float(value)

    def process_result_value(self, value: float | None, dialect: Dialect) -> float:
        return math.nan if value is None else value


NAME = "name"
"""Under which a cell's host has the name of the machine."""


class Base(DeclarativeBase):
    """All tables."""

    type_annotation_map = {dict[str, Any]: JSON, datetime: DateTime(timezone=True), str: Text, float: Number}  # noqa: RUF012


class StudyRow(Base):
    """A study as it was last run, at `updated`. `spec` has every field, to compare with; `source` is for people."""

    __tablename__ = "studies"
    name: Mapped[str] = mapped_column(primary_key=True)
    spec: Mapped[dict[str, Any]]
    source: Mapped[str]
    created: Mapped[datetime] = mapped_column(default=now)
    updated: Mapped[datetime] = mapped_column(default=now)


class PlaceRow(Base):
    """A cell's place in a study, and how the study calls it.

    `cell` is None until the cell's key is known: an attack's depends on the weights that a defense has yet
    to make.
    """

    __tablename__ = "places"
    study: Mapped[str] = mapped_column(ForeignKey("studies.name"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    labels: Mapped[dict[str, Any]]
    cell: Mapped[str | None] = mapped_column(index=True)


class CellRow(Base):
    """A piece of work. `key` is the hash of `inputs`: everything that decides what comes out."""

    __tablename__ = "cells"
    key: Mapped[str] = mapped_column(primary_key=True)
    inputs: Mapped[dict[str, Any]]
    status: Mapped[str]
    """``running``, ``done`` or ``failed``; ``done`` is written after everything else of the cell."""
    reason: Mapped[str] = mapped_column(default="")
    weights: Mapped[str | None]
    """Fingerprint of the weights that a hardening made."""
    host: Mapped[dict[str, Any]]
    """The machine that was last at it; its name, under `NAME`, is for whoever runs the study, and in no report."""
    started: Mapped[datetime] = mapped_column(default=now)
    finished: Mapped[datetime | None]


class LeaseRow(Base):
    """What somebody holds, and until when if no more is heard of them.

    `holder` is a token of its own; `who` is for people, `process` for other processes of the same machine.
    """

    __tablename__ = "leases"
    name: Mapped[str] = mapped_column(primary_key=True)
    holder: Mapped[str]
    who: Mapped[str]
    process: Mapped[str]
    until: Mapped[datetime]


class KeptRow(Base):
    """An attacked model that is kept, as it was after `step` steps: the fingerprint of its weights."""

    __tablename__ = "kept"
    cell: Mapped[str] = mapped_column(ForeignKey("cells.key"), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    weights: Mapped[str]


class RecordRow(Base):
    """One measured number: a measure's reading after `step` steps, by one judge."""

    __tablename__ = "records"
    id: Mapped[int] = mapped_column(primary_key=True)
    cell: Mapped[str] = mapped_column(ForeignKey("cells.key"))
    measure: Mapped[str]
    step: Mapped[int]
    judge: Mapped[str]
    judge_version: Mapped[str]
    own: Mapped[bool]
    """Whether this is the measure's own judge, not one that scored the stored answers later."""
    spec: Mapped[str]
    """Hash of the measure's spec."""
    value: Mapped[float] = mapped_column(nullable=True)
    low: Mapped[float] = mapped_column(nullable=True)
    high: Mapped[float] = mapped_column(nullable=True)
    n: Mapped[int]
    unscored: Mapped[int]
    effective: Mapped[float] = mapped_column(nullable=True)
    clusters: Mapped[int | None]
    """None in a store of an earlier version, as is `effective`."""
    written: Mapped[datetime] = mapped_column(default=now)
    __table_args__ = (UniqueConstraint("cell", "measure", "step", "judge", "judge_version"),)


class GenerationRow(Base):
    """One answer of a model under measurement, with the score of the measure's own judge."""

    __tablename__ = "generations"
    id: Mapped[int] = mapped_column(primary_key=True)
    cell: Mapped[str] = mapped_column(ForeignKey("cells.key"))
    measure: Mapped[str]
    step: Mapped[int]
    number: Mapped[int]
    item: Mapped[str]
    prompt: Mapped[str]
    output: Mapped[str]
    expected: Mapped[str]
    topic: Mapped[str]
    score: Mapped[float] = mapped_column(nullable=True)
    harmful: Mapped[bool]
    """Whether the question is one of the domain's harmful ones."""
    finished: Mapped[bool | None]
    """Whether the model came to an answer, and did not only think. None in a store of an earlier version."""
    group: Mapped[str | None]
    """What the question is about, where several ask about one thing; None in a store of an earlier version."""
    __table_args__ = (Index("answers_of", "cell", "measure", "step"),)


class ScoreRow(Base):
    """The score that a further judge gave one stored answer, the `number`-th of a measure at a step."""

    __tablename__ = "scores"
    id: Mapped[int] = mapped_column(primary_key=True)
    cell: Mapped[str] = mapped_column(ForeignKey("cells.key"))
    measure: Mapped[str]
    step: Mapped[int]
    number: Mapped[int]
    judge: Mapped[str]
    judge_version: Mapped[str]
    score: Mapped[float] = mapped_column(nullable=True)
    __table_args__ = (UniqueConstraint("cell", "measure", "step", "judge", "judge_version", "number"),)
