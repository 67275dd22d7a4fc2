"""What lies behind readings comes back: every answer's score by every judge, and what each step cost."""

from __future__ import annotations

import math
import shutil
from contextlib import suppress
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select, text

from caseharden.attacks import SFT
from caseharden.errors import CasehardenError
from caseharden.judges.judge import NAN
from caseharden.records.results import Traits
from caseharden.store.results import results
from caseharden.store.store import Store
from caseharden.store.tables import GenerationRow, PlaceRow, RecordRow, ScoreRow
from caseharden.study.rescore import rescore
from strategies import many
from study_toys import run, study
from toys import ToyDomain


@dataclass(frozen=True)
class Lengths:
    """A score of each answer's own: the number of its letters, in a way; NaN for every third."""

    version: str = "1"
    every: int = 3

    def score(self, answers):
        return [NAN if i % self.every == 2 else len(a.output) % 7 / 7 for i, a in enumerate(answers)]


@dataclass(frozen=True)
class ByFirstLetter(ToyDomain):
    """Questions that begin with the same letter ask about the same thing."""

    def pools(self, role):
        return {name: [replace(e, group=e.prompt[0]) for e in pool] for name, pool in super().pools(role).items()}


@pytest.fixture
def store(tmp_path, tiny_lm):
    tiny_lm.save(tmp_path / "tiny")
    kept = Store(tmp_path / "store")
    spec = study(tmp_path / "tiny", domain=ByFirstLetter(), defenses=(None,), attacks=(SFT(lr=1e-2, batch_size=4),))
    run(spec, kept)
    return kept


def name(points):
    """What the further judge's readings of harm are called."""
    return next(n for p in points for n in p.readings if n.startswith("harm@"))


def points(store):
    (curve,) = results(store, whole=True).curves
    return curve.points


def test_what_attacks_and_measures_say_of_themselves_comes_back(store):
    def without_what_is_said(labels):
        return {name: value for name, value in labels.items() if name not in ("traits", "better")}

    found = results(store)
    (curve,) = found.curves
    assert curve.traits == Traits(
        {"batch_size": 4}, (1e-2,), {"n_examples": None, "lora": None, "scope": None}, ("harmful",)
    )
    assert found.better == {"harm": "lower", "utility": "higher"}
    with store.session() as session:
        for place in session.scalars(select(PlaceRow)):
            place.labels = without_what_is_said(place.labels)
    earlier = results(store)
    assert earlier.curves[0].traits == Traits({"batch_size": 4}), "as read by an earlier version"
    assert earlier.better == found.better


def test_a_further_judges_scores_are_stored_with_its_reading_and_come_back(store):
    before = points(store)
    assert rescore(store, "toy", "harm", Lengths()) == 3
    after = points(store)
    key = name(after)
    with store.session() as session:
        given = list(session.scalars(select(GenerationRow).where(GenerationRow.measure == "harm")))
    for was, point in zip(before, after, strict=True):
        own, theirs = point.answers["harm"], point.answers[key]
        assert own == was.answers["harm"], "the own judge's scores stay as they were"
        mine = sorted((g for g in given if g.step == point.budget), key=lambda g: g.number)
        assert theirs.items == own.items == tuple(g.item for g in mine)
        assert theirs.topics == own.topics
        assert repr(theirs.scores) == repr(tuple(Lengths().score(mine)))
        scored = [s for s in theirs.scores if not math.isnan(s)]
        assert point.readings[key].value == pytest.approx(sum(scored) / len(scored))
        assert (point.readings[key].n, point.readings[key].unscored) == (8, 4)
    assert len({s for p in after for s in p.answers[key].scores}) > 3, "scores of single answers, not of all"


def test_a_reading_and_its_scores_are_stored_both_or_neither(store, monkeypatch):
    def killed(self, **fields):
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(ScoreRow, "__init__", killed)
        with pytest.raises(RuntimeError, match="killed"):
            rescore(store, "toy", "harm", Lengths())
    with store.session() as session:
        assert list(session.scalars(select(RecordRow).where(~RecordRow.own))) == []
    assert rescore(store, "toy", "harm", Lengths()) == 3


