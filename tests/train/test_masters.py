"""Masters: float32 copies in which updates add up that bfloat16 weights would lose."""

import io
from dataclasses import replace

import pytest
import torch
from torch import nn

from caseharden.attacks import GRPO, PPO, SFT, Chain, Noise, Quantize, Strip
from caseharden.defenses import TAR, Patcher
from caseharden.lm.lm import LM
from caseharden.lm.memory import Memory
from caseharden.rl.rewards import Overlong
from caseharden.train.adapters import LoRA
from caseharden.train.masters import Masters
from caseharden.train.optim import Descent
from caseharden.train.tuner import Run

SMALL = SFT(lr=1e-2, batch_size=3, max_steps=4)
SMALL_RL = {"prompts": 3, "samples": 3, "max_steps": 3, "max_new_tokens": 4, "reward": Overlong(3)}
TUNERS = {
    "sft": SMALL,
    "lora": replace(SMALL, lora=LoRA(r=2)),
    "schedulefree": replace(SMALL, optimizer="schedulefree"),
    "grpo": GRPO(**SMALL_RL),
    "ppo": PPO(**SMALL_RL),
    "chain": Chain((replace(SMALL, max_steps=2), replace(SMALL, max_steps=2, lora=LoRA(r=2)))),
    "tar": TAR((replace(SMALL, max_steps=None),), max_steps=3, inner_steps=2, checkpoint_every=1),
    "patcher": Patcher((SMALL,), loops=2, attack_steps=2, defense_steps=2),
}


@pytest.fixture
def saved(tiny_lm, tmp_path):
    tiny_lm.save(tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture
def run_in(saved, toy_domain):
    """A run on the tiny model, its weights in bfloat16."""

    def make(role: str = "attacker") -> Run:
        return Run(LM.load(saved, precision="bfloat16_weights"), toy_domain, role, 0)

    return make


def role_of(tuner) -> str:
    return "defender" if isinstance(tuner, TAR | Patcher) else "attacker"


def weights_of(lm: LM) -> list[torch.Tensor]:
    return [p.detach().clone() for p in lm.model.parameters()]


def test_weights_are_kept_in_bfloat16_and_saved_so(run_in, saved, tmp_path):
    run = run_in()
    assert {p.dtype for p in run.lm.model.parameters()} == {torch.bfloat16}
    list(run.drive(SMALL))
    run.finish().save(tmp_path / "after")
    again = LM.load(tmp_path / "after", precision="bfloat16_weights")
    assert again.weights_hash() == run.lm.weights_hash() != LM.load(saved).weights_hash()


def stepped(how: SFT, parameter: nn.Parameter, steps: int, *, masters: bool) -> torch.Tensor:
    """A parameter after so many steps along a gradient of ones."""
    if masters:
        descent = Descent(how, [parameter])
        for _ in range(steps):
            descent.step([torch.ones_like(parameter)])
    else:
        optimizer = torch.optim.AdamW([parameter], lr=how.lr, weight_decay=0.0)
        for _ in range(steps):
            parameter.grad = torch.ones_like(parameter)
            optimizer.step()
    return parameter.detach().float()


def test_updates_too_small_for_bfloat16_add_up_in_masters():
    """1 − 200·1e-4 = .98; half of bfloat16's step below 1 is 2e-3, so that alone each update is lost."""
    how = SFT(lr=1e-4, clip=None)
    start = torch.ones(64)
    exact = stepped(how, nn.Parameter(start.clone()), 200, masters=True)
    lost = stepped(how, nn.Parameter(start.bfloat16()), 200, masters=False)
    kept = stepped(how, nn.Parameter(start.bfloat16()), 200, masters=True)
    assert torch.equal(lost, start)
    assert torch.equal(kept, exact.bfloat16().float())
    assert exact.max() < 0.99


def test_the_model_follows_the_float32_runs_trajectory(run_in, saved, toy_domain):
    how = SFT(lr=2e-5, batch_size=4, max_steps=60, optimizer="adam")
    base = LM.load(saved)
    whole = Run(LM.load(saved), toy_domain, "attacker", 0)
    run = run_in()
    start = weights_of(run.lm)
    list(whole.drive(how))
    list(run.drive(how))
    moved = torch.cat([(a - b).flatten() for a, b in zip(weights_of(whole.lm), weights_of(base), strict=True)])
    masters = run._tracked["descent"].masters.values
    ours = torch.cat([(m.detach() - s.float()).flatten() for m, s in zip(masters, start, strict=True)])
    assert torch.nn.functional.cosine_similarity(ours, moved, dim=0) > 0.95
    assert all(torch.equal(p, m.bfloat16()) for p, m in zip(run.lm.model.parameters(), masters, strict=True))


@pytest.mark.parametrize("tuner", TUNERS.values(), ids=TUNERS)
def test_it_resumes_bit_for_bit(tuner, run_in):
    straight = run_in(role_of(tuner))
    losses = [metrics["loss"] for metrics in straight.drive(tuner)]
    end = straight.finish().weights_hash()
    first = run_in(role_of(tuner))
    stop = len(losses) // 2
    for _ in first.drive(tuner):
        if first.step == stop:
            break
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = run_in(role_of(tuner))
    second.load_state_dict(torch.load(file, weights_only=True))
    assert [metrics["loss"] for metrics in second.drive(tuner)] == losses[stop:]
    assert second.finish().weights_hash() == end


def test_looking_at_schedule_free_averages_changes_nothing(run_in):
    run = run_in()
    for _ in run.drive(replace(SMALL, optimizer="schedulefree")):
        before = run.lm.weights_hash()
        with run.evaluating() as lm:
            averaged = lm.weights_hash()
        assert run.lm.weights_hash() == before
    assert run.finish().weights_hash() == averaged != before


@pytest.mark.parametrize("attack", [Quantize(4), Noise(), "strip"], ids=str)
def test_attacks_on_weights_work_on_bfloat16(attack, run_in, saved, monkeypatch):
    run = run_in()
    before = run.lm.weights_hash()
    if attack == "strip":
        monkeypatch.setattr("caseharden.lm.sources.resolve", lambda name: saved)
        next(run.lm.model.parameters()).data.add_(0.1)
        attack = Strip(base="base", rank=1)
    list(run.drive(attack))
    assert run.lm.weights_hash() != before
    assert {p.dtype for p in run.lm.model.parameters()} == {torch.bfloat16}


def test_parameters_in_float32_are_their_own_masters():
    parameters = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2, dtype=torch.float64))]
    masters = Masters(parameters, offloaded=True)  # they are on the CPU already
    assert all(a is b for a, b in zip(masters.values, parameters, strict=True))
    assert masters.state_dict() == {"copied": []}


def test_masters_are_offloaded_where_the_model_is_elsewhere():
    parameter = nn.Parameter(torch.ones(2, device="meta"))
    assert Masters([parameter]).values[0] is parameter
    with pytest.raises(NotImplementedError, match="meta"):  # a tensor without data cannot be copied off
        Masters([parameter], offloaded=Memory(offload=True).offload)
