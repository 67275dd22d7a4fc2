"""One document of an audit, its numbers and words in reading order: renderers lay it out and add nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import caseharden
from caseharden.audit.agreement import Agreement
from caseharden.audit.assessment import MUST, Assessment, Verdicts
from caseharden.audit.conditions import Condition, matrix
from caseharden.audit.cost import Broken, SearchCost, search_costs
from caseharden.audit.evidence import Control, Criteria, Measured
from caseharden.audit.recovered import Recovered
from caseharden.records.results import Reading, is_bystander
from caseharden.report.style import number

QUESTIONS = {
    "resistance": "Does it stay harmless under attack?",
    "stability": "Is it as useful and as safe as before, unattacked?",
    "generalization": "Also on questions that the defense never saw?",
    "trainability": "Is it as quick to learn benign tasks?",
}
LABELS: Mapping[Control, str] = {
    "undefended": "undefended",
    "known_broken": "known to be broken",
    "dead": "dead weights",
    "never_learned": "never learned",
}
ANSWERS = {
    "holds": ("holds", "hold"),
    "fails": ("fails", "fail"),
    "inconclusive": ("is inconclusive", "are inconclusive"),
}
"""A verdict as said of one condition, and of several."""


PUBLIC = (
    "The baseline's weights are public. Whoever takes them has the undefended model, and no attack is needed: "
    "against them the hardening is worth nothing, whatever is found here. It helps where people must use the "
    "hardened weights, as a host does who serves and fine-tunes these and no others, or where these can do what "
    "the baseline cannot."
)
SECRET = "The baseline's weights are taken to be secret. If anybody can have them, audit with --base-public."


@dataclass(frozen=True)
class Judged(Condition):
    """A condition in words. `shown` is the verdict, ``judge-dependent`` where another judge finds otherwise.

    `value` and `interval` are the estimate and its interval; `must` says what a control must be found to do here,
    `control_failed` that it was found otherwise.
    """

    question: str
    shown: str
    value: str
    interval: str
    must: str
    control_failed: bool

    @property
    def reading(self) -> str:
        """The estimate with its interval."""
        return self.value if math.isnan(self.estimate) else f"{self.value}, {self.interval}"


@dataclass(frozen=True)
class Model:
    """The model under audit (`control` is None) or one of its controls.

    `usefulness` is its utility and what is left where nobody rehearses (bystanders), as released; `topics` is harm
    by attack and topic.
    """

    control: Control | None
    label: str
    name: str
    conditions: Mapping[str, Judged]
    usefulness: Mapping[str, Reading]
    topics: Mapping[str, Mapping[str, Reading]]

    @property
    def must(self) -> str:
        """What an audit must find of this control to be believed."""
        return " and ".join(one.must for one in self.conditions.values() if one.must)

    @property
    def control_failed(self) -> bool:
        return any(one.control_failed for one in self.conditions.values())


@dataclass(frozen=True)
class Flagged:
    """A flag that was raised: every place where, what it means and what to do."""

    name: str
    details: tuple[str, ...]
    meaning: str
    advice: str


@dataclass(frozen=True)
class Document:
    """An audit in words and numbers; as JSON it is these fields, by their names."""

    caseharden: str
    answer: str
    """The audit in one sentence."""
    trusted: bool
    reasons_to_doubt: tuple[str, ...]
    subject: Model
    controls: tuple[Model, ...]
    missing: Mapping[str, str]
    """Controls that were not run, and what they would have to do."""
    limits: str
    """What counts as broken, stable and trainable."""
    ensemble: str
    """The attacks' name and version; empty for a suite's own."""
    base: str
    """What is assumed of the baseline's weights, and what the hardening is then worth."""
    usefulness: str
    """Of the model under audit and the undefended one, as released."""
    recovered: Recovered | None
    """How much harm came back under the worst attack, broken or not; None if no attack counts."""
    costs: Mapping[str, Broken]
    searches: tuple[SearchCost, ...]
    """What looking for the strongest attack of each family took."""
    judges: tuple[Agreement, ...]
    flags: tuple[Flagged, ...]
    criteria: Criteria
    studies: tuple[str, ...]
    provenance: Mapping[str, Any]

    @property
    def models(self) -> tuple[Model, ...]:
        """All that were audited, the one under audit first."""
        return self.subject, *self.controls


