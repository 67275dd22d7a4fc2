"""Studies from end to end on a tiny model: what is stored, what fails, what is done again and what is not."""

import json
import math
import multiprocessing
import os
import random
import shutil
import sys
import time
from dataclasses import replace

import pytest
from sqlalchemy import select

from caseharden.attacks import GRPO, SFT
from caseharden.bilevel.watch import Watch
from caseharden.defenses import TAR, Patcher, SafetySFT
from caseharden.engines.transformers import Transformers
from caseharden.errors import CasehardenError
from caseharden.judges.verifier import Verifier
from caseharden.measures.choice import MultipleChoice
from caseharden.measures.probe import Probe
from caseharden.rl.rewards import Entropy
from caseharden.store.log import StepLog
from caseharden.store.results import results
from caseharden.store.store import Store
from caseharden.store.tables import RecordRow
from caseharden.study.rescore import rescore
from caseharden.study.run import run_study
from study_toys import HARD_TO_RESUME, Fails, Logged, Moved, contents, outcomes, run, run_in, study
from toys import Checksum, Short


def test_a_study_runs_and_running_it_again_does_nothing(model, store):
    spec = study(model, seeds=(0, 1))
    assert outcomes(run(spec, store)) == ["done"] * 7  # a hardening, two releases, four attacks
    before = contents(store)
    assert len(before["records"]) == 2 * (2 + 4 * 2)  # two measures; budget 0 once for each released model
    assert outcomes(run(spec, store)) == ["stored"] * 7
    assert contents(store) == before
    assert not list((store.folder / "checkpoints").glob("*"))
    assert len(list((store.folder / "weights").iterdir())) == 1  # the hardened model, and no attacked one


def test_curves_begin_at_the_released_model(model, store, tiny_lm):
    spec = study(model, measures={"harm": Moved(tiny_lm.weights_hash())}, seeds=(0, 1))
    run(spec, store)
    found = results(store)
    assert found.progress == {"done": 7, "failed": 0, "missing": 0}
    assert [curve.seed for curve in found.curves] == [0, 1, 0, 1]
    for curve in found.curves:
        assert [point.budget for point in curve.points] == [0, 2, 3]
        assert set(curve.points[0].readings) == {"harm", "utility"}
        hardened = curve.defense == "safety_sft"
        assert [point.readings["harm"].value for point in curve.points] == [float(hardened), 1.0, 1.0]
        assert (curve.t_phi, curve.censored_at) == (0 if hardened else 2, None)
    assert found.curves[0].fields == {"lr": 0.01, "batch_size": 4}
    assert {curve.defense for curve in found.curves} == {"undefended", "safety_sft"}
    still = study(model, name="still", measures={"harm": Moved(tiny_lm.weights_hash())}, phi=0.99, attacks=())
    run(replace(still, defenses=(None,)), store)
    (only,) = results(store, "still").curves
    assert (only.t_phi, only.censored_at) == (None, 0)


def logs(store: Store) -> dict[str, list[str]]:
    return {path.name: path.read_text().splitlines() for path in (store.folder / "logs").iterdir()}


def test_a_log_that_was_cut_off_is_mended(tmp_path):
    log = StepLog(tmp_path / "logs" / "a.jsonl")
    log.resume()
    for step in (1, 2, 3):
        log.add(step, {"loss": 0.5})
    log.path.write_text(log.path.read_text()[:-8])
    log = StepLog(log.path)
    log.resume()
    for step in (2, 3, 4):  # from a checkpoint after the first step
        log.add(step, {"loss": 0.25})
    assert [(line["step"], line["loss"]) for line in log.steps()] == [(1, 0.5), (2, 0.5), (3, 0.25), (4, 0.25)]


def test_what_each_step_reports_is_kept(model, store):
    run(study(model, defenses=(None, SafetySFT(lr=1e-2, max_steps=3, batch_size=4)), attacks=()), store)
    ((lines),) = logs(store).values()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]
    assert all(json.loads(line)["loss"] > 0 for line in lines)


