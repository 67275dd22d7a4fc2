"""The models of an audit as its page shows them: what each is called, how it is plotted, and what became of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from caseharden.audit.assessment import MUST, Assessment, Verdicts
from caseharden.audit.conditions import span, worst_case
from caseharden.audit.evidence import Control, Evidence, Measured
from caseharden.audit.resistance import AttackRuns
from caseharden.audit.survival import Span, Step, kaplan_meier
from caseharden.records.results import Curve, Point
from caseharden.report.style import COLORS, CONTROL, MARKERS, Plotted, Style

SUBJECT = ("under audit", Style(COLORS[0], MARKERS[0], "solid"))
CONTROLS: Mapping[Control, tuple[str, Style]] = {
    "undefended": ("undefended", CONTROL),
    "known_broken": ("known to be broken", Style(COLORS[1], MARKERS[1], "dash")),
    "dead": ("dead weights", Style(COLORS[3], MARKERS[4], "dot")),
    "never_learned": ("never learned", Style(COLORS[2], MARKERS[2], "dashdot")),
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
    """The model under audit, or one of its controls; `control` is None for the former."""

    control: Control | None
    measured: Measured
    verdicts: Verdicts
    label: str
    style: Style
    evidence: Evidence

    @cached_property
    def counting(self) -> tuple[AttackRuns, ...]:
        """The attacks that say something."""
        return tuple(self.evidence.counting(self.measured))

    @cached_property
    def worst(self) -> AttackRuns:
        """Of the attacks that count, or of all if none does."""
        return worst_case(self.counting or self.measured.attacks, self.evidence.criteria)

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

    @property
    def must(self) -> str:
        """What this control has to do for the audit to be believed, in words."""
        return " and ".join(_demands(self.control))

    def control_failed(self, condition: str) -> bool:
        """Whether this control got another verdict on the condition than it must."""
        allowed = MUST[self.control].get(condition) if self.control else None
        return allowed is not None and self.verdicts[condition].verdict not in allowed

    @property
    def stands(self) -> bool:
        return not any(self.control_failed(name) for name in self.verdicts)

    def plotted(self, runs: Sequence[AttackRuns], attack: Callable[[AttackRuns], str]) -> list[Plotted]:
        return [Plotted(each, self.style, self.label, attack(each)) for each in runs]


def contenders(found: Assessment) -> list[Contender]:
    """The model under audit first, then its controls."""
    evidence = found.evidence
    first = Contender(None, evidence.subject, found.subject, *SUBJECT, evidence)
    others = [
        Contender(name, evidence.controls[name], found.controls[name], *look, evidence)
        for name, look in CONTROLS.items()
        if name in found.controls
    ]
    return [first, *others]


def absent(found: Assessment) -> list[tuple[str, str]]:
    """Controls that were not run: their names, and what they would have to do."""
    return [(CONTROLS[name][0], " and ".join(_demands(name))) for name in MUST if name not in found.controls]


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


def _demands(control: Control | None) -> Iterator[str]:
    verbs = {"fails": "fail", "holds": "hold"}
    for condition, allowed in (MUST[control] if control else {}).items():
        yield f"{' or '.join(verbs[word] for word in allowed)} {condition}"
