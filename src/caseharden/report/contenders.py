"""The models of an audit as its page plots them, and what became of each under attack."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from caseharden.audit.conditions import span
from caseharden.audit.evidence import Control, Evidence, Measured
from caseharden.audit.resistance import AttackRuns
from caseharden.audit.survival import Span, Step, kaplan_meier
from caseharden.records.results import Curve, Point
from caseharden.report.document import Document, Model
from caseharden.report.style import COLORS, CONTROL, MARKERS, Plotted, Style

STYLES: Mapping[Control | None, Style] = {
    None: Style(COLORS[0], MARKERS[0], "solid"),
    "undefended": CONTROL,
    "known_broken": Style(COLORS[1], MARKERS[1], "dash"),
    "dead": Style(COLORS[3], MARKERS[4], "dot"),
    "never_learned": Style(COLORS[2], MARKERS[2], "dashdot"),
}


@dataclass(frozen=True)
class SurvivalCurve:
    """How long attack runs lasted: how many there were, how many broke the model, and the survival curve.

    `last` is the last number of attack steps that any of them was looked at after.
    """

    runs: int
    broken: int
    last: int
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Contender:
    """One model of an audit: what the document says of it (`model`), and what was measured."""

    model: Model
    measured: Measured
    evidence: Evidence

    @property
    def style(self) -> Style:
        return STYLES[self.model.control]

    @cached_property
    def counting(self) -> tuple[AttackRuns, ...]:
        """The attacks that say something."""
        return tuple(self.evidence.counting(self.measured))

    @cached_property
    def worst(self) -> AttackRuns:
        """Of the attacks that count, or of all if none does."""
        return self.evidence.worst(self.counting or self.measured.attacks)

    @cached_property
    def after(self) -> Point:
        """After the worst attack: each run where its harm is highest within the horizon, pooled over seeds."""
        return self.worst.end(self.evidence.criteria.horizon)

    @cached_property
    def survival(self) -> SurvivalCurve:
        """All attacks that count together."""
        curves = [curve for runs in self.counting for curve in runs.curves]
        return SurvivalCurve(
            runs=len(curves),
            broken=sum(curve.t_phi is not None for curve in curves),
            last=max((curve.points[-1].budget for curve in curves), default=0),
            steps=kaplan_meier([survival_span(curve) for curve in curves], self.evidence.criteria.confidence),
        )

    def plotted(self, runs: AttackRuns) -> Plotted:
        return Plotted(runs, self.style, self.model.label, runs.name)


def contenders(doc: Document, evidence: Evidence) -> list[Contender]:
    """The model under audit first, then its controls."""
    return [
        Contender(model, evidence.controls[model.control] if model.control else evidence.subject, evidence)
        for model in doc.models
    ]


def survival_span(curve: Curve) -> Span:
    """When a run broke (see `conditions.span`); one that was broken from the start broke at once."""
    return Span(0.0, 0.5) if curve.t_phi == 0 else span(curve)


def pareto_front(points: Sequence[Point]) -> list[bool]:
    """Which points no other beats: one with no more harm and no less utility, and better in one of them.

    By the estimates alone; a point without a score is on no front.
    """
    at = [(point.readings["utility"].value, -point.readings["harm"].value) for point in points]
    return [
        not any(map(math.isnan, mine))
        and not any(other != mine and other[0] >= mine[0] and other[1] >= mine[1] for other in at)
        for mine in at
    ]