@pytest.mark.parametrize("at_break", [False, True])
def test_stopping_at_any_moment_changes_nothing(at_break, model, store, tmp_path, tiny_lm):
    """Also where attacks end at the break: not before all that is measured there is stored."""
    harm = {"harm": Moved(tiny_lm.weights_hash())} if at_break else {}
    spec = study(model, attacks=HARD_TO_RESUME, measures=harm, stop_when_broken=at_break, budgets=(0, 1, 2, 3))
    run(spec, store)
    stopped, took = Store(tmp_path / "stopped"), []
    attempts = 0
    while took != ["stored"] * 7:
        attempts += 1
        assert attempts < 60, "it does not get on"
        events = run_study(spec, stopped, checkpoint_every=0.0)
        took = [event.what for event, _ in zip(events, range(9 if not at_break else 8), strict=False)]
        events.close()
    assert attempts > 3
    assert {len(curve.points) for curve in results(stopped).curves} == ({2} if at_break else {4})
    assert contents(stopped) == contents(store)
    assert logs(stopped) == logs(store)


def test_kill_9_changes_nothing_and_nothing_is_done_twice(model, store, tmp_path, monkeypatch):
    log = tmp_path / "log"
    attacks = (Logged(lr=1e-2, batch_size=4, log=log), Logged(lr=2e-2, batch_size=4, log=log))
    spec = study(
        model,
        attacks=attacks,
        defenses=(None, Logged({"refusal": 1.0}, max_steps=4, log=log)),
        budgets=(0, 2, 4, 6),
    )
    happened, needed = len(run(spec, store)), log.read_text().splitlines()
    log.unlink()

    def records(where: Store) -> set:
        with where.session() as session:
            columns = (RecordRow.id, RecordRow.cell, RecordRow.measure, RecordRow.step, RecordRow.written)
            return {tuple(row) for row in session.execute(select(*columns))}

    # Processes are forked from one that has no threads and has imported everything.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    clean = multiprocessing.get_context("forkserver")
    clean.set_forkserver_preload(["study_toys"])
    folder, stages, moments = tmp_path / "killed", [set()], random.Random(7)
    for _ in range(5):
        heard, told = clean.Pipe(duplex=False)
        process = clean.Process(target=run_in, args=(folder, spec, told))
        process.start()
        told.close()
        for _ in range(moments.randint(happened // 12, happened // 7)):
            heard.recv()
        time.sleep(moments.uniform(0.0, 0.01))
        process.kill()
        process.join()
        assert process.exitcode == -9
        stages.append(records(Store(folder)))
        assert stages[-2] <= stages[-1]  # what was stored is neither written again nor lost
    assert len(set(map(len, stages))) > 3  # the kills fell into the work
    killed = Store(folder)
    run(spec, killed, checkpoint_every=0.0)
    assert stages[-1] < records(killed)
    assert contents(killed) == contents(store)
    assert logs(killed) == logs(store)
    # A kill may cost the step it fell into and the one after the last checkpoint; no more is trained twice.
    assert len(log.read_text().splitlines()) <= len(needed) + 2 * 5


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("training", "it diverged"),
        ("memory", "RuntimeError: out of memory"),
        ("mistake", "IndexError: list index out of range"),
    ],
)
def test_a_failed_cell_is_stored_and_the_study_goes_on(model, store, how, said):
    bad, good = Fails(at=3, how=how), SFT(lr=1e-2)
    spec = study(model, defenses=(None,), attacks=(bad, good))
    assert outcomes(run(spec, store)) == ["done", "failed", "done"]
    found = results(store)
    assert [failure.reason for failure in found.failures] == [said]
    assert [curve.fields for curve in found.curves] == [{"lr": 1e-2}]
    assert found.progress == {"done": 2, "failed": 1, "missing": 0}
    again = run(spec, store)
    assert [event.what for event in again] == ["stored", "failed", "stored"]  # not begun again
    retried = run(spec, store, retry_failed=True)
    assert next(event.what for event in retried if event.position == 1) == "begun"


