"""Descent with the optimizers that come with an extra."""

import importlib.util
import io

import pytest
import torch
from torch import nn

from caseharden.attacks import SFT
from caseharden.errors import CasehardenError
from caseharden.study.plan import Environment, plan
from caseharden.study.spec import parse
from caseharden.train.optim import EXTRAS, Descent

installed = pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs caseharden[memory]")


def layer(dtype: torch.dtype) -> nn.Linear:
    """One of more numbers than bitsandbytes leaves in float32 (4096)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Linear(128, 128, dtype=dtype)


def descended(model: nn.Linear, descent: Descent, steps: range) -> list[float]:
    losses = []
    for step in steps:
        inputs = torch.randn(8, 128, generator=torch.Generator().manual_seed(step)).to(model.weight.dtype)
        loss = model(inputs).float().square().mean()
        loss.backward()
        losses.append(float(loss))
        descent.step()
    return losses


def of(optimizer: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Linear, Descent]:
    model = layer(dtype)
    return model, Descent(SFT(lr=1e-3, optimizer=optimizer), model.parameters())


@pytest.mark.parametrize("optimizer", EXTRAS)
def test_an_optimizer_that_is_not_installed_is_an_error_that_says_what_to_install(optimizer, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CasehardenError, match=r"caseharden\[memory\]"):
        SFT(optimizer=optimizer)


@installed
@pytest.mark.filterwarnings("ignore:Paged optimizers")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("optimizer", EXTRAS)
def test_it_descends_as_adamw_does_and_resumes_bit_for_bit(optimizer, dtype):
    model, descent = of(optimizer, dtype)
    losses = descended(model, descent, range(20))
    theirs = descended(*of("adamw", dtype), range(20))
    assert losses == pytest.approx(theirs, rel=0.02)
    first, one = of(optimizer, dtype)
    descended(first, one, range(7))
    file = io.BytesIO()
    torch.save({"model": first.state_dict(), "descent": one.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    second, other = of(optimizer, dtype)
    second.load_state_dict(saved["model"])
    other.load_state_dict(saved["descent"])
    assert descended(second, other, range(7, 20)) == losses[7:]
    assert torch.equal(second.weight, model.weight)
    other.forget()
    assert not other.optimizer.state


@installed
def test_moments_take_a_byte_each():
    model, descent = of("adamw_8bit")
    descended(model, descent, range(1))
    state = descent.optimizer.state[model.weight]
    assert state["state1"].dtype == state["state2"].dtype == torch.uint8
    size = sum(t.nbytes for name, t in state.items() if torch.is_tensor(t) and "qmap" not in name)
    assert size < 2.05 * model.weight.numel()


@installed
def test_its_version_is_in_the_key_of_those_that_use_it_and_in_no_other():
    given = {"name": "x", "domain": "almanac", "models": ["almanac-victim"]}
    spec = parse({**given, "attacks": ["sft", {"sft": {"optimizer": "adamw_8bit"}}]})
    environment = Environment.of(spec, "cpu")
    found = [environment.inputs(cell, "weights")["packages"] for cell in plan(spec) if cell.kind == "attack"]
    assert ["bitsandbytes" in packages for packages in found] == [False, True]
