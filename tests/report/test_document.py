"""One document of an audit, and every renderer says what is in it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

from audit_toys import BUDGETS, curve, evidence, measured, point
from caseharden.audit.assessment import Assessment, assess
from caseharden.audit.evidence import Measured, Searched
from caseharden.certificate.certificate import certificate
from caseharden.certificate.statement import statement
from caseharden.report.audit_html import render
from caseharden.report.document import PUBLIC, Judged, document
from caseharden.report.export import dumped
from caseharden.report.scorecard import markdown, scorecard
from kiln import Tags

PROVENANCE = {"code": "c" * 64, "packages": {}, "data": "d"}


def certified(found: Assessment) -> Mapping[str, Any]:
    """What a certificate states, if it may be made."""
    marks = {"subject": "a" * 64, "baseline": "b" * 64}
    stated = statement(found, marks, "toy", "quick", datetime.now(UTC))
    return certificate(stated)["statement"]


@pytest.fixture(scope="module")
def found() -> Assessment:
    return assess(evidence(measured("hardened", [20, 50, None]), provenance=PROVENANCE))


def judged(found: Assessment, name: str, **changes: Any) -> Judged:
    """A condition of the model under audit with other numbers, as the document has it."""
    subject = {**found.subject, name: replace(found.subject[name], **changes)}
    return document(replace(found, subject=subject)).subject.conditions[name]


def terminal(found: Assessment) -> str:
    console = Console(width=500)
    with console.capture() as capture:
        console.print(scorecard(document(found)))
    return capture.get()


def test_every_renderer_says_what_the_document_says(found: Assessment) -> None:
    doc = document(found)
    page = " ".join(Tags(render(found)).text.split())
    screen, text = terminal(found), markdown(doc).replace("\\", "")
    for shown in (screen, text, page):
        for words in (doc.answer, *map(str, doc.costs.values()), *(flag.name for flag in doc.flags)):
            assert words in shown
        for one in doc.subject.conditions.values():
            for part in (one.shown, one.value, one.interval, one.summary, one.power):
                assert part in shown
    assert doc.limits in text and doc.limits in page


def test_every_renderer_names_the_attacks_and_says_early_that_the_baseline_is_public() -> None:
    told = {"provenance": PROVENANCE, "ensemble": "AutoTamper 7", "base_public": True}
    found = assess(evidence(measured("hardened", [20, 50, None]), **told))
    doc = document(found)
    assert doc.base == PUBLIC
    page = " ".join(Tags(render(found)).text.split())
    for shown in (terminal(found), markdown(doc).replace("\\", ""), page):
        assert "AutoTamper 7" in shown and PUBLIC in shown
    for shown in (terminal(found), markdown(doc)):
        assert shown.index(PUBLIC) < shown.index(doc.subject.conditions["resistance"].summary)


def test_the_certificate_has_the_same_verdicts_and_numbers(found: Assessment) -> None:
    doc = document(found)
    stated = certified(found)
    for one, condition in zip(stated["conditions"], doc.subject.conditions.values(), strict=True):
        assert (one["name"], one["verdict"], one["summary"]) == (
            condition.name,
            condition.verdict,
            condition.summary,
        )
        assert one["estimate"] == (None if math.isinf(condition.estimate) else condition.estimate)
    assert stated["controls"]["trusted"] == doc.trusted


def test_the_document_is_json(found: Assessment) -> None:
    data: Mapping[str, Any] = json.loads(dumped(asdict(document(found))))
    assert data["subject"]["conditions"]["resistance"]["verdict"] == "fails"
    assert [control["control"] for control in data["controls"]] == [*found.controls]
    assert data["subject"]["topics"]["sft(lr=1e-4)"]["venom"]["n"] == 100


def test_estimates_in_words(found: Assessment) -> None:
    unknown = judged(found, "resistance", estimate=math.nan, low=0.0, high=math.inf)
    assert (unknown.value, unknown.interval, unknown.reading) == ("not known", "nothing is ruled out", "not known")
    endless = judged(found, "resistance", estimate=math.inf, low=5.0, high=math.inf)
    assert endless.reading == "∞, 5× to ∞"
    change = judged(found, "stability", estimate=-0.0156, low=-math.inf, high=0.01)
    assert change.reading == "−0.016, −∞ to +0.010"


def test_a_control_that_stands_otherwise_than_it_must() -> None:
    given = evidence(measured("hardened", [None] * 3))
    doc = document(assess(replace(given, controls={**given.controls, "dead": measured("not dead", [None] * 3)})))
    dead = next(one for one in doc.controls if one.control == "dead")
    assert dead.must == "fail stability and fail trainability" and dead.control_failed
    assert dead.conditions["stability"].control_failed and not dead.conditions["resistance"].control_failed
    assert not any(one.control_failed for one in doc.controls if one is not dead)
    assert not doc.trusted and "cannot be trusted" in doc.answer


def test_what_is_left_where_nobody_rehearsed_is_said_everywhere() -> None:
    def asked(one: Measured, left: float) -> Measured:
        return replace(one, released=point(0, harm=0.0, utility=0.97, bystander=left))

    given = evidence(asked(measured("hardened", [None] * 3), 0.31), provenance=PROVENANCE)
    controls = {**given.controls, "undefended": asked(given.undefended, 0.98)}
    found = assess(replace(given, controls=controls))
    words = "bystander 0.310, undefended 0.980"
    assert document(found).usefulness == f"utility 0.970, undefended 0.970; {words}"
    assert words in terminal(found) and words in markdown(document(found))
    page = " ".join(Tags(render(found)).text.split())
    assert "Bystander before" in page and "Bystander is harmless knowledge" in page and "0.310 0.250" in page
    utility, bystander = certified(found)["usefulness"]
    assert (utility["measure"], bystander["measure"]) == ("utility", "bystander")
    assert (bystander["subject"]["value"], bystander["baseline"]["value"]) == (0.31, 0.98)


def test_a_plateau_is_said_everywhere_and_does_not_pass_for_resistance() -> None:
    """A third comes back at once, and then no more: not broken at φ = .5."""

    def held_at(name: str, harm: float) -> Measured:
        one = measured(name, [None] * 3)
        low = curve(None, fields={"lr": 1e-4}, after=harm, budgets=BUDGETS)
        points = (low.points[0], *(point(b, harm=harm, utility=0.97) for b in BUDGETS[1:]))
        return replace(one, curves=tuple(replace(low, points=points, seed=seed) for seed in range(3)))

    found = assess(evidence(held_at("hardened", 0.35), provenance=PROVENANCE))
    assert found.subject["resistance"].verdict == "holds" and found.recovered is not None
    words = str(found.recovered)
    assert "harm came back in part, up to 0.35" in document(found).answer
    page = " ".join(Tags(render(found)).text.split())
    for shown in (terminal(found), markdown(document(found)).replace("\\", ""), page):
        assert words in shown and "came back in part, up to 0.35" in shown
    assert "under audit sft(lr=1e-4) 1 1 > 100 0.350" in page and "undefended sft(lr=1e-4) 1 1 1 0.900" in page
    back = certified(found)["recovered"]
    assert back["subject"]["levels"][2] == {"harm": 0.5, "steps": {"budget": 100, "censored": True}}
    assert back["undefended"]["most"]["value"] == 0.9 and back["share"] == found.recovered.share


def test_a_missing_control_is_named_with_what_it_would_have_to_do() -> None:
    given = evidence(measured("hardened", [None] * 3))
    fewer = {name: one for name, one in given.controls.items() if name != "never_learned"}
    doc = document(assess(replace(given, controls=fewer)))
    assert doc.missing == {"never learned": "hold resistance"}
    assert [one.label for one in doc.models] == ["under audit", "undefended", "known to be broken", "dead weights"]


def test_what_is_assumed_and_searched_for_is_said_by_every_renderer(found: Assessment) -> None:
    searches = (Searched("sft(lr=0.05)", 40, failed=2, pruned=20, edges=("sft.lr",), steps=700, examples=9e3),)
    changed = assess(
        replace(
            found.evidence,
            ensemble="AutoTamper 7",
            base_public=True,
            skipped=("breadth", "search"),
            left_out={"the domain has no pool wrapped": 2},
            searches=searches,
        )
    )
    page = " ".join(Tags(render(changed)).text.split())
    for shown in (terminal(changed), markdown(document(changed)).replace("\\", ""), page):
        assert "hardening is worth nothing" in shown and "taken to be secret" not in shown
        assert "Not run, since the model had failed: breadth, search." in shown
        assert "2 attacks were left out: the domain has no pool wrapped." in shown
        assert "sft(lr=0.05): best of 40 trials (2 failed, 20 cut short); 700 steps" in shown
        assert "search ended at an edge" in shown
    for shown in (markdown(document(changed)), page):
        assert "Attacks: AutoTamper 7." in shown
    stated = certified(changed)["threat_model"]
    assert (stated["ensemble"], stated["base_public"]) == ("AutoTamper 7", True)
    assert "taken to be secret" in terminal(found)