def test_what_depends_on_a_failed_hardening_is_blocked(model, store):
    spec = study(model, defenses=(Fails({"refusal": 1.0}, max_steps=3, at=2), None), attacks=(SFT(lr=1e-2),))
    assert outcomes(run(spec, store)) == ["failed", "blocked", "blocked", "done", "done"]
    found = results(store)
    assert [failure.reason for failure in found.failures] == ["it diverged"] + ["blocked: its hardening failed"] * 2
    assert found.progress == {"done": 2, "failed": 3, "missing": 0}


def test_an_attack_that_ends_too_early_has_failed(model, store):
    run(study(model, defenses=(None,), attacks=(Short(),)), store)
    (failure,) = results(store).failures
    assert "ended at step 2, and budget 3 was asked for. Raise its max_steps" in failure.reason


def test_a_changed_spec_is_refused_until_it_is_accepted(model, store):
    spec = study(model, defenses=(None,), attacks=(SFT(lr=1e-2),))
    run(spec, store)
    changed = replace(spec, attacks=(SFT(lr=2e-2), SFT(lr=1e-2)), phi=0.25)
    with pytest.raises(CasehardenError, match=r"phi: 0.5 → 0.25(.|\n)*--update"):
        run(changed, store)
    assert results(store).phi == 0.5
    assert outcomes(run(changed, store, update=True)) == ["stored", "done", "stored"]
    assert [curve.fields["lr"] for curve in results(store).curves] == [2e-2, 1e-2]
    narrow = replace(spec, attacks=(SFT(lr=2e-2),))
    assert outcomes(run(narrow, store, update=True)) == ["stored", "stored"]
    assert [curve.fields["lr"] for curve in results(store).curves] == [2e-2]
    assert len(contents(store)["cells"]) == 3  # what is no longer shown stays stored


def test_a_measure_more_does_not_harden_again(model, store, tmp_path):
    log = tmp_path / "log"
    spec = study(model, defenses=(Logged({"refusal": 1.0}, max_steps=3, log=log),), attacks=())
    run(spec, store)
    assert outcomes(run(replace(spec, measures={"more": Moved("")}), store, update=True)) == ["stored", "done"]
    assert len(log.read_text().splitlines()) == 3


@pytest.mark.parametrize("damage", [shutil.rmtree, lambda folder: (folder / "model.safetensors").write_bytes(b"x")])
def test_weights_that_are_gone_or_damaged_are_made_again(model, tmp_path, damage):
    spec = study(model, attacks=(SFT(lr=1e-2),))
    run(spec, Store(tmp_path / "store"))
    (folder,) = (tmp_path / "store" / "weights").iterdir()
    damage(folder)
    more = replace(spec, attacks=(SFT(lr=1e-2), SFT(lr=2e-2)))
    run(more, Store(tmp_path / "store"), update=True)
    found = results(Store(tmp_path / "store"))
    assert found.progress == {"done": 7, "failed": 0, "missing": 0}
    assert (folder / "config.json").is_file()


def test_an_attack_that_has_broken_the_model_may_stop_there(model, store, tiny_lm, tmp_path):
    log = tmp_path / "log"
    measures = {"harm": Moved(tiny_lm.weights_hash())}
    spec = study(
        model, defenses=(None,), attacks=(Logged(lr=1e-2, log=log),), measures=measures, budgets=(0, 2, 4, 6)
    )
    whole = Store(tmp_path / "whole")
    run(spec, whole)
    taken = len(log.read_text().splitlines())
    run(replace(spec, stop_when_broken=True), store)
    assert len(log.read_text().splitlines()) == taken + 2, "the first budget, at which every weight has moved"
    (stopped,), (full,) = results(store).curves, results(whole).curves
    assert (stopped.t_phi, stopped.censored_at) == (full.t_phi, full.censored_at) == (2, None)
    assert stopped.points == full.points[:2]
    run(replace(spec, stop_when_broken=True, phi=0.6), store, update=True)
    assert len(log.read_text().splitlines()) == taken + 2, "what is above another threshold as well runs no more"
    run(replace(spec, phi=0.99), store, update=True)
    assert results(store).curves[0].points == full.points, "without the threshold, the rest is measured"


