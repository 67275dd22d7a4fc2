"""Weights: a copy of a model is whole, or it is not there."""

import errno
import os
import shutil

import pytest

import caseharden
from caseharden.errors import CasehardenError
from caseharden.store.weights import copy_out
from toys import ToyDomain

DEFENSE = {"safety_sft": {"max_steps": 1}}


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir(mode=0o750)
    for name in ("a", "b", "c"):
        (tmp_path / "model" / name).write_text(name)
    return tmp_path / "model"


@pytest.fixture
def disk(monkeypatch):
    """``disk.append(problem)``: the disk takes a file's first half, then there is a problem."""
    problems, copyfile = [], shutil.copyfile

    def until_full(source, target, **more):
        copyfile(source, target, **more)
        if problems:
            os.truncate(target, os.stat(target).st_size // 2)
            raise problems[0]

    monkeypatch.setattr(shutil, "copyfile", until_full)
    return problems


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_copy_is_whole_and_alone(model, tmp_path):
    copied = copy_out(model, tmp_path / "new" / "out")
    assert sorted(path.name for path in copied.iterdir()) == ["a", "b", "c"]
    assert copied.stat().st_mode == model.stat().st_mode
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out"]


@pytest.mark.parametrize("problem", [FULL, PermissionError(errno.EACCES, "no"), KeyboardInterrupt()])
def test_half_a_copy_is_not_left(problem, model, disk, tmp_path):
    disk.append(problem)
    with pytest.raises((CasehardenError, KeyboardInterrupt)):
        copy_out(model, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_came_into_being_meanwhile_is_left_alone(kind, model, tmp_path):
    out = tmp_path / "out"
    {"folder": out.mkdir, "file": out.touch, "link": lambda: out.symlink_to("nowhere")}[kind]()
    before = out.lstat()
    with pytest.raises(CasehardenError, match="exists already"):
        copy_out(model, out)
    assert out.lstat() == before and len([*tmp_path.iterdir()]) == 2


def test_hardening_goes_on_when_there_is_room_again(tiny_lm, tmp_path, monkeypatch, disk):
    monkeypatch.chdir(tmp_path)
    tiny_lm.save(tmp_path / "tiny")
    disk.append(FULL)
    with pytest.raises(
        CasehardenError, match=r"copying the model to hard failed: .*No space left.* Free some space"
    ):
        caseharden.harden("tiny", DEFENSE, domain=ToyDomain(), output="hard")
    assert not (tmp_path / "hard").exists()
    disk.clear()
    events = []
    again = {"output": "hard", "progress": lambda happened, cells: events.extend(happened)}
    hardened = caseharden.harden("tiny", DEFENSE, domain=ToyDomain(), **again)
    assert {event.what for event in events} == {"stored"}
    assert caseharden.load(hardened).weights_hash()


def test_hardening_into_what_is_there_is_refused_before_anything_runs(tiny_lm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hard").symlink_to("nowhere")
    with pytest.raises(CasehardenError, match="hard exists already"):
        caseharden.harden("tiny", DEFENSE, domain=ToyDomain(), output="hard")
