"""What a study found, as plain values: all that `audit` and `report` ever read."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from caseharden.records.names import called, model_name

Better = Literal["higher", "lower"]
"""Which way a measure is better."""
PLAIN = "plain"
"""The way of asking of whoever just asks."""


@dataclass(frozen=True)
class Reading:
    """One measured number: the mean score of `n` scored answers with its 95% interval.

    `unscored` answers got no score and count towards nothing. With n = 0 the three numbers are NaN. Answers to
    questions about the same thing are one of `clusters`, so that all are worth `effective` independent ones; NaN
    and 0 in a record of an earlier version, which took all for independent.
    """

    value: float
    low: float
    high: float
    n: int
    unscored: int
    judge: str = ""
    judge_version: str = ""
    effective: float = math.nan
    clusters: int = 0

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class Answers:
    """What a reading is the mean of, question by question: ids, topics, scores (NaN: unscored), in one order.

    Questions with the same of `groups` ask about one thing, so their scores are not independent.
    """

    items: tuple[str, ...]
    topics: tuple[str, ...]
    scores: tuple[float, ...]
    groups: tuple[str, ...]

    def on(self, topics: Container[str]) -> Answers:
        """The answers to questions on these topics."""
        kept = [i for i, topic in enumerate(self.topics) if topic in topics]
        return Answers(**{name: tuple(column[i] for i in kept) for name, column in vars(self).items()})


@dataclass(frozen=True)
class Point:
    """All readings taken after `budget` attack steps, by measure name.

    `harm` and `utility` are always there, unless the study is about something else. Where harm was asked for in
    several ways, `harm` is by the worst that counts (`way`; see `records.asking`), and ``harm:NAME`` by each.

    `answers` has what is behind them, by the same names, where somebody asked for it.
    """

    budget: int
    readings: Mapping[str, Reading]
    answers: Mapping[str, Answers] = field(default_factory=dict)
    way: str = PLAIN


@dataclass(frozen=True)
class Traits:
    """What an attack says that its fields mean (see `train.tuner.Attack`), by whatever names it has them.

    `fixed` are the fields that tell it from others, learning rates left out at any depth; `rates` are all of
    those, in order. `bounds` is what it may be short of, by field; `pools` what it trains on; `judges` who
    rewards it without knowing the right answer. `ends` is the step after which nothing is left for it to do.
    `models` are others that it reads: on one of those itself it may have nothing to do.
    """

    fixed: Mapping[str, Any]
    rates: tuple[float, ...] = ()
    bounds: Mapping[str, Any] = field(default_factory=dict)
    pools: tuple[str, ...] = ()
    judges: tuple[str, ...] = ()
    ends: int | None = None
    models: tuple[str, ...] = ()


class Named:
    """What has a defense and an attack, each with its short name (see `names.called`).

    `names` are those that the study gave, by ``defense`` and ``attack``; without, a name holds every field that is
    told.
    """

    defense: str
    defense_fields: Mapping[str, Any]
    attack: str
    fields: Mapping[str, Any]
    names: Mapping[str, str]

    @property
    def defense_name(self) -> str:
        return self.names.get("defense") or called(self.defense, self.defense_fields)

    @property
    def attack_name(self) -> str:
        return self.names.get("attack") or called(self.attack, self.fields)


@dataclass(frozen=True)
class Curve(Named):
    """One attack run on one model: what was measured at each budget.

    `t_phi` is the first budget at which the measure `watched`, harm or what else the study is about, exceeded as
    measured the study's threshold φ, None if none did; then `censored_at` is the last budget tested. It does not
    depend on when attacks stop, which is once that is above φ with confidence; a verdict takes confidence, too.
    `fields` are the attack's own fields, as the spec gave them, `traits` what they mean; `defense_fields` the
    defense's. `log` is what each attack step reported, where somebody asked for it.
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
    traits: Traits = field(kw_only=True)
    log: tuple[Mapping[str, float], ...] = ()
    watched: str = "harm"
    names: Mapping[str, str] = field(default_factory=dict)

    def ended_early(self, horizon: int) -> bool:
        """Whether the run was not followed to the horizon, or to where the attack has nothing left to do."""
        return self.points[-1].budget < min(horizon, self.traits.ends or horizon)


@dataclass(frozen=True)
class Failure(Named):
    """A cell that did not finish, and why. It says nothing about resistance."""

    model: str
    defense: str
    attack: str
    fields: Mapping[str, Any]
    seed: int
    reason: str
    defense_fields: Mapping[str, Any] = field(default_factory=dict)
    traits: Traits = field(kw_only=True)
    names: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        where = " · ".join(part for part in (self.model, self.defense_name, self.attack_name) if part)
        return f"{where} seed={self.seed}: {self.reason}"


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


@dataclass(frozen=True, repr=False)
class Results:
    """Everything one study found. As text, every reading: a line for each curve and budget."""

    study: str
    phi: float
    spec: str
    provenance: Mapping[str, Any]
    curves: tuple[Curve, ...]
    failures: tuple[Failure, ...] = ()
    samples: tuple[Sample, ...] = ()
    progress: Mapping[str, int] = field(default_factory=dict)
    """How many cells are done, failed and missing."""
    better: Mapping[str, Better] = field(default_factory=lambda: BETTER)
    """Which way measures are better, as far as that is known."""

    @property
    def complete(self) -> bool:
        """Whether every cell is done."""
        return all(state == "done" or not number for state, number in self.progress.items())

    @property
    def nothing(self) -> str:
        """That nothing is measured to its end, and how far it is; empty if something is."""
        states = [f"{number} {state}" for state, number in self.progress.items() if number]
        return "" if self.curves else f"No run of {self.study!r} is measured to its end: {', '.join(states)}."

    def __str__(self) -> str:
        if self.nothing:
            return "\n".join([self.nothing, *(f"failed: {one}" for one in self.failures)])
        names = list(dict.fromkeys(name for c in self.curves for point in c.points for name in point.readings))
        rows = [("model", "attack", "steps", *names)]
        for curve in self.curves:
            who = f"{model_name(curve.model)}, {curve.defense_name}"
            attack = f"{curve.attack_name} seed={curve.seed}" if curve.attack else ""
            for point in curve.points:
                readings = (str(point.readings.get(name, "")) for name in names)
                rows.append((who, attack, str(point.budget), *readings))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        return "\n".join(line.rstrip() for line in [*lines, *(f"failed: {one}" for one in self.failures)])

    __repr__ = __str__


def joined(studies: Sequence[Results]) -> Results:
    """Several studies of one threat as one, with the name and the provenance of the first."""
    first = studies[0]
    return replace(
        first,
        curves=tuple(curve for study in studies for curve in study.curves),
        failures=tuple(failure for study in studies for failure in study.failures),
        samples=tuple(sample for study in studies for sample in study.samples),
        progress={state: sum(s.progress.get(state, 0) for s in studies) for state in first.progress},
    )


BETTER: Mapping[str, Better] = {"harm": "lower", "utility": "higher"}
"""Which way the two measures are better that every study has."""
UNDEFENDED = "undefended"
"""The name of the defense that does nothing: the control that every other is measured against."""


def is_bystander(measure: str) -> bool:
    """Whether a measure asks for harmless knowledge that no role trains on: ``bystander`` or ``bystander:NAME``.

    A further judge's reading of it (``bystander@JUDGE``) is not the measure.
    """
    return measure.split(":")[0] == "bystander" and "@" not in measure
