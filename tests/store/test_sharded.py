"""Saved by so many processes, resumed by so many others: a run goes on as if it had never stopped."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from caseharden.attacks import GRPO, PPO, SFT, Chain
from caseharden.defenses import TAR, Patcher, SafetySFT
from caseharden.lm.lm import LM
from caseharden.lm.placement import here, whole
from caseharden.rl.rewards import Judged
from caseharden.store.weights import Checkpoint
from caseharden.train.adapters import LoRA
from caseharden.train.objectives import Imitate, StayNear
from caseharden.train.tuner import Run
from sharding import in_processes
from toys import Opens, ToyDomain

SMALL = SFT(lr=1e-2, batch_size=3)
RL = {"reward": Judged(Opens()), "prompts": 3, "samples": 4, "max_new_tokens": 4, "lr": 1e-3}
TUNERS = {
    "sft": ("attacker", replace(SMALL, max_steps=4)),
    "sft, lora": ("attacker", replace(SMALL, lora=LoRA(r=2), max_steps=4)),
    "chain": (
        "attacker",
        Chain((replace(SMALL, max_steps=2, optimizer="schedulefree"), replace(SMALL, max_steps=2))),
    ),
    "safety_sft": ("defender", SafetySFT(lr=1e-2, batch_size=5, max_steps=4, kl=0.5)),
    "tar": (
        "defender",
        TAR((SMALL,), Imitate(batch_size=3), StayNear({"benign": 1.0}, 3), max_steps=4, inner_steps=4),
    ),
    "patcher": (
        "defender",
        Patcher((SMALL,), Imitate(batch_size=3), None, loops=2, attack_steps=2, defense_steps=3, vectors=2),
    ),
    "grpo": ("attacker", GRPO(**RL, updates=2, kl=0.1, max_steps=6)),
    "ppo": ("attacker", PPO(**RL, updates=2, max_steps=6)),
}


def begun(folder: Path, out: Path, name: str) -> tuple[Run, Checkpoint]:
    lm = LM.load(folder, placement=here(torch.device("cpu")))
    return Run(lm, ToyDomain(), TUNERS[name][0], 0), Checkpoint.of(out, name)


def saved(folder: Path, out: Path) -> None:
    """The first steps of each tuner, an early one saved first."""
    for name, (_, tuner) in TUNERS.items():
        run, checkpoint = begun(folder, out, name)
        for _ in islice(run.drive(tuner), 3 if run.role == "attacker" else 4 if name == "patcher" else 2):
            checkpoint.save(run)


def resumed(folder: Path, out: Path, found: Path) -> None:
    """What comes after, and the weights in the end."""
    told = {}
    for name, (_, tuner) in TUNERS.items():
        run, checkpoint = begun(folder, out, name)
        checkpoint.restore(run)
        steps = [(run.step, metrics["loss"]) for metrics in run.drive(tuner)]
        checkpoint.save(run)  # by as many as have resumed it: the only one left
        told[name] = steps, [whole(p).detach() for p in run.finish().model.parameters()]
    if here(torch.device("cpu")).rank == 0:
        torch.save(told, found)


def test_a_run_goes_on_over_any_number_of_processes(tiny_lm, tmp_path):
    folder = tmp_path / "model"
    tiny_lm.save(folder)
    saved(folder, tmp_path / "1")
    in_processes(2, saved, folder, tmp_path / "2")
    for world in (1, 2):
        left = sorted(path.suffix for path in (tmp_path / f"{world}" / "checkpoints").iterdir())
        assert left == [".pt" if world == 1 else ".parts"] * len(TUNERS)
    resumed(folder, tmp_path / "none", tmp_path / "never stopped")
    whole_way = torch.load(tmp_path / "never stopped", weights_only=True)
    resumed(folder, tmp_path / "2", tmp_path / "2 to 1")
    in_processes(2, resumed, folder, tmp_path / "1", tmp_path / "1 to 2")
    in_processes(3, resumed, folder, tmp_path / "1", tmp_path / "2 to 3")  # which the two have saved last
    for way in ("2 to 1", "1 to 2"):
        for name, (steps, weights) in torch.load(tmp_path / way, weights_only=True).items():
            expected, ends = whole_way[name]
            assert steps and len(steps) < len(expected), (way, name)
            for (step, loss), (at, right) in zip(steps, expected[-len(steps) :], strict=True):
                assert step == at and loss == pytest.approx(right, rel=1e-5, abs=1e-6), (way, name)
            for a, b in zip(weights, ends, strict=True):
                assert torch.linalg.vector_norm(a - b) <= 1e-4 * torch.linalg.vector_norm(b), (way, name)
    for name, (steps, weights) in torch.load(tmp_path / "2 to 3", weights_only=True).items():
        two = torch.load(tmp_path / "1 to 2", weights_only=True)[name][1]
        assert not steps
        if name not in (
            "sft, lora",
            "chain",
        ):  # summed in another order; forgotten when over
            assert all(torch.equal(a, b) for a, b in zip(weights, two, strict=True)), name
