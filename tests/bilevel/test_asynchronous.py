"""An attacker beside the defender: the same attacks, nobody waits, and either may be killed."""

import io
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from caseharden.attacks import SFT
from caseharden.bilevel import asynchronous
from caseharden.bilevel.asynchronous import (
    ALIVE,
    YOUNG_SECONDS,
    Asynchronous,
    AttackerProcess,
    Exchange,
    clear_abandoned,
)
from caseharden.defenses.patcher import Patcher
from caseharden.errors import CasehardenError, TrainingFailed
from caseharden.train.objectives import Imitate
from caseharden.train.tuner import Run

PATCHER = Patcher(
    (SFT(lr=1e-2, batch_size=2),),
    Imitate(batch_size=4),
    None,
    loops=40,
    attack_steps=4,
    defense_steps=5,
    attacker=Asynchronous(),
)
PATIENCE = 120.0


@pytest.fixture
def process(tmp_path, run_of):
    made = []

    def make(patcher: Patcher = PATCHER) -> AttackerProcess:
        run = run_of("defender", 3)
        run.trainable()
        made.append(AttackerProcess(Asynchronous(), patcher, run, Exchange(tmp_path)))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def waited(found):
    """The first answer of `found` that is not empty."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if answer := found():
            return answer
        time.sleep(0.01)
    raise AssertionError("nothing came within two minutes")


def test_an_asynchronous_attack_is_the_sequential_one(process):
    attacker = process()
    (came,) = waited(lambda: attacker.new_attacks(5))
    expected = PATCHER.attack(attacker.run, 5)
    assert came.launched == 5
    assert came.metrics == expected.metrics
    for ours, theirs in zip(came.vector.vector, expected.vector.vector, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)
    assert not attacker.new_attacks(6)


def test_an_attack_ends_where_it_ended_though_theta_has_moved_since(process):
    attacker = process()
    vector = PATCHER.attack(attacker.run, 5).vector.vector
    ended = [p.detach() + v for p, v in zip(attacker.parameters, vector, strict=True)]
    assert not attacker.new_attacks(5)
    with torch.no_grad():
        torch._foreach_add_(attacker.parameters, 0.5)
    (came,) = waited(lambda: attacker.new_attacks(6))
    for p, v, end in zip(attacker.parameters, came.vector.vector, ended, strict=True):
        assert torch.allclose(p + v, end, atol=1e-5)


def test_an_attacker_that_is_killed_is_started_again(process):
    attacker = process()
    first = attacker.process
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    assert waited(lambda: attacker.new_attacks(5))[0].launched == 5
    assert attacker.process is not first


def test_an_attacker_that_fails_says_why(process):
    attacker = process(replace(PATCHER, adversaries=(SFT(max_steps=2),)))
    with pytest.raises(TrainingFailed, match="ended at step 2 of 4"):
        waited(lambda: attacker.new_attacks(5))


def test_versions_are_exchanged_where_they_fit(tmp_path, monkeypatch):
    monkeypatch.setattr(asynchronous, "SHARED_MEMORY", tmp_path)
    assert asynchronous.exchange_root(2**10) == tmp_path
    assert asynchronous.exchange_root(2**60) is None
    monkeypatch.setattr(asynchronous, "SHARED_MEMORY", tmp_path / "nowhere")
    assert asynchronous.exchange_root(2**10) is None


def test_patcher_with_an_asynchronous_attacker(tmp_path, monkeypatch, run_of):
    monkeypatch.setattr(asynchronous, "SHARED_MEMORY", tmp_path)
    patcher = replace(PATCHER, attacker=Asynchronous(max_rounds=4))
    run, seen = run_of("defender", 3), []
    for metrics in run.drive(patcher):
        seen.append(metrics)
        time.sleep(0.05)  # the model is so small that the defender would be through before the first attack
    assert len(seen) == run.step == 200
    attacked = [(step, metrics["staleness"]) for step, metrics in enumerate(seen) if "attacked" in metrics]
    assert attacked
    assert all(0 <= age <= 20 and (step - age) % 5 == 0 for step, age in attacked)
    assert len({step - age for step, age in attacked}) > 3
    assert not list(tmp_path.iterdir())


def test_a_hardening_that_met_no_attack_fails(run_of):
    """It would be safety fine-tuning under another name."""
    with pytest.raises(TrainingFailed, match="met a simulated attack"):
        for _ in run_of("defender", 3).drive(replace(PATCHER, loops=2, defense_steps=1, attack_steps=10**6)):
            pass


def test_a_defender_goes_on_with_the_attacks_that_it_held(run_of):
    def go(run: Run, patcher: Patcher) -> dict[str, float]:
        for metrics in run.drive(patcher):
            if "attacked" in metrics:
                return metrics
            time.sleep(0.05)
        raise AssertionError("no attack came in")

    first = run_of("defender", 3)
    found = go(first, replace(PATCHER, loops=400))
    saved = io.BytesIO()
    torch.save(first.state_dict(), saved)
    saved.seek(0)
    second = run_of("defender", 3)
    second.load_state_dict(torch.load(saved, weights_only=True))
    again = next(iter(second.drive(replace(PATCHER, loops=400))))
    assert again["staleness"] == found["staleness"] + 1
    assert again["vector_norm"] == pytest.approx(found["vector_norm"])


DEFENDER = """
import sys
from pathlib import Path
from caseharden.attacks import SFT
from caseharden.bilevel import asynchronous
from caseharden.defenses.patcher import Patcher
from caseharden.lm.lm import LM
from caseharden.train.tuner import Run
from toys import ToyDomain

