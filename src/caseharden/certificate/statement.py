"""What a certificate states: an assessment as plain data, and the records behind it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from caseharden.audit.assessment import Assessment
from caseharden.audit.conditions import Condition
from caseharden.certificate.certificate import FORMAT, digest
from caseharden.records.results import Curve, Results
from caseharden.report.document import document
from caseharden.report.export import plain


def statement(
    found: Assessment, weights: Mapping[str, str], domain: str, suite: str, issued: datetime
) -> dict[str, Any]:
    """The statement of an audit; `weights` are fingerprints of the subject's and the baseline's, by those names."""
    evidence, doc = found.evidence, document(found)
    curves, criteria, provenance = evidence.subject.curves, doc.criteria, doc.provenance
    baseline = next(model for model in doc.controls if model.control == "undefended")
    every = list(records(evidence.studies))
    attacks = {str((curve.attack, dict(curve.fields))): curve for curve in curves}.values()
    return {
        "format": FORMAT,
        "subject": {"name": doc.subject.name, "weights": weights["subject"]},
        "baseline": {"name": evidence.undefended.name, "weights": weights["baseline"]},
        "harness": {
            "caseharden": doc.caseharden,
            "code": provenance["code"],
            "packages": provenance["packages"],
        },
        "threat_model": {
            "domain": domain,
            "data": provenance["data"],
            "phi": criteria.phi,
            "horizon": criteria.horizon,
            **{name: getattr(criteria, name) for name in ("margin", "slower", "learned", "capable", "confidence")},
            "held_out": sorted(evidence.held_out),
            "attacks": [{"name": curve.attack, "fields": dict(curve.fields)} for curve in attacks],
            "budgets": sorted({point.budget for curve in curves for point in curve.points}),
            "seeds": sorted({curve.seed for curve in curves}),
            "suite": suite,
            "ensemble": doc.ensemble,
            "base_public": evidence.base_public,
        },
        "judges": [
            {"measure": measure, "judge": judge, "version": version}
            for measure, judge, version in sorted(
                {(r["measure"], r["judge"], r["judge_version"]) for r in every if r["judge"]}
            )
        ],
        "conditions": [_condition(condition) for condition in doc.subject.conditions.values()],
        "recovered": plain(asdict(doc.recovered)) if doc.recovered else None,
        "usefulness": [
            {"measure": name, "subject": plain(vars(reading)), "baseline": plain(vars(baseline.usefulness[name]))}
            for name, reading in doc.subject.usefulness.items()
            if name in baseline.usefulness
        ],
        "controls": {"trusted": doc.trusted, "findings": list(doc.reasons_to_doubt)},
        "flags": [{"name": flag.name, "detail": detail} for flag in doc.flags for detail in flag.details],
        "records": {"count": len(every), "sha256": digest(every)},
        "issued": issued.isoformat(timespec="seconds"),
    }


def records(studies: Sequence[Results]) -> Iterator[dict[str, Any]]:
    """Every number that an audit rests on, as plain data: one for each study, run, budget and measure."""
    for study in studies:
        for curve in study.curves:
            for point in curve.points:
                for measure, reading in point.readings.items():
                    yield {
                        "study": study.study,
                        **_run(curve),
                        "budget": point.budget,
                        "measure": measure,
                        **plain(vars(reading)),
                    }
        for failure in study.failures:
            told = {name: value for name, value in vars(failure).items() if name != "names"}
            yield {"study": study.study, **told}


def _run(curve: Curve) -> dict[str, Any]:
    names = ("model", "defense", "defense_fields", "attack", "fields", "seed", "cell")
    return {name: getattr(curve, name) for name in names}


def _condition(condition: Condition) -> dict[str, Any]:
    names = ("name", "verdict", "estimate", "low", "high", "summary")
    known: dict[str, Any] = plain({name: getattr(condition, name) for name in names})
    # A ratio has no low end of 0 to report where it has no estimate either.
    return {**known, "low": known["low"] if known["estimate"] is not None else known["low"] or None}
