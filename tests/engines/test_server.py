"""A server as engine, against an endpoint of our own on this machine that writes with the model itself."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch
from sqlalchemy import select

from caseharden.attacks import SFT
from caseharden.defenses import SafetySFT
from caseharden.engines.engine import generate_text
from caseharden.engines.native import Native
from caseharden.engines.server import Server
from caseharden.errors import CasehardenError
from caseharden.lm.lm import LM
from caseharden.lm.template import Reasoning
from caseharden.store.results import results
from caseharden.store.store import Store
from caseharden.store.tables import CellRow
from caseharden.train.tuner import Run
from engine_toys import serving
from factories import copy_of
from study_toys import run as run_study
from study_toys import study

pytest.importorskip("openai")
GREEDY = (1, 8, 0.0, 0)
RELEASED = {"attacks": (), "defenses": (None,)}


@pytest.fixture
def lm(tiny_lm, tmp_path):
    """The tiny model as it is released, with weights so large that what it says depends on what it reads."""
    with tiny_lm.seeded(1), torch.no_grad():
        for parameter in tiny_lm.model.parameters():
            parameter.normal_(std=0.5)
    tiny_lm.save(tmp_path / "released")
    return LM.load(tmp_path / "released")


@pytest.fixture
def prompts(lm):
    return lm.encode_prompts(["a", "a b c d e", "z y ?", "yes no", "b b b"])


def test_greedy_answers_are_those_of_native_token_for_token(lm, prompts):
    lm.ends = lambda: [*range(0, 40, 3)]
    expected = Native().write(lm, prompts, *GREEDY)
    with serving(copy_of(lm)) as (url, seen):
        assert Server("tiny", url).write(lm, prompts, *GREEDY) == expected
        assert Server("tiny", url).write(lm, [], *GREEDY).tokens == []
    assert {request["path"] for request in seen} == {"/v1/completions"}
    assert [request["prompt"] for request in seen[1:]] != [] and all(r["model"] == "tiny" for r in seen)
    assert any(len(row) < 8 for row in expected.tokens)


def test_the_servers_own_sampling_defaults_are_overridden(lm, prompts):
    with serving(copy_of(lm)) as (url, _), serving(copy_of(lm), top_k=1) as (narrow, _):
        wide, told = (Server("tiny", one).write(lm, prompts, 3, 6, 2.0, 0).tokens for one in (url, narrow))
        assert wide == told and len({tuple(row) for row in told[:3]}) > 1


def test_a_plain_server_writes_the_same_texts(lm):
    asked = ["a", "a b c d e", "z y ?"]
    expected = generate_text(Native(), lm, asked, max_new_tokens=8, prefixes=["yes "] * 3)
    with serving(copy_of(lm), knows_vllm=False) as (url, seen):
        found = generate_text(Server("tiny", url, plain=True), lm, asked, max_new_tokens=8, prefixes=["yes "] * 3)
        assert found == expected
        assert not {"stop_token_ids", "top_k", "return_token_ids"} & {name for one in seen for name in one}
        with pytest.raises(CasehardenError, match=r"sends no token ids.*plain: true"):
            Server("tiny", url).write(lm, lm.encode_prompts(asked), *GREEDY)
        lm.chat.marks = ("<think>", "</think>")
        with pytest.raises(CasehardenError, match="may think before it answers"):
            Server("tiny", url, plain=True, retries=1).write(lm, lm.encode_prompts(asked), *GREEDY)


def test_weights_that_were_changed_are_refused_however_they_were_changed(lm, prompts, toy_domain):
    with serving(copy_of(lm)) as (url, seen):
        engine = Server("tiny", url)
        engine.write(lm, prompts, *GREEDY)
        asked = len(seen)
        kept = lm.state_dict()["lm_head.weight"].clone()
        lm.model.lm_head.weight.data[3, 3] += 1e-3
        for changed in (lm, copy_of(lm)):
            with pytest.raises(CasehardenError, match="were changed since they were loaded"):
                engine.write(changed, prompts, *GREEDY)
        lm.model.lm_head.weight.data.copy_(kept)
        engine.write(lm, prompts, *GREEDY)
        next(Run(lm, toy_domain, "attacker", 0).drive(SFT(lr=1e-3)))
        with pytest.raises(CasehardenError, match="were changed since they were loaded"):
            engine.write(lm, prompts, *GREEDY)
        assert len(seen) == asked + len(prompts)


def test_weights_in_bfloat16_are_those_of_their_folder(lm, prompts):
    low = LM.load(lm.name, precision="bfloat16_weights")
    with serving(copy_of(lm)) as (url, _):
        assert Server("tiny", url).write(low, prompts, *GREEDY).tokens


def test_a_server_that_has_another_model_is_told_before_it_says_anything(lm, prompts):
    other = copy_of(lm)
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter.copy_(parameter.flip(0))
    with (
        serving(other) as (url, _),
        pytest.raises(CasehardenError, match=r"writes other answers than .* these very weights"),
    ):
        Server("tiny", url).write(lm, prompts, *GREEDY)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"attacks": (SFT(),), "defenses": (None,)}, "the study has SFT"),
        ({"attacks": (), "defenses": (None, SafetySFT(max_steps=1))}, "the study has SafetySFT"),
        ({**RELEASED, "controls": ("almanac-victim",)}, "the study has 2 models"),
        ({**RELEASED, "models": ("almanac-victim", "almanac-never-learned")}, "the study has 2 models"),
    ],
)
def test_a_study_that_changes_weights_or_has_several_models_cannot_be_written(lm, changes, said):
    with pytest.raises(CasehardenError, match=f"writes with the one model .*{said}"):
        study(lm.name, engine=Server("tiny"), **changes)


def test_a_study_of_a_released_model_reads_as_with_native(lm, tmp_path):
    found = []
    with serving(copy_of(lm)) as (url, _):
        for number, engine in enumerate((Server("tiny", url, concurrency=2), Native())):
            store = Store(tmp_path / str(number))
            run_study(study(lm.name, engine=engine, **RELEASED), store)
            (curve,) = results(store, "toy").curves
            found.append({name: reading.value for name, reading in curve.points[0].readings.items()})
    assert found[0] == found[1] and found[0]


def test_a_study_whose_server_is_not_there_ends_before_anything_runs(lm, tmp_path):
    with serving(copy_of(lm)) as (url, _):
        pass
    store = Store(tmp_path / "store")
    with pytest.raises(CasehardenError, match="wrote no answer: Connection error"):
        run_study(study(lm.name, engine=Server("tiny", url, retries=0), **RELEASED), store)
    with store.session() as session:
        assert not session.scalars(select(CellRow)).all()


def test_failures_that_pass_are_tried_again_and_others_are_errors_and_no_empty_answers(lm, prompts):
    expected = Native().write(lm, prompts, *GREEDY)
    with serving(copy_of(lm), fails=lambda n: 500 if n % 2 else None) as (url, _):
        assert Server("tiny", url, concurrency=1).write(lm, prompts, *GREEDY) == expected
    for failure, said in (
        (404, "404"),
        (b'{"choices": []}', "wrote no answer, but"),
        (b"<!doctype html>", "wrote no answer"),
        (b'{"choices": [{"index": 0, "text": "", "finish_reason": "content_filter"}]}', "content_filter"),
    ):
        with (
            serving(copy_of(lm), fails=lambda n, failure=failure: failure if n > 3 else None) as (url, _),
            pytest.raises(CasehardenError, match=said),
        ):
            Server("tiny", url, retries=0).write(lm, prompts, *GREEDY)


def test_an_ending_that_is_none_of_the_models_is_an_error(lm, prompts):
    """Of a server that does not read how answers are to end."""
    with serving(copy_of(lm)) as (url, _):
        engine = Server("tiny", url)
        engine.check(lm)
        token = engine.write(lm, prompts[:1], *GREEDY).tokens[0][2]
    body = b'{"choices": [{"index": 0, "text": "", "finish_reason": "stop", "token_ids": [%d]}]}' % token
    with (
        serving(copy_of(lm), fails=lambda n: body if n > 1 else None) as (url, _),
        pytest.raises(CasehardenError, match="does not read stop_token_ids"),
    ):
        Server("tiny", url).write(lm, prompts, *GREEDY)


def test_a_key_is_read_from_the_environment_and_neither_shown_nor_stored(
    lm, prompts, monkeypatch, tmp_path, caplog
):
    with serving(copy_of(lm)) as (url, seen):
        engine = Server("tiny", url, key="SERVERS_KEY")
        monkeypatch.delenv("SERVERS_KEY", raising=False)
        with pytest.raises(CasehardenError, match="environment variable SERVERS_KEY"):
            engine.write(lm, prompts, *GREEDY)
        monkeypatch.setenv("SERVERS_KEY", "a-secret")
        with caplog.at_level(logging.DEBUG):
            run_study(study(lm.name, engine=engine, **RELEASED), Store(tmp_path / "store"))
        assert {request["key"] for request in seen} == {"Bearer a-secret"}
    assert "a-secret" not in caplog.text
    assert not [
        path for path in (tmp_path / "store").rglob("*") if path.is_file() and b"a-secret" in path.read_bytes()
    ]


@pytest.mark.parametrize(
    "field",
    [
        *({"base_url": url} for url in ("", "localhost:8000/v1", "ftp://host/v1", "http://me:word@host/v1")),
        *({"retries": -1}, {"timeout": 0.0}, {"concurrency": 0}),
    ],
)
def test_what_cannot_be_asked_is_refused(field):
    with pytest.raises(CasehardenError, match=next(iter(field))) as told:
        Server("tiny", **field)
    assert "word" not in str(told.value).replace("password", "")


def test_a_model_that_was_never_loaded_from_a_folder_cannot_be_compared(tiny_lm, prompts):
    with (
        serving(copy_of(tiny_lm)) as (url, _),
        pytest.raises(CasehardenError, match="'tiny' is no folder"),
    ):
        Server("tiny", url).write(tiny_lm, prompts, *GREEDY)


def test_reasoning_is_the_same_model(lm, prompts):
    """How a model is read changes none of its weights."""
    thinking = LM(lm.model, lm.tokenizer, lm.name, reasoning=replace(Reasoning(), marks=("<think>", "</think>")))
    with serving(copy_of(lm)) as (url, _):
        assert Server("tiny", url).write(thinking, prompts, *GREEDY) == Native().write(lm, prompts, *GREEDY)
