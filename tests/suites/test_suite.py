"""An audit from its question to its certificate, in a size that takes seconds."""

from __future__ import annotations

import dataclasses
import hashlib
import sqlite3
from datetime import UTC, datetime

import pytest
import torch

import caseharden
from caseharden.attacks import Chain
from caseharden.audit.assessment import assess
from caseharden.audit.cost import search_costs
from caseharden.certificate import certificate
from caseharden.certificate.keys import new_key
from caseharden.certificate.statement import records, statement
from caseharden.data.overlaps import overlaps
from caseharden.defenses import Gibberish
from caseharden.domains import Almanac
from caseharden.errors import CasehardenError
from caseharden.lm import facts
from caseharden.lm import sources as models
from caseharden.lm.facts import fingerprint
from caseharden.lm.lm import LM
from caseharden.report.document import document
from caseharden.report.scorecard import markdown
from caseharden.report.table import scoreboard
from caseharden.store.results import results
from caseharden.store.store import Store
from caseharden.study.build import build
from caseharden.study.run import run_study
from caseharden.suites import question as questions
from caseharden.suites import suite as suites
from caseharden.suites.question import Question
from caseharden.train.tuner import Run
from factories import copy_of
from suite_toys import SMALL

RATES = {
    "attack": {"sft": {"lr": {"log_uniform": [1e-4, 1e-2]}}},
    "budgets": [1],
    "rungs": [],
    "trials": 2,
    "startup": 1,
    "further": 0,
    "questions": 5,
    "seeds": [0],
}


@pytest.fixture(scope="module")
def victim():
    return LM.load(models.resolve("almanac-victim"))


def test_an_attack_that_does_not_say_what_its_fields_mean_is_refused():
    class Silent:
        def steps(self, run):
            raise NotImplementedError

    whole = suites.parse(SMALL, "small")
    for attack in (Silent(), Chain((Silent(),))):
        with pytest.raises(CasehardenError, match="Silent does not say which of its fields are learning rates"):
            dataclasses.replace(whole, stages=(*whole.stages, suites.Stage("further", (attack,))))


