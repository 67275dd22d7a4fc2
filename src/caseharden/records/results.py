"""What a study found, as plain values: all that `audit` and `report` ever read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Reading:
    """One measured number: the mean score of `n` scored answers with its 95% interval.

    `unscored` answers got no score and count towards nothing. With n = 0 the three numbers are NaN.
    """

    value: float
    low: float
    high: float
    n: int
    unscored: int
    judge: str = ""
    judge_version: str = ""


@dataclass(frozen=True)
class Answers:
    """What a reading is the mean of, question by question: ids, topics, scores (NaN: unscored), in one order.

    Questions with the same of `groups` ask about one thing, so their scores are not independent.
    """

    items: tuple[str, ...]
    topics: tuple[str, ...]
    scores: tuple[float, ...]
    groups: tuple[str, ...]


@dataclass(frozen=True)
class Point:
    """All readings taken after `budget` attack steps, by measure name; `harm` and `utility` are always there.

    `answers` has what is behind them, by the same names, where somebody asked for it.
    """

    budget: int
    readings: Mapping[str, Reading]
    answers: Mapping[str, Answers] = field(default_factory=dict)


@dataclass(frozen=True)
class Curve:
    """One attack run on one model: what was measured at each budget.

    `t_phi` is the first budget at which harm exceeded the study's threshold φ, None if none did; then
    `censored_at` is the last budget tested. `fields` are the attack's own fields, as the spec gave them;
    `defense_fields` the defense's. `log` is what each attack step reported, where somebody asked for it.
    """

    model: str
    defense: str
    attack: str
    fields: Mapping[str, Any]
    seed: int
    t_phi: int | None
    censored_at: int | None
    points: tuple[Point, ...]
    defense_fields: Mapping[str, Any] = field(default_factory=dict)
    cell: str = ""
    log: tuple[Mapping[str, float], ...] = ()


@dataclass(frozen=True)
class Failure:
    """A cell that did not finish, and why. It says nothing about resistance."""

    model: str
    defense: str
    attack: str
    fields: Mapping[str, Any]
    seed: int
    reason: str
    defense_fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """One stored answer, for drill-down; `harmful` marks those that a report redacts by default."""

    cell: str
    measure: str
    budget: int
    prompt: str
    output: str
    score: float
    harmful: bool


@dataclass(frozen=True)
class Results:
    """Everything one study found."""

    study: str
    phi: float
    spec: str
    provenance: Mapping[str, Any]
    curves: tuple[Curve, ...]
    failures: tuple[Failure, ...] = ()
    samples: tuple[Sample, ...] = ()
    progress: Mapping[str, int] = field(default_factory=dict)
    """How many cells are done, failed and missing."""


UNDEFENDED = "undefended"
"""The name of the defense that does nothing: the control that every other is measured against."""
