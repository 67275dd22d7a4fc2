"""Adapters: what a run with them needs no copy of."""

import io

import pytest
import torch

from caseharden.attacks import DPO, GRPO, PPO, SFT, Chain
from caseharden.defenses import RandomMapping, Reteach, SafetySFT
from caseharden.errors import CasehardenError
from caseharden.rl.rewards import Closeness, Overlong, Sum
from caseharden.train.adapters import BelowAdapters, LoRA, switched_off
from caseharden.train.tuner import Run

LORA = {"lora": LoRA(r=2), "lr": 1e-2}
DROPPING = {"lora": LoRA(r=2, dropout=0.3), "lr": 1e-2}
SMALL_RL = {"prompts": 3, "samples": 3, "max_steps": 3, "max_new_tokens": 4}
TUNERS = {
    "safety_sft": SafetySFT({"benign": 1.0}, batch_size=3, max_steps=3, kl=0.5, hidden=0.5, **DROPPING),
    "dpo": DPO(batch_size=3, max_steps=3, **LORA),
    "dpo, dropout": DPO(batch_size=3, max_steps=3, **DROPPING),
    "grpo": GRPO(**SMALL_RL, **LORA, kl=0.1, reward=Sum((Overlong(3), Closeness()))),
    "ppo": PPO(**SMALL_RL, **LORA, kl=0.1, reward=Overlong(3)),
}


def followed(run: Run, tuner) -> tuple[list[dict[str, float]], str]:
    seen = list(run.drive(tuner))
    return seen, run.finish().weights_hash()


@pytest.mark.parametrize("tuner", TUNERS.values(), ids=TUNERS)
def test_the_model_below_its_adapters_is_the_reference_bit_for_bit(tuner, run_of, monkeypatch):
    below = followed(run_of("defender"), tuner)
    monkeypatch.setattr(BelowAdapters, "of", lambda lm: _before(run_of("defender"), lm))
    assert followed(run_of("defender"), tuner) == below


def _before(run: Run, lm):
    """What the reference was once: a copy of the whole model, taken before adapters were put in."""
    copied = run.lm.frozen_copy()
    copied.meter, copied.capabilities = lm.meter, lm.capabilities
    return copied


@pytest.mark.parametrize("tuner", TUNERS.values(), ids=TUNERS)
def test_no_second_copy_of_the_model_is_held(tuner, run_of):
    run = run_of("defender")
    next(run.drive(tuner))
    reference = run.reference()
    assert reference.model is run.lm.model
    assert not run.state_dict()["tracked"]["reference"]


def test_a_run_without_adapters_has_a_copy(run_of):
    run = run_of("defender")
    next(run.drive(DPO(batch_size=3)))
    mine, its = ({p.data_ptr() for p in lm.model.parameters()} for lm in (run.lm, run.reference()))
    assert not mine & its


def test_switching_adapters_off_changes_no_flag(run_of):
    run = run_of("attacker")
    run.trainable(LoRA(r=2))
    adapters = [p for name, p in run.lm.model.named_parameters() if "lora_A" in name]
    adapters[0].requires_grad_(False)
    with torch.no_grad():
        for name, parameter in run.lm.model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.1)
    batch = run.lm.encode(run.pool("harmful")[:2])
    for training in (True, False):
        run.lm.model.train(training)
        with switched_off(run.lm.model):
            off = run.lm.response_logits(batch)[0]
            assert not run.lm.model.training
        assert not torch.equal(run.lm.response_logits(batch)[0], off)
        assert all(module.training == training for module in run.lm.model.modules())
        assert [p.requires_grad for p in adapters] == [False] + [True] * (len(adapters) - 1)


@pytest.mark.parametrize("tuner", [SFT(batch_size=3, **LORA), RandomMapping(max_steps=2, **LORA)])
def test_adapters_are_put_in_before_objectives_look_at_the_model(tuner, run_of):
    run = run_of("defender")
    assert next(run.drive(tuner))["loss"] > 0


def saved(run: Run) -> tuple[int, io.BytesIO]:
    """A run's state as a checkpoint writes it, and its size in bytes."""
    file = io.BytesIO()
    torch.save(run.state_dict(), file)
    size = file.tell()
    file.seek(0)
    return size, file


FROZEN = [
    DPO(batch_size=3, max_steps=4, **LORA),
    GRPO(**SMALL_RL, **LORA, kl=0.1, reward=Overlong(3)),
    SFT(lr=1e-2, batch_size=3, max_steps=4, scope="norms"),
    Chain((SFT(lr=1e-2, max_steps=2), SFT(max_steps=2, **LORA)), keep_original=True),
    Reteach({"benign": 3.0, "refusal": 1.0}, batch_size=4, max_steps=4, warmup=1, max_new_tokens=4, **LORA),
]


@pytest.mark.parametrize("tuner", FROZEN, ids=lambda tuner: type(tuner).__name__)
def test_a_run_goes_on_from_a_checkpoint_without_what_it_does_not_train(tuner, run_of):
    straight, end = followed(run_of("defender"), tuner)
    for stop in range(1, len(straight)):
        first = run_of("defender")
        for _ in first.drive(tuner):
            if first.step == stop:
                break
        second = run_of("defender")
        second.load_state_dict(torch.load(saved(first)[1], weights_only=True))
        seen, hashed = followed(second, tuner)
        assert (seen, hashed) == (straight[stop:], end)


@pytest.mark.parametrize("tuner", FROZEN[:3], ids=lambda tuner: type(tuner).__name__)
def test_the_weights_below_are_in_no_checkpoint(tuner, run_of):
    run = run_of("defender")
    next(run.drive(tuner))
    trained = sum(p.numel() for p in run.lm.model.parameters() if p.requires_grad)
    tracked = run.state_dict()["tracked"]
    assert sum(value.numel() for value in tracked["model"].values()) == trained
    tensors = [t for t in tensors_of(tracked) if t.is_floating_point()]
    assert sum(t.numel() for t in tensors) < 4 * trained + 500  # two moments, and what RL has in its buffer


def tensors_of(value) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else []
    return [tensor for part in parts for tensor in tensors_of(part)]


def test_what_a_tuner_changes_before_it_trains_is_in_its_checkpoints(run_of):
    tuner = FROZEN[-1]
    run = run_of("defender")
    next(run.drive(tuner))
    assert len(run.state_dict()["tracked"]["model"]) == len(run.lm.model.state_dict())


def test_a_checkpoint_of_another_part_is_refused(run_of):
    first, second = run_of("attacker"), run_of("attacker")
    next(first.drive(SFT(scope="norms")))
    second.load_state_dict(first.state_dict())
    with pytest.raises(CasehardenError, match="not those that this run trains"):
        next(second.drive(SFT(scope="mlps")))