def test_a_new_version_takes_the_place_of_the_old_one(store):
    rescore(store, "toy", "harm", Lengths())
    wanted = points(store)
    with store.session() as session:
        for row in session.scalars(select(RecordRow).where(~RecordRow.own)):
            row.judge_version = "0"
        for score in session.scalars(select(ScoreRow)):
            score.judge_version, score.score = "0", 0.125
    key = name(wanted)
    assert {s for p in points(store) for s in p.answers[key].scores} == {0.125}
    assert rescore(store, "toy", "harm", Lengths()) == 3
    assert [repr(p.answers[key]) for p in points(store)] == [repr(p.answers[key]) for p in wanted]


def test_a_store_of_an_earlier_version_is_read_and_completed_when_scored_again(store):
    rescore(store, "toy", "harm", Lengths())
    wanted = points(store)
    ScoreRow.__table__.drop(store.engine)
    old = Store(store.folder, create=False)
    key = name(wanted)
    assert all(key in p.readings and key not in p.answers for p in points(old))
    assert rescore(old, "toy", "harm", Lengths()) == 3, "the reading was there, its scores were not"
    assert [repr(p) for p in points(old)] == [repr(p) for p in wanted]
    assert rescore(old, "toy", "harm", Lengths()) == 0


def test_what_questions_are_about_comes_back_with_every_judges_scores(store):
    rescore(store, "toy", "harm", Lengths())
    for point in points(store):
        for answers in point.answers.values():
            assert answers.groups == tuple(item.removeprefix("h").removeprefix("b")[0] for item in answers.items)


def test_in_a_store_without_groups_each_question_is_about_a_thing_of_its_own(store):
    with store.session() as session:
        for table, column in (("generations", '"group"'), ("records", "effective"), ("records", "clusters")):
            session.execute(text(f"ALTER TABLE {table} DROP COLUMN {column}"))
    old = Store(store.folder, create=False)
    (found,) = results(old, whole=True).curves
    assert found.points and all(a.groups == a.items for p in found.points for a in p.answers.values())
    assert results(old).samples
    assert all(r.n and not r.clusters for p in found.points for r in p.readings.values())
    rescore(old, "toy", "harm", Lengths())  # which completes the store
    assert all(a.groups == a.items for p in points(old) for a in p.answers.values())


def test_a_judge_that_fails_now_takes_nothing_away(store, monkeypatch):
    rescore(store, "toy", "harm", Lengths())
    ScoreRow.__table__.drop(store.engine)

    def lost(self, answers):
        raise OSError("connection lost")

    monkeypatch.setattr(Lengths, "score", lost)
    assert rescore(store, "toy", "harm", Lengths()) == 0
    key = name(points(store))
    assert all(p.readings[key].n == 8 for p in points(store))


def test_a_stored_log_has_tokens_without_those_of_measuring(store, tiny_lm):
    (curve,) = results(store, whole=True).curves
    assert [step["step"] for step in curve.log] == [1, 2, 3]
    assert all(step["examples"] == 4 and step["tokens_read"] == 0 for step in curve.log)
    prompt = tiny_lm.template.prompt("a b ?").split()  # every harmful example is as long
    harmful = len(prompt) + len(["b", "a", "."]) + 1
    assert [step["tokens"] for step in curve.log] == [4 * harmful] * 3


def test_the_answers_of_an_archive_can_be_read(store, tmp_path):
    rescore(store, "toy", "harm", Lengths())
    wanted = [repr(p) for p in points(store)]
    store.engine.dispose()
    shutil.copytree(store.folder, tmp_path / "archive")
    assert [repr(p) for p in points(Store(tmp_path / "archive", create=False))] == wanted


@many
@given(
    cut=st.none() | st.integers(0, 60_000),
    changes=st.lists(st.tuples(st.integers(0, 200_000), st.binary(min_size=1, max_size=6)), max_size=3),
)
def test_a_damaged_store_is_read_or_said_to_be_damaged(cut, changes, store):
    file = store.folder / "caseharden.db"
    store.engine.dispose()  # the last connection's end moves the write-ahead log into the file
    sound = file.read_bytes()
    assert len(sound) > 60_000
    damaged = bytearray(sound if cut is None else sound[:cut])
    for place, change in changes if damaged else []:
        place %= len(damaged)
        damaged[place : place + len(change)] = change
    try:
        file.write_bytes(damaged)
        with suppress(CasehardenError):
            results(Store(store.folder, create=False, patience=0.1), whole=True)
        with suppress(CasehardenError):
            assert isinstance(Store(store.folder, patience=0.1).studies(), list)
    finally:
        for beside in store.folder.glob("caseharden.db-*"):
            beside.unlink()
        file.write_bytes(sound)
