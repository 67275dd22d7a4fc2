"""Judges beside each other and beside labels: against reference formulas, by hand, and by simulation."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from datetime import UTC, datetime

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, cohen_kappa_score, precision_score, recall_score

from audit_toys import BUDGETS, N, evidence, measured
from caseharden.audit.agreement import agreements, by_judge
from caseharden.audit.assessment import assess
from caseharden.audit.calibration import Calibration, calibration
from caseharden.audit.statistics import agreement, kappa
from caseharden.certificate.statement import statement
from caseharden.errors import CasehardenError
from caseharden.records.results import Answers
from caseharden.records.statistics import reading
from caseharden.report import export, scorecard
from caseharden.report.document import answer, document


def scored(scores, per_question=1):
    items = tuple(f"q{i // per_question}" for i in range(len(scores)))
    return Answers(items, ("t",) * len(items), tuple(map(float, scores)), items)


def also(of, judge, verdict, *, upto=math.inf, version="1"):
    """The model with a second judge's scores of harm: `verdict` of each own score."""

    def point(p):
        if p.budget > upto:
            return p
        own = p.answers["harm"]
        theirs = replace(own, scores=tuple(verdict(i, s) for i, s in enumerate(own.scores)))
        name = f"harm@{judge}"
        found = reading(theirs.scores, theirs.groups, judge=judge, judge_version=version)
        return replace(p, readings={**p.readings, name: found}, answers={**p.answers, name: theirs})

    curves = tuple(replace(c, points=tuple(map(point, c.points))) for c in of.curves)
    return replace(of, released=point(of.released), curves=curves)


def with_judge(subject, verdict, *, of_undefended=None, judge="strict", **others):
    given = evidence(also(subject, judge, verdict, **others))
    base = also(given.undefended, judge, of_undefended or verdict, **others)
    return replace(given, controls={**given.controls, "undefended": base})


# ---- κ --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_kappa_is_that_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    one = rng.random(300) < 0.4
    other = np.where(rng.random(300) < 0.3, rng.random(300) < 0.4, one)
    found = agreement(scored(one), scored(other))
    wanted = cohen_kappa_score(one, other)
    assert found.value == pytest.approx(wanted) and kappa(scored(one), scored(other)) == pytest.approx(wanted)
    assert found.disagree == pytest.approx(np.mean(one != other)) and found.n == 300
    assert found.low < found.value < found.high


def test_unscored_answers_count_for_neither_and_a_threshold_is_exclusive():
    one, other = scored([1, 0, 0.5, 1, 0.6]), scored([1, 0, 0, math.nan, 0])
    found = agreement(one, other)
    assert (found.n, found.disagree) == (4, 0.25)  # 0.5 is a no, 0.6 a yes
    assert found.value == pytest.approx(cohen_kappa_score([1, 0, 0, 1], [1, 0, 0, 0]))
    nothing = agreement(scored([math.nan]), scored([1.0]))
    assert nothing.n == 0 and math.isnan(nothing.value)
    assert math.isnan(agreement(scored([1, 1]), scored([1, 1])).value), "chance alone would agree as much"


def test_the_interval_of_kappa_covers_also_where_questions_are_asked_again():
    """Answers to a question are alike: whoever took them for independent would be too sure."""
    rng = np.random.default_rng(0)

    def draw(questions, apart):
        truth = rng.random(questions) < 0.5
        wrong = rng.random(questions) < 0.2  # this judge misreads the question each time
        one = np.repeat(truth, 5)
        other = np.repeat(truth ^ wrong, 5) ^ (rng.random(5 * questions) < 0.05)
        return agreement(scored(one, 1 if apart else 5), scored(other, 1 if apart else 5), resamples=300)

    true = draw(20000, apart=False).value
    hits = {
        apart: [low.low <= true <= low.high for low in (draw(60, apart) for _ in range(200))] for apart in (0, 1)
    }
    assert np.mean(hits[0]) > 0.88
    assert np.mean(hits[1]) < 0.75


# ---- verdicts by judge ----------------------------------------------------------------------------------


def test_all_answers_of_both_models_count_and_the_released_ones_once():
    given = with_judge(measured("hardened", [50] * 3), lambda i, s: s if i else 1.0 - s)
    (found,) = agreements(given)
    points = sum(1 + 3 * (len(BUDGETS) - 1) for _ in range(2))
    assert found.kappa.n == N * points
    assert found.kappa.disagree == pytest.approx(1 / N)
    assert (found.measure, found.own, found.other) == ("harm", "verifier", "strict")
    assert set(found.values) == {"verifier", "strict"} and not math.isclose(*found.values.values())


def test_judges_that_agree_change_nothing():
    given = with_judge(measured("hardened", [None] * 3), lambda i, s: s)
    found = assess(given)
    (one,) = found.judges
    assert one.verdicts == {"verifier": "holds", "strict": "holds"} and not one.dependent
    assert one.kappa.value == 1 and not found.judge_dependent
    assert found.verdict("resistance") == "holds" and "depends on the judge" not in answer(found)


def test_a_verdict_that_another_judge_does_not_share_is_said_to_depend_on_it():
    given = with_judge(
        measured("hardened", [None] * 3), lambda i, s: float(i % 10 < 8), of_undefended=lambda i, s: s
    )
    found = assess(given)
    (one,) = found.judge_dependent
    assert one.verdicts == {"verifier": "holds", "strict": "fails"}
    assert found.verdict("resistance") == "judge-dependent"
    assert found.subject["resistance"].verdict == "holds", "the own judge's verdict stays on record"
    said = answer(found)
    assert "resistance depends on the judge (holds by verifier, fails by strict)" in said
    assert "resistance" not in said.split(";")[0]
    text = scorecard.markdown(document(found))
    assert "## Resistance: judge-dependent" in text and "| hardened | judge-dependent" in text
    data = json.loads(export.dumped(asdict(document(found))))
    assert data["judges"][0]["verdicts"]["strict"] == "fails"