def document(found: Assessment) -> Document:
    """Everything that an audit found, in the order in which it is read."""
    evidence, criteria = found.evidence, found.evidence.criteria
    undefended = _usefulness(evidence.undefended)
    return Document(
        caseharden=caseharden.__version__,
        answer=answer(found),
        trusted=found.trusted,
        reasons_to_doubt=found.reasons_to_doubt,
        subject=_model(found, None, found.subject),
        controls=tuple(_model(found, name, found.controls[name]) for name in LABELS if name in found.controls),
        missing={
            LABELS[name]: " and ".join(_demands(name).values()) for name in MUST if name not in found.controls
        },
        limits=(
            f"Broken means harm above φ = {criteria.phi:g} within {criteria.horizon} attack steps. Stable means at "
            f"most {criteria.margin:g} worse. Trainable means at most {criteria.slower:g} times the undefended "
            "model's steps. ∞: nothing here says where it ends, since not every run got there."
        ),
        ensemble=evidence.ensemble,
        base=PUBLIC if evidence.base_public else SECRET,
        usefulness="; ".join(
            f"{name} {number(reading.value)}, undefended {number(undefended[name].value)}"
            for name, reading in _usefulness(evidence.subject).items()
            if name in undefended
        ),
        recovered=found.recovered,
        costs={"under audit" if who == "subject" else who: cost for who, cost in found.costs.items()},
        searches=search_costs(evidence),
        judges=found.judges,
        flags=tuple(Flagged(f.flag.name, f.details, f.flag.meaning, f.flag.advice) for f in found.flags),
        criteria=criteria,
        studies=tuple(study.study for study in evidence.studies),
        provenance=evidence.provenance,
    )


def answer(found: Assessment) -> str:
    """The audit in one sentence."""
    if not found.trusted:
        return "This audit cannot be trusted: its controls do not stand as they must."
    verdicts = {name: found.verdict(name) for name in found.subject}
    parts = [
        f"{' and '.join(filter(None, (', '.join(names[:-1]), names[-1])))} {words[len(names) > 1]}"
        for verdict, words in ANSWERS.items()
        if (names := [name for name, got in verdicts.items() if got == verdict])
    ]
    if dependent := found.judge_dependent:
        by = dict.fromkeys(f"{word} by {judge}" for one in dependent for judge, word in one.verdicts.items())
        parts.append(f"resistance depends on the judge ({', '.join(by)})")
    if found.recovered and found.recovered.in_part:
        parts.append(f"not broken, but harm came back in part, up to {found.recovered.subject.most.value:.2f}")
    return f"{found.evidence.subject.name}: {'; '.join(parts)} ({found.evidence.criteria.horizon} attack steps)."


def _model(found: Assessment, control: Control | None, verdicts: Verdicts) -> Model:
    evidence = found.evidence
    of = evidence.controls[control] if control else evidence.subject
    demands = _demands(control)
    judged = {
        name: Judged(
            **vars(condition),
            question=QUESTIONS[name],
            shown=condition.verdict if control else found.verdict(name),
            value=_value(condition, condition.estimate),
            interval=_interval(condition),
            must=demands.get(name, ""),
            control_failed=name in demands and condition.verdict not in MUST[control][name] if control else False,
        )
        for name, condition in verdicts.items()
    }
    label = LABELS[control] if control else "under audit"
    return Model(control, label, of.name, judged, _usefulness(of), matrix(of, evidence.criteria))


def _usefulness(of: Measured) -> dict[str, Reading]:
    return {
        name: reading for name, reading in of.released.readings.items() if name == "utility" or is_bystander(name)
    }


def _demands(control: Control | None) -> dict[str, str]:
    verbs = {"fails": "fail", "holds": "hold"}
    must = MUST[control] if control else {}
    return {name: f"{' or '.join(verbs[word] for word in allowed)} {name}" for name, allowed in must.items()}


def _interval(condition: Condition) -> str:
    low, high = condition.low, condition.high
    if math.isnan(low) or math.isnan(high) or (high == math.inf and low <= 0):
        return "nothing is ruled out"
    return f"{_value(condition, low)} to {_value(condition, high)}"


def _value(condition: Condition, value: float) -> str:
    """A change with its sign, a ratio with ×."""
    if math.isnan(value):
        return "not known"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if condition.name == "stability":
        return f"{value:+.3f}".replace("-", "−")
    return f"{value:.3g}×"
