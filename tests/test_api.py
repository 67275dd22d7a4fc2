"""The calls that `caseharden` offers to Python."""

import logging
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
from safetensors.torch import save_file

import caseharden
from caseharden import domains
from caseharden.attacks import SFT
from caseharden.defenses import SafetySFT
from caseharden.errors import CasehardenError
from caseharden.executors.executor import Local
from caseharden.lm import sources
from caseharden.store.results import results
from caseharden.store.store import Store
from caseharden.suites import suite
from study_toys import Fails
from test_docs import ROOT, blocks
from toys import Taught, ToyDomain


@pytest.fixture
def tiny(tiny_lm, tmp_path, monkeypatch):
    """Folder of a tiny model; stores go beside it."""
    monkeypatch.chdir(tmp_path)
    tiny_lm.save(tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.mark.parametrize(
    ("page", "shown"),
    [
        ("README.md", ["sft seed=0  20 ", "[0."]),
        ("docs/python.md", ["hardened model in out/harden/weights/", "seed=1", "resistance: ", "trainability: "]),
    ],
)
def test_what_a_page_does_in_python_works_as_it_stands(page, shown, tiny, monkeypatch, tmp_path, capsys):
    (tmp_path / "small.yaml").write_text("""
        criteria: {horizon: 2}
        known_broken: {safety_sft: {max_steps: 1}}
        attacks: [sft: {lr: 1e-3}]
        budgets: [0, 2]
        seeds: [0, 1]
        benign_runs: {lr: [3e-3], budgets: [0, 1], seeds: [0, 1]}
    """)
    monkeypatch.setattr(sources, "packaged", lambda: {"almanac-victim": tiny, "almanac-never-learned": tiny})
    monkeypatch.setitem(domains.TABLE, "almanac", Taught)
    monkeypatch.setattr(suite, "suites", lambda: {"quick": tmp_path / "small.yaml"})
    (code,) = blocks(ROOT / page, "python")
    exec(code, {})
    printed = capsys.readouterr().out
    assert [text for text in shown if text not in printed] == []
    assert callable(caseharden.audit), "the package of that name must not take the function's place"


def test_an_object_and_its_name_are_the_same_attack(tiny):
    first = caseharden.attack(tiny, SFT(lr=1e-2), domain=ToyDomain(), budgets=[2])
    events = []
    again = caseharden.attack(
        tiny,
        {"sft": {"lr": 1e-2}},
        domain="toys:ToyDomain",
        budgets=[2],
        progress=lambda happened, cells: events.extend(happened),
    )
    assert {event.what for event in events} == {"stored"}
    assert again.curves == first.curves
    assert [point.budget for point in again.curves[0].points] == [0, 2]


def test_a_model_is_attacked_in_the_precision_that_was_asked_for(tiny):
    plain, rounded = (
        caseharden.attack(tiny, SFT(lr=1e-2), domain=ToyDomain(), budgets=[2], precision=precision)
        for precision in ("auto", "bfloat16")
    )
    assert "precision: bfloat16" in rounded.spec and "bfloat16" not in plain.spec
    assert {c.cell for c in plain.curves}.isdisjoint({c.cell for c in rounded.curves})
    with pytest.raises(CasehardenError, match="precision"):
        caseharden.attack(tiny, SFT(lr=1e-2), domain=ToyDomain(), precision="half")


def test_how_memory_is_spared_runs_nothing_again(tiny):
    plain, spared = (
        caseharden.attack(tiny, SFT(lr=1e-2), domain=ToyDomain(), budgets=[2], memory=memory)
        for memory in (None, {"checkpointing": True})
    )
    assert "checkpointing: true" in spared.spec and plain.curves == spared.curves
    with pytest.raises(CasehardenError, match=r"checkpoint.*Did you mean 'checkpointing'"):
        caseharden.attack(tiny, SFT(lr=1e-2), domain=ToyDomain(), memory={"checkpoint": True})


def test_two_hardenings_run_side_by_side_and_each_returns_its_own(tiny):
    made = []

    def harden(lr, progress=None):
        defense = {"safety_sft": {"lr": lr, "max_steps": 2, "batch_size": 2}}
        made.append(caseharden.harden(tiny, defense, domain=ToyDomain(), progress=progress))

    def meanwhile(happened, cells):
        for event in happened:
            if (event.cell.kind, event.what) == ("harden", "begun"):
                harden(3e-2)
                with pytest.raises(CasehardenError, match="in use by process"):
                    harden(1e-2)

    harden(1e-2, meanwhile)
    harden(1e-2)
    other, first, again = made
    assert first.folder == again.folder != other.folder
    assert [curve.defense for curve in first.results.curves] == ["undefended", "safety_sft"]


def test_a_failed_attack_is_told_of_and_a_failed_hardening_raised(tiny, caplog):
    with caplog.at_level(logging.WARNING):
        found = caseharden.attack(tiny, Fails(), domain=ToyDomain(), budgets=[5])
    assert "it diverged" in caplog.text
    assert not found.complete and not found.curves
    assert str(found).endswith("seed=0: it diverged")
    with pytest.raises(CasehardenError, match="was not hardened: it diverged"):
        caseharden.harden(tiny, Fails(max_steps=5), domain=ToyDomain(), output="hard")
    assert not (tiny.parent / "hard").exists()


def test_a_model_that_cannot_be_loaded_hides_no_study_that_ran(tiny, caplog):
    found = caseharden.attack(tiny, "sft", domain=ToyDomain(), budgets=[2])
    broken = tiny.parent / "broken"
    shutil.copytree(tiny, broken)
    save_file({}, broken / "model.safetensors")
    with pytest.raises(CasehardenError, match="broken"):
        caseharden.attack(broken, "sft", domain=ToyDomain(), budgets=[2])
    assert results(Store(Path("out/attack"), create=False)).study == found.study


def test_a_hardened_model_is_copied_out_only_if_asked_for(tiny):
    defense = {"safety_sft": {"max_steps": 2}}
    kept = caseharden.harden(tiny, defense, domain=ToyDomain())
    copied = caseharden.harden(tiny, defense, domain=ToyDomain(), output="hard")
    assert kept.folder.parent == Store(kept.folder.parents[1], create=False).folder / "weights"
    assert caseharden.load(kept).weights_hash() == caseharden.load("hard").weights_hash()
    assert caseharden.load(copied).weights_hash() != caseharden.load(tiny).weights_hash()


def test_a_method_written_in_a_notebook_is_refused(tiny, monkeypatch):
    notebook = ModuleType("notebook")  # has no file
    monkeypatch.setitem(sys.modules, "notebook", notebook)
    exec("from caseharden.attacks import SFT\nclass Mine(SFT): ...", vars(notebook))
    with pytest.raises(CasehardenError, match="Mine is defined in 'notebook', which is no file"):
        caseharden.attack(tiny, notebook.Mine(), domain=ToyDomain(), budgets=[2])


def test_jobs_are_one_unless_asked_for_and_an_audit_has_the_same_for_all_its_studies(tiny, monkeypatch):
    asked, closed = [], []

    class Workers(Local):
        def close(self):
            closed.append(True)

    def executor(specs, jobs, threads, on):
        asked.append((len(specs), jobs, threads, on))
        return Workers()

    monkeypatch.setattr("caseharden.study.jobs.executor", executor)
    small = {"domain": Taught(), "budgets": [1]}
    caseharden.attack(tiny, SFT(lr=1e-2), **small)
    caseharden.attack(tiny, SFT(lr=1e-2), **small, jobs=None)
    caseharden.attack(tiny, SFT(lr=1e-2), **small, jobs=3, threads=2)
    runs = suite.BenignRuns(lr=(3e-3,), budgets=(0, 1), seeds=(0, 1))
    stage = suite.Stage("only", (SFT(lr=1e-3),))
    asks = suite.Suite((stage,), (0, 1), runs, SafetySFT(max_steps=1), (0, 1), suite.Criteria(horizon=1))
    caseharden.audit(tiny, tiny, domain=Taught(), suite=asks, jobs=2, on="auto")
    assert asked == [(1, 1, None, None), (1, None, None, None), (1, 3, 2, None), (5, 2, None, "auto")]
    assert len(closed) == 4