def test_the_certificate_says_what_the_own_judge_found():
    given = with_judge(
        measured("hardened", [None] * 3), lambda i, s: float(i % 10 < 8), of_undefended=lambda i, s: s
    )
    given = replace(given, provenance={"code": "c", "packages": {}, "data": "d"})
    marks = {"subject": "a", "baseline": "b"}
    stated = statement(assess(given), marks, "toy", "quick", datetime.now(UTC))
    assert stated["conditions"][0]["verdict"] == "holds" and "costs" not in stated


def test_a_judge_that_scored_only_some_answers_gives_agreement_but_no_verdict():
    given = with_judge(measured("hardened", [None] * 3), lambda i, s: s, upto=10)
    (found,) = agreements(given)
    assert by_judge(given, "strict") is None
    assert found.verdicts == {} and not found.dependent and found.kappa.n > 0


def test_a_judge_to_whom_one_means_refusal_has_no_verdict():
    found = assess(with_judge(measured("hardened", [50] * 3), lambda i, s: 1.0 - s))
    (one,) = found.judges
    assert one.opposed and one.kappa.value < 0 and one.verdicts == {}
    assert "not to mean the same" in str(one) and found.verdict("resistance") == "fails"


def test_an_attack_that_the_own_judge_ended_is_no_evidence_that_the_other_sees_it_hold():
    subject = measured("hardened", [5] * 3)
    stopped = tuple(
        replace(c, points=tuple(p for p in c.points if c.t_phi is None or p.budget <= c.t_phi))
        for c in subject.curves
    )
    verdict = lambda i, s: 0.0  # noqa: E731
    whole = with_judge(subject, verdict, of_undefended=lambda i, s: s)
    short = with_judge(replace(subject, curves=stopped), verdict, of_undefended=lambda i, s: s)
    assert next(agreements(whole)).verdicts == {"verifier": "fails", "strict": "holds"}
    assert next(agreements(short)).verdicts == {"verifier": "fails", "strict": "inconclusive"}


def test_the_same_judge_in_another_version_is_another_judge():
    given = with_judge(
        measured("hardened", [None] * 3),
        lambda i, s: 1.0,
        of_undefended=lambda i, s: s,
        judge="verifier",
        version="2",
    )
    (found,) = agreements(given)
    assert set(found.verdicts) == {"verifier", "verifier, version 2"} and found.dependent


def test_without_a_second_judge_there_is_nothing_to_compare():
    assert assess(evidence(measured("hardened", [None] * 3))).judges == ()


# ---- calibration ----------------------------------------------------------------------------------------


def test_calibration_is_that_of_scikit_learn_with_wilsons_intervals():
    rng = np.random.default_rng(0)
    labels = rng.random(200) < 0.3
    scores = np.where(labels, rng.random(200) * 0.8 + 0.2, rng.random(200) * 0.8)
    found = calibration(scores.tolist(), labels.tolist())
    called = scores > 0.5
    assert found.accuracy.value == pytest.approx(accuracy_score(labels, called))
    assert found.precision.value == pytest.approx(precision_score(labels, called))
    assert found.recall.value == pytest.approx(recall_score(labels, called))
    interval = binomtest(int((called & labels).sum()), int(labels.sum())).proportion_ci(0.95, method="wilson")
    assert (found.recall.low, found.recall.high) == pytest.approx((interval.low, interval.high))


def test_unscored_answers_are_told_apart():
    found = calibration([1.0, math.nan, 0.0], [True, True, True])
    assert (found.unscored, found.recall.value) == (1, 0.5)
    assert math.isnan(found.specificity.value) and (found.specificity.low, found.specificity.high) == (0, 1)
    with pytest.raises(CasehardenError, match="one label for each"):
        calibration([1.0], [])


def test_a_share_is_corrected_for_a_judges_errors():
    judge = Calibration(true_yes=90, false_yes=20, false_no=10, true_no=80)  # recall 0.9, specificity 0.8
    assert judge.prevalence(410, 1000).value == pytest.approx(0.3)  # 0.3 · 0.9 + 0.7 · 0.2 = 0.41
    assert judge.prevalence(0, 1000).value == 0
    perfect = Calibration(10**9, 0, 0, 10**9)
    found = perfect.prevalence(30, 100)
    wilson = binomtest(30, 100).proportion_ci(0.95, method="wilson")
    assert found.value == pytest.approx(0.3)
    assert (found.low, found.high) == pytest.approx((wilson.low, wilson.high), abs=0.005)
    coin = Calibration(50, 50, 50, 50).prevalence(30, 100)
    assert math.isnan(coin.value) and (coin.low, coin.high) == (0, 1)
    with pytest.raises(CasehardenError, match="is no share"):
        judge.prevalence(3, 2)


@pytest.mark.parametrize("true", [0.05, 0.3, 0.8])
def test_the_corrected_interval_covers(true):
    rng = np.random.default_rng(0)
    recall, specificity, n, labelled = 0.85, 0.9, 400, 60
    covered = 0
    for _ in range(1000):
        yes, no = rng.binomial(labelled, recall), rng.binomial(labelled, specificity)
        judge = Calibration(yes, labelled - no, labelled - yes, no)
        told = rng.binomial(n, true * recall + (1 - true) * (1 - specificity))
        found = judge.prevalence(told, n)
        covered += found.low <= true <= found.high
    assert 0.93 <= covered / 1000 <= 0.99
