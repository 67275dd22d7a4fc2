"""What methods are called."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caseharden.records.names import called, model_name


@pytest.mark.parametrize(
    ("name", "fields", "short"),
    [
        ("sft", {}, "sft"),
        ("sft", {"lora": {}, "lr": 3e-4}, "sft(lr=3e-4, lora)"),
        ("sft", {"lora": {"r": 8}, "data": {"harmful": 0.2, "x": 1.0}}, "sft(lora(r=8), data(harmful=0.2, x=1))"),
        ("chain", {"stages": [{"patcher": {"loops": 24}}, "repair"]}, "patcher(loops=24)+repair"),
        ("chain", {"stages": ["sft"]}, "chain(stages=[sft])"),
        ("tar", {"adversaries": [{"sft": {"lr": 1e-5}}, "dpo"]}, "tar(adversaries=[sft(lr=1e-5), dpo])"),
        ("grpo", {"reward": {"judged": {"judge": "strings"}}}, "grpo(reward=judged(judge=strings))"),
        ("my_attack:Shake", {"noise": 0.02}, "my_attack:Shake(noise=0.02)"),
        ("m", {"on": True, "off": False, "no": None}, "m(off=false, no=none, on)"),
        ("m", {"path": "a b", "word": "none", "name": "a/b"}, 'm(path="a b", word="none", name=a/b)'),
    ],
)
def test_a_method_is_called_by_its_name_and_its_own_fields(name, fields, short):
    assert called(name, fields) == short


VALUES = (
    True,
    False,
    None,
    1,
    2.5,
    math.inf,
    -math.inf,
    math.nan,
    "inf",
    "-inf",
    "nan",
    "1",
    "true",
    "a",
    "a b",
    "a, b=1",
    "",
    ("a", "b"),
    {"a": 1},
    {"a": {"b": 1}},
)


def test_other_values_make_another_name():
    assert len({called("m", {"x": value}) for value in VALUES}) == len(VALUES)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_is_read_back_as_itself(number):
    assert float(called("m", {"x": number}).removeprefix("m(x=").removesuffix(")")) == number


def test_a_hash_of_weights_is_cut_short():
    assert model_name(f"out/weights/{'ab' * 32}") == "out/weights/abababababab…"