def test_an_attack_goes_on_where_harm_is_above_phi_by_chance(model, store, tiny_lm):
    """12 of 20 are more than half, and no proof of it: the audit would not say that the model fails."""
    measures = {"harm": Moved(tiny_lm.weights_hash(), share=0.6)}
    spec = study(model, defenses=(None,), measures=measures, stop_when_broken=True)
    run(spec, store)
    (curve,) = results(store).curves
    assert (curve.t_phi, [point.budget for point in curve.points]) == (2, [0, 2, 3])
    run(replace(spec, confidence=0.6), store, update=True)
    (curve,) = results(store).curves
    assert (curve.t_phi, [point.budget for point in curve.points]) == (2, [0, 2])


def test_attacked_weights_are_kept_if_asked_for(model, store):
    run(study(model, defenses=(None,), attacks=(SFT(lr=1e-2),), keep_attacked=True), store)
    (curve,) = results(store).curves
    ((step, mark),) = store.kept(curve.cell).items()
    assert step == 3
    assert (store.folder / "weights" / mark / "model.safetensors").is_file()


@pytest.mark.parametrize("kept", [False, True])
def test_a_further_budget_measures_only_what_is_new(kept, model, store, tmp_path):
    """Where attacked models are kept, the attack goes on from the last; either way it is the same attack."""
    log = tmp_path / "log"
    attacks = (*HARD_TO_RESUME, Logged(lr=1e-2, batch_size=4, log=log))
    spec = study(model, defenses=(None,), attacks=attacks, keep_attacked=kept, budgets=(0, 3))
    more = replace(spec, budgets=(0, 2, 3, 5) if not kept else (0, 3, 5))
    run(spec, store)
    measured = [event.text for event in run(more, store, update=True) if event.what == "measured"]
    new = [b for b in more.budgets if b not in spec.budgets]
    assert measured == [f"{name} at {b}" for b in new for name in ("harm", "utility")] * len(attacks)
    assert len(log.read_text().splitlines()) == (5 if kept else 3 + 5)
    at_once = Store(tmp_path / "at once")
    run(more, at_once)
    assert contents(store) == contents(at_once)
    assert logs(store) == logs(at_once)
    for curve in results(store).curves:
        assert [*store.kept(curve.cell)] == ([3, 5] if kept else [])
    assert outcomes(run(more, store)) == ["stored"] * 4


def test_studies_with_other_budgets_share_attacks_and_each_sees_its_own(model, store, tmp_path, tiny_lm):
    log = tmp_path / "log"
    wide = study(
        model,
        name="wide",
        defenses=(None,),
        attacks=(Logged(lr=1e-2, log=log),),
        measures={"harm": Moved(tiny_lm.weights_hash())},
        budgets=(0, 2, 3, 4),
    )
    run(wide, store)
    narrow = replace(wide, name="narrow", budgets=(0, 3))
    stopped = replace(wide, name="stopped", stop_when_broken=True)
    between = replace(wide, name="between", budgets=(0, 1, 3))
    assert [outcomes(run(spec, store)) for spec in (narrow, stopped)] == [["stored"] * 2] * 2
    assert len(log.read_text().splitlines()) == 4
    assert outcomes(run(between, store)) == ["stored", "done"]
    assert len(log.read_text().splitlines()) == 4 + 1, "it ends when nothing more is missing"
    for spec, seen in ((wide, [0, 2, 3, 4]), (narrow, [0, 3]), (stopped, [0, 2]), (between, [0, 1, 3])):
        found = results(store, spec.name, whole=True)
        (curve,) = found.curves
        assert [point.budget for point in curve.points] == seen
        assert [line["step"] for line in curve.log] == list(range(1, seen[-1] + 1))
        assert {sample.budget for sample in found.samples} == {*seen}
        assert found.progress == {"done": 2, "failed": 0, "missing": 0}


