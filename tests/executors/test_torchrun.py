"""A study by torchrun: two processes, one driver, the records of one process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from caseharden.errors import CasehardenError
from caseharden.executors import torchrun
from caseharden.store.results import results
from caseharden.store.store import Store
from caseharden.store.weights import Weights
from caseharden.study import jobs
from caseharden.study.run import run_study
from caseharden.study.spec import load

SPEC = """
name: both
domain: "toys:ToyDomain"
models: [{model}]
defenses: [none, {{safety_sft: {{max_steps: 2, batch_size: 3}}}}]
attacks: [{{sft: {{lr: 1e-2, batch_size: 3}}}}]
budgets: [0, 1, 3]
"""


def by_two(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "caseharden",
    ]
    here = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    threads = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": here}
    return subprocess.run(
        [*command, *arguments],
        env={**os.environ, **threads, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def told(folder: Path) -> list[tuple[object, ...]]:
    found = results(Store(folder, create=False))
    assert found.complete
    return [
        (curve.defense, point.budget, name, reading.value, reading.n)
        for curve in found.curves
        for point in curve.points
        for name, reading in point.readings.items()
    ]


def test_a_study_by_two_processes_has_the_records_of_one(tiny_lm, tmp_path):
    tiny_lm.save(tmp_path / "model")
    spec = tmp_path / "spec.yaml"
    spec.write_text(SPEC.format(model=tmp_path / "model"))
    both = by_two("study", "run", str(spec), "--store", str(tmp_path / "two"), "--checkpoint-every", "0")
    assert both.returncode == 0, both.stderr[-3000:]
    assert both.stdout.count("stored in") == 1, "one of them drives"
    list(run_study(load(spec), Store(tmp_path / "one"), threads=1))
    one, two = told(tmp_path / "one"), told(tmp_path / "two")
    assert len(one) > 8
    for (*what, value, n), (*other, theirs, theirs_n) in zip(one, two, strict=True):
        assert what == other and n == theirs_n
        assert theirs == pytest.approx(value, rel=1e-4, abs=1e-6)
    for folder in (tmp_path / "two" / "weights").iterdir():
        assert Weights(folder.parent).find(folder.name), "what is written is a model, under its own fingerprint"
    assert not [*(tmp_path / "two" / "checkpoints").iterdir()]


def test_who_is_not_started_by_torchrun_leads(monkeypatch):
    with torchrun.together() as leads:
        assert leads and not torchrun.launched()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert torchrun.launched()
    with pytest.raises(CasehardenError, match="each would run the study"):
        jobs.executor([], None, None)
    with pytest.raises(CasehardenError, match="on one cell together"):
        jobs.executor([], 2, None)