if __name__ == "__main__":
    asynchronous.SHARED_MEMORY = Path(sys.argv[2])
    patcher = Patcher((SFT(lr=1e-3),), benign=None, loops=10**6, attack_steps=2, defense_steps=2,
                      attacker=asynchronous.Asynchronous())
    for metrics in Run(LM.load(sys.argv[1]), ToyDomain(), "defender", 0).drive(patcher):
        if "attacked" in metrics:
            print("attacked", flush=True)
"""


def test_when_the_defender_is_killed_the_attacker_ends_and_clears_up(tiny_lm, tmp_path):
    script, model, folder = tmp_path / "defender.py", tmp_path / "model", tmp_path / "exchange"
    script.write_text(DEFENDER)
    folder.mkdir()
    tiny_lm.save(model)
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    process = subprocess.Popen(
        [sys.executable, script, model, folder], stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": path}
    )
    assert process.stdout
    assert process.stdout.readline().strip() == b"attacked"
    assert list(folder.iterdir())
    process.kill()
    process.wait()
    waited(lambda: not list(folder.iterdir()))


def test_what_killed_processes_left_is_cleared_and_nothing_else(tmp_path):
    old = time.time() - 2 * YOUNG_SECONDS
    for name in ("caseharden-left", "caseharden-held", "caseharden-new", "caseharden-other", "other"):
        (tmp_path / name).mkdir()
        if name != "caseharden-other":
            (tmp_path / name / ALIVE).touch()
        if name != "caseharden-new":
            os.utime(tmp_path / name, (old, old))
    with FileLock(tmp_path / "caseharden-held" / ALIVE):
        clear_abandoned(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"caseharden-held", "caseharden-new", "caseharden-other", "other"}


def test_a_version_published_twice_is_still_there(tmp_path):
    exchange = Exchange(tmp_path)
    for value in (1.0, 2.0):
        exchange.publish("theta", 5, [torch.tensor([value])], {"loss": value})
    step, (tensor,), metrics = exchange.newest("theta", after=-1)
    assert (step, tensor.item(), metrics) == (5, 2.0, {"loss": 2.0})
    exchange.publish("theta", 10, [torch.tensor([3.0])])
    assert exchange.last("theta") == 10
    assert len(list(tmp_path.iterdir())) == 1
    assert exchange.newest("theta", after=10) is None


def test_bad_fields():
    for fields in ({"threads": 0}, {"max_rounds": 0}):
        with pytest.raises(CasehardenError, match="asynchronous needs"):
            Asynchronous(**fields)