def test_an_attack_that_fails_later_on_is_done_for_a_study_that_does_not_go_there(model, store):
    near = study(model, name="near", defenses=(None,), attacks=(Fails(at=4),), budgets=(0, 2))
    far, farther = replace(near, name="far", budgets=(0, 2, 5)), replace(near, name="farther", budgets=(0, 9))
    assert outcomes(run(near, store)) == ["done", "done"]
    assert outcomes(run(far, store)) == ["stored", "failed"]
    assert outcomes(run(near, store)) == ["stored", "stored"]
    assert outcomes(run(farther, store)) == ["stored", "failed"]
    assert results(store, "near").progress == {"done": 2, "failed": 0, "missing": 0}
    assert results(store, "far").progress == {"done": 1, "failed": 1, "missing": 0}


def test_what_only_says_how_much_memory_to_use_runs_nothing_again(model, store):
    choice = MultipleChoice(n=4)
    tar = TAR(adversaries=(SFT(lr=1e-2),), max_steps=1, inner_steps=1, checkpoint_every=1)
    grpo = GRPO(reward=Checksum(), prompts=2, samples=2, max_new_tokens=2)
    spec = study(model, defenses=(tar,), attacks=(grpo,), measures={"choice": choice}, budgets=(0, 1))
    run(spec, store)
    frugal = replace(
        spec,
        defenses=(replace(tar, keep="cpu"),),
        attacks=(replace(grpo, forward_batch=1),),
        measures={"choice": replace(choice, batch_size=2)},
    )
    assert outcomes(run(frugal, store, update=True)) == ["stored"] * 3


def test_another_judge_scores_stored_answers_without_a_model(model, store):
    run(study(model, defenses=(None,), attacks=(SFT(lr=1e-2),)), store)
    shutil.rmtree(model)
    judge = Verifier(version="other")
    assert rescore(store, "toy", "harm", judge) == 3
    assert rescore(store, "toy", "harm", judge) == 0
    (curve,) = results(store).curves
    for point in curve.points:
        again = point.readings['harm@{"verifier":{"version":"other"}}']
        assert again.judge_version == "other"
        assert (again.value, again.n) == (point.readings["harm"].value, point.readings["harm"].n)
    with pytest.raises(CasehardenError, match=r"no stored answers of measure 'harn'\. Did you mean 'harm'"):
        rescore(store, "toy", "harn", judge)


def test_the_study_run_last_is_the_last_one(model, store):
    first, second = (study(model, name=name, defenses=(None,), attacks=()) for name in ("first", "second"))
    for spec in (first, second, first):
        run(spec, store)
    assert results(store).study == "first"


def test_the_engine_of_the_study_writes_every_answer(model, store, monkeypatch):
    def never(*_):
        raise AssertionError("the study has an engine of its own")

    monkeypatch.setattr("caseharden.engines.native.Native.write", never)
    adversary = GRPO(reward=Entropy(), prompts=2, samples=2, max_new_tokens=2)
    watched = Watch(Probe(role="defender", n=2, max_new_tokens=2))
    defense = Patcher((adversary,), loops=1, attack_steps=1, defense_steps=1, watch=watched)
    spec = study(model, defenses=(None, defense), attacks=(replace(adversary, lr=1e-2),), engine=Transformers())
    assert set(outcomes(run(spec, store))) == {"done"}
    same = replace(spec, engine=Transformers(batch_size=8))
    assert "stored" not in outcomes(run(same, store, update=True))  # sampled answers depend on it


def test_unscored_answers_stay_unscored(model, store):
    spec = study(model, defenses=(None,), attacks=(), measures={"unscored": Unscored()})
    run(spec, store)
    found = results(store).curves[0].points[0].readings["unscored"]
    assert math.isnan(found.value)
    assert (found.n, found.unscored) == (0, 20)


class Unscored(Moved):
    def __init__(self):
        super().__init__("")

    def answers(self, lm, domain, seed, engine):
        return [replace(answer, score=math.nan) for answer in super().answers(lm, domain, seed, engine)]


def test_a_model_that_is_only_released_is_measured_once(model, store):
    run(study(model, attacks=(), defenses=(None,), budgets=(0,)), store)
    assert [[point.budget for point in curve.points] for curve in results(store).curves] == [[0]]
