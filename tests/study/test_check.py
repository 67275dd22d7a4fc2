"""What cannot be measured is an error before anything runs; what somebody else makes is waited for."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select

from caseharden.attacks import GRPO, SFT, Chain
from caseharden.engines.server import Server
from caseharden.errors import CasehardenError, NotSharded
from caseharden.executors.executor import Local
from caseharden.lm.memory import Memory
from caseharden.measures.probe import Probe
from caseharden.store.results import results
from caseharden.store.tables import CellRow
from caseharden.study import check
from caseharden.study.check import longest_answers
from caseharden.study.plan import Cell
from caseharden.study.run import _Study
from study_toys import Fails, outcomes, run, study
from toys import Checksum


@pytest.mark.parametrize(
    ("changes", "whose"),
    [
        ({"attacks": (GRPO(reward=Checksum(), max_new_tokens=64),)}, "the attacker's pool 'harmful'"),
        ({"defenses": (GRPO(reward=Checksum(), max_new_tokens=64, max_steps=1),)}, "the defender's pool 'harmful'"),
        ({"measures": {"harm": Probe(max_new_tokens=64)}}, "the evaluator's pool 'harmful'"),
        ({"measures": {"harm": Probe(pool="benign", max_new_tokens=64)}}, "the evaluator's pool 'benign'"),
    ],
)
def test_a_prompt_has_room_for_the_answer_that_is_written_to_it(model, store, changes, whose):
    with pytest.raises(CasehardenError, match=f"of {whose} leave no room for 64 tokens"):
        run(study(model, **changes), store)
    with store.session() as session:
        assert not session.scalars(select(CellRow)).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"attacks": (SFT(template="instruction"),)},
        {"attacks": (Chain((SFT(template="instruction", max_steps=1), SFT())),)},
        {"measures": {"harm:instruction": Probe(template="instruction", max_new_tokens=4)}},
    ],
)
def test_a_template_that_the_tokenizer_cannot_write_is_an_error_before_anything_runs(model, store, changes):
    with pytest.raises(CasehardenError, match="no tokens for the template 'instruction'"):
        run(study(model, **changes), store)
    with store.session() as session:
        assert not session.scalars(select(CellRow)).all()


def test_answers_are_counted_where_they_are_written(model):
    measures = {"harm": Probe(max_new_tokens=5), "slips": Probe(max_new_tokens=9, temperature=1.0)}
    found = longest_answers(study(model, measures=measures, attacks=(GRPO(reward=Checksum(), max_new_tokens=7),)))
    assert found["evaluator", "harmful"] == {"": 9} and found["attacker", "harmful"] == {"": 7}
    assert found["evaluator", "benign"] == {"": 4} and ("attacker", "benign") not in found


def test_how_an_answer_is_begun_takes_room_as_well(model, store):
    """Of 64 positions, prompt and answer take few; with a beginning of 56 words they are too many."""
    run(study(model, attacks=(), defenses=(None,), measures={"harm": Probe(max_new_tokens=8)}), store)
    begun = study(
        model, attacks=(), defenses=(None,), measures={"harm": Probe(max_new_tokens=8, prefix="the " * 56)}
    )
    with pytest.raises(CasehardenError, match="of the evaluator's pool 'harmful' leave no room for 8 tokens"):
        run(begun, store, update=True)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"engine": Server("tiny"), "defenses": (None,), "attacks": (), "budgets": (0,)},
            "Server writes in one process",
        ),
        ({"memory": Memory(offload=True)}, "memory's offload"),
        ({"precision": "bfloat16_weights"}, "the precision bfloat16_weights"),
    ],
)
def test_what_needs_one_process_is_an_error_before_several_run_anything(model, store, monkeypatch, changes, said):
    monkeypatch.setattr(check, "launched", lambda: True)
    with pytest.raises(NotSharded, match=said):
        run(study(model, **changes), store, executor=Local())
    assert not store.studies()


def test_what_needs_one_process_is_no_failure_of_the_cell(model, store):
    spec = study(model, defenses=(None,), attacks=(Fails(how="sharded"),))
    for _ in range(2):
        with pytest.raises(NotSharded):
            run(spec, store)
    with store.session() as session:
        assert "failed" not in set(session.scalars(select(CellRow.status)))


def test_what_is_stored_is_not_loaded_again_to_be_entered(model, store, monkeypatch):
    spec = study(model)
    run(spec, store)
    for change in ({}, {"name": "same"}):
        monkeypatch.setattr("caseharden.study.run.check_models", lambda *_: pytest.fail("a model was loaded"))
        assert outcomes(run(replace(spec, **change), store)) == ["stored"] * 5


def test_a_study_of_models_that_cannot_be_measured_is_not_entered(model, store):
    run(study(model), store)
    for name in ("toy", "other"):
        with pytest.raises(CasehardenError, match="leave no room"):
            run(study(model, name=name, measures={"harm": Probe(max_new_tokens=64)}), store, update=True)
        assert store.studies() == ["toy"] and results(store).complete
    with pytest.raises(CasehardenError, match="with another spec"):
        run(study(model, measures={"harm": Probe(max_new_tokens=64)}), store)


def test_weights_that_another_study_is_making_again_are_waited_for(model, store, monkeypatch):
    run(study(model), store)
    shutil.rmtree(store.folder / "weights")
    source = _Study._source

    def begun_elsewhere(self: _Study, cell: Cell) -> Path | None:
        with store.session() as session:
            for row in session.scalars(select(CellRow).where(CellRow.weights.is_not(None))):
                row.status = "running"
        return source(self, cell)

    monkeypatch.setattr(_Study, "_source", begun_elsewhere)
    events = run(study(model, name="more", budgets=(0, 2, 3, 4)), store)
    assert outcomes(events).count("done") >= 2 and "failed" not in outcomes(events)