def saved(lm: LM, folder):
    lm.save(folder)
    return str(folder)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """The folder of a store that audits share, so that their controls are measured once."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def audited(tmp_path_factory, victim):
    """A model of noise, audited; its question, the store, and what was found."""
    root = tmp_path_factory.mktemp("audit")
    run = Run(copy_of(victim, "noise"), Almanac(), "defender", 0)
    list(run.drive(Gibberish()))
    question = Question(
        saved(run.finish(), root / "noise"),
        "almanac-victim",
        Almanac(defended=("venom",), attacked=("venom",)),
        suites.parse(SMALL, "small"),
        ceiling="almanac-never-learned",
    )
    store = Store(root / "store")
    for spec in question.studies():
        assert [e.what for e in run_study(spec, store, threads=1) if e.what in ("failed", "blocked")] == []
    return question, store, assess(question.evidence(store))


def test_gibberish_is_flagged_and_its_harmlessness_costs_it_stability(audited):
    _, _, found = audited
    assert found.subject["stability"].verdict == "fails"
    assert "capability collapsed" in {one.flag.name for one in found.flags}


def test_the_controls_order_as_they_must_but_for_what_this_size_cannot_show(audited):
    _, _, found = audited
    assert found.controls["undefended"]["resistance"].verdict == "fails"
    assert found.controls["never_learned"]["resistance"].verdict == "holds"
    assert found.controls["dead"]["stability"].verdict == "fails"
    assert found.controls["never_learned"]["trainability"].verdict == "inconclusive"  # it is not taught
    assert not any("undefended" in reason or "never_learned" in reason for reason in found.reasons_to_doubt)


def test_the_evidence_has_answers_logs_and_proof_of_disjoint_data(audited):
    _, _, found = audited
    evidence = found.evidence
    assert evidence.overlaps == 0
    released, attacked = evidence.subject.released.answers, evidence.subject.curves[0].points[-1].answers
    assert len(released["utility"].scores) == len(released["bystander"].scores) == 432
    assert len(attacked["utility"].scores) == 16 and "bystander" not in attacked
    assert "bystander" in found.subject["stability"].tested
    assert [len(curve.log) for curve in evidence.subject.curves] == [2] * 4
    assert {curve.attack for curve in evidence.subject.benign_runs} == {"sft"}


def test_what_a_benign_run_learns_is_nowhere_called_harm(audited):
    question, store, found = audited
    for of in (found.evidence.subject, *found.evidence.controls.values()):
        for curve in of.benign_runs:
            assert {name for point in curve.points for name in point.readings} == {"success"}
    *_, learned = question.studies()
    with pytest.raises(CasehardenError, match="is about success, not harm"):
        scoreboard(results(store, learned.name))


def test_an_audit_again_runs_nothing_and_finds_the_same(audited):
    question, store, found = audited
    for spec in question.studies():
        assert {event.what for event in run_study(spec, store, threads=1)} == {"stored"}
    again = assess(question.evidence(store))
    assert again.subject == found.subject or str(again.subject) == str(found.subject)  # NaN is not NaN
    assert list(records(again.evidence.studies)) != []


def test_a_certificate_speaks_of_these_weights_and_these_records(audited, tmp_path):
    question, store, found = audited
    marks = {
        name: fingerprint(models.resolve(model))
        for name, model in (("subject", question.model), ("baseline", question.baseline))
    }
    stated = statement(found, marks, "almanac", "small", datetime.now(UTC))
    key = new_key(tmp_path / "key.pem")
    text = certificate.as_text(certificate.sign(stated, key))

    def behind() -> str:
        return certificate.digest(records(questions.audited(store, marks["subject"])[question.prefix]))

    assert certificate.verify(text, marks["subject"], records=behind(), signer=key.public_key()).ok
    assert not certificate.verify(text, marks["baseline"]).ok
    with sqlite3.connect(store.folder / "caseharden.db") as database:
        cell = found.evidence.subject.curves[0].cell
        where = "from records where cell = ? and measure = 'harm' limit 1"
        ((row, value),) = database.execute(f"select id, value {where}", (cell,)).fetchall()
        database.execute("update records set value = ? where id = ?", (value + 0.01, row))
        database.commit()
        try:
            assert not certificate.verify(text, marks["subject"], records=behind()).ok
        finally:
            database.execute("update records set value = ? where id = ?", (value, row))
            database.commit()
    assert certificate.verify(text, marks["subject"], records=behind(), signer=key.public_key()).ok


def test_a_change_of_few_directions_is_told_from_one_of_many(victim, tmp_path):
    base = models.resolve("almanac-victim")
    generator = torch.Generator().manual_seed(0)
    for name, rank in (("low", 4), ("full", None)):
        lm = copy_of(victim, name)
        with torch.no_grad():
            for p in lm.model.parameters():
                if p.ndim == 2:
                    noise = torch.randn(p.shape, generator=generator)
                    if rank:
                        noise = noise[:, :rank] @ torch.randn(rank, p.shape[1], generator=generator)
                    p.add_(0.01 * noise)
        share = facts.weight_facts(models.resolve(saved(lm, tmp_path / name)), base)["low_rank"]
        assert share > 0.999 if rank else share < 0.6
    assert "low_rank" not in facts.weight_facts(base, base)


def test_what_did_not_change_is_not_decomposed(victim, tmp_path, monkeypatch):
    lm = copy_of(victim, "one")
    with torch.no_grad():
        changed = next(p for p in lm.model.parameters() if p.ndim == 2 and min(p.shape) >= 4 * facts.DIRECTIONS)
        changed.add_(0.01)
    folder, decomposed = saved(lm, tmp_path / "one"), []
    svdvals = torch.linalg.svdvals
    monkeypatch.setattr(torch.linalg, "svdvals", lambda change: decomposed.append(change) or svdvals(change))
    assert facts.weight_facts(models.resolve(folder), models.resolve("almanac-victim"))["low_rank"] > 0.999
    assert len(decomposed) == 1


def test_weights_are_hashed_once_and_again_when_they_change(victim, tmp_path, monkeypatch):
    folder = tmp_path / "model"
    question = Question(saved(victim, folder), "almanac-victim", Almanac(), suites.parse(SMALL, "small"))
    read, digest = [], hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, how: read.append(file.name) or digest(file, how))
    names = [spec.name for spec in question.studies()]
    assert [spec.name for spec in question.studies()] == names
    assert len(read) == len({*read})
    weights = folder / "model.safetensors"
    assert str(weights) in read
    before, data = fingerprint(folder), bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert fingerprint(folder) != before


def test_shared_facts_are_counted():
    class Leaky(Almanac):
        def pools(self, role):
            return super().pools("attacker" if role == "evaluator" else role)

    assert overlaps(Almanac()) == 0
    assert overlaps(Leaky()) > 0


@pytest.mark.parametrize("name", ["quick", "standard", "thorough"])
def test_every_suite_that_comes_with_the_package_can_be_asked(name):
    question = Question("almanac-never-learned", "almanac-victim", Almanac(), suites.load(name))
    assert all(stage.attacks or stage.searches for stage in question.stages)
    stages = [spec for stage in question.stages for spec in question.attacks(stage)]
    assert question.released().budgets == (0,) and stages and question.benign_runs()
    assert all(spec.budgets[-1] >= question.suite.criteria.horizon for spec in stages)
    assert question.suite.ensemble == f"AutoTamper {suites.VERSION}"
    assert question.studies() == [question.released(), *stages, *question.benign_runs()]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({**SMALL, "attack": []}, "no field 'attack'"),
        ({name: value for name, value in SMALL.items() if name != "attacks"}, "needs attacks"),
        ({**SMALL, "stages": ["blits"]}, "no stage 'blits'.*'blitz'"),
        ({**SMALL, "attacks": [*SMALL["attacks"], {"sft": {"lr": 1e-3}}]}, "twice"),
        ({**SMALL, "harm_n": 0}, "at least one of each"),
        ({**SMALL, "criteria": {"fi": 0.5}}, "no field 'fi'"),
        ({**SMALL, "criteria": {"horizon": 3}}, "not among the budgets"),
        ({**SMALL, "benign_runs": {**SMALL["benign_runs"], "seeds": [0]}}, "two seeds"),
    ],
)
def test_a_wrong_suite_is_an_error_that_names_the_place(given, said):
    with pytest.raises(CasehardenError, match=said):
        suites.parse(given, "mine.yaml")


def test_an_unknown_suite_is_named_with_the_nearest():
    with pytest.raises(CasehardenError, match="'quick'"):
        suites.load("quik")


def test_a_further_stage_is_run_only_where_the_model_has_not_failed_or_somebody_asks(victim, shared, tmp_path):
    two = [
        {"name": "first", "attacks": [{"sft": {"lr": 1e-3}}]},
        {"name": "second", "attacks": [{"sft": {"lr": 3e-3}}], "searches": [RATES]},
    ]
    suite = build({**{k: v for k, v in SMALL.items() if k != "attacks"}, "stages": two}, suites.Suite, "two")
    asked = {"baseline": "almanac-victim", "suite": suite, "store": shared, "threads": 1}
    subject = saved(copy_of(victim, "same"), tmp_path / "same")
    found = caseharden.audit(subject, **asked).evidence
    assert found.skipped == ("second",) and {curve.fields["lr"] for curve in found.subject.curves} == {1e-3}
    whole = caseharden.audit(subject, **asked, every_stage=True).evidence
    rates = {curve.fields["lr"] for curve in whole.subject.curves}
    assert whole.skipped == () and {1e-3, 3e-3} < rates and [one.trials for one in whole.searches] == [2]
    again = caseharden.audit(subject, **asked).evidence
    assert {curve.fields["lr"] for curve in again.subject.curves} == rates
    assert again.skipped == () and again.searches == whole.searches, "of what was run nothing is lost"

    resisting = Question("almanac-never-learned", "almanac-victim", Almanac(), suite)
    store = Store(shared)
    for spec in [resisting.released(), *resisting.attacks(suite.stages[0]), *resisting.benign_runs()]:
        list(run_study(spec, store, threads=1))
    assert not resisting.has_failed(store)
    with pytest.raises(CasehardenError, match="second have not run"):
        resisting.evidence(store)


def test_controls_that_only_show_that_it_works_are_attacked_with_one_seed(audited):
    _, _, found = audited
    evidence = found.evidence
    seeds = {name: {curve.seed for curve in of.curves} for name, of in evidence.controls.items()}
    assert seeds == {"undefended": {0, 1}, "known_broken": {0}, "dead": set(), "never_learned": {0}}
    assert {curve.seed for curve in evidence.subject.curves} == {0, 1}


FAMILY = {"abliterate": {"mlp_max": {"uniform": [0.9, 1.0]}, "n_examples": 20}}
LITTLE = {"trials": 2, "startup": 1, "rungs": [], "further": 0, "confirmed": 1, "seeds": [0], "questions": 8}


def searching(attack, budgets):
    """SMALL with a stage that has nothing but a search."""
    stage = {"name": "looking", "searches": [{"attack": attack, "budgets": budgets, **LITTLE}]}
    rest = {name: value for name, value in SMALL.items() if name != "attacks"}
    return build({**rest, "budgets": [0, 1, 2], "stages": [stage]}, suites.Suite, "searching")


def test_what_a_search_finds_is_run_like_any_attack_and_its_cost_is_told(victim, shared, tmp_path):
    suite = searching(FAMILY, [1])
    asked = {"baseline": "almanac-victim", "suite": suite, "store": shared, "threads": 1}
    found = caseharden.audit(saved(copy_of(victim, "same"), tmp_path / "same"), **asked)
    evidence = found.evidence
    (searched,) = evidence.searches
    assert (searched.trials, searched.failed, searched.failure) == (2, 0, "")
    for of in (evidence.subject, evidence.undefended):
        assert {curve.attack_name for curve in of.curves} == {searched.attack} and len(of.curves) == 2
    (cost,) = search_costs(evidence)
    assert cost.cost.steps == 2 and cost.cost.examples > 0 and cost.cost.flops > 0
    assert f"best of 2 trials (0 failed, 0 cut short); {cost.cost}" in str(cost)
    assert str(cost) in markdown(document(found)).replace("\\", "")


def test_a_search_all_of_whose_trials_fail_leaves_resistance_open(shared):
    broken = {"sft": {"lr": {"uniform": [1e30, 2e30]}, "clip": None}}
    suite = searching(broken, [1, 2])
    suite = dataclasses.replace(
        suite, stages=(dataclasses.replace(suite.stages[0], attacks=suites.parse(SMALL, "small").attacks),)
    )
    asked = {"baseline": "almanac-victim", "suite": suite, "store": shared, "threads": 1}
    found = caseharden.audit("almanac-never-learned", **asked)
    (searched,) = found.evidence.searches
    assert searched.attack == "" and "all 2 trials failed" in searched.failure
    assert found.subject["resistance"].verdict == "inconclusive"
    without = dataclasses.replace(found.evidence, searches=())
    assert assess(without).subject["resistance"].verdict == "holds"
