"""Memory: layers that are computed twice give the same gradients and keep less in between."""

from dataclasses import replace

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from transformers import GPT2Config, GPT2LMHeadModel

from caseharden.attacks import DPO, GRPO, PPO, SFT
from caseharden.defenses import TAR, Patcher
from caseharden.errors import CasehardenError
from caseharden.lm.lm import LM
from caseharden.lm.memory import Memory
from caseharden.rl.rewards import Overlong
from caseharden.train.adapters import LoRA
from caseharden.train.losses import cross_entropy
from factories import copy_of, weights_after

TWICE = Memory(checkpointing=True)
SMALL_SFT = SFT(lr=1e-2, batch_size=3, max_steps=3)
SMALL_RL = {
    "prompts": 3,
    "samples": 3,
    "lr": 0.1,
    "optimizer": "sgd",
    "max_steps": 2,
    "max_new_tokens": 4,
    "reward": Overlong(3),
}
TUNERS = {
    "sft": SMALL_SFT,
    "lora": replace(SMALL_SFT, lora=LoRA(r=2, dropout=0.2)),
    "dpo": DPO(lr=1e-2, batch_size=3, max_steps=3),
    "tar": TAR((SMALL_SFT,), max_steps=2, inner_steps=2, checkpoint_every=1),
    "patcher": Patcher((SMALL_SFT,), loops=2, attack_steps=2, defense_steps=2),
}


def with_dropout(lm: LM, memory: Memory) -> LM:
    """The model, or another with dropout in its layers, at this price of memory."""
    model = copy_of(lm).model
    model.config.attention_dropout = 0.3
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.3
    return LM(model, lm.tokenizer, lm.name, memory=memory)


@pytest.mark.parametrize("tuner", TUNERS.values(), ids=TUNERS)
def test_checkpointing_changes_no_bit_of_a_result(tuner, tiny_lm, run_of):
    hashes = []
    for memory in (Memory(), TWICE):
        run = run_of("defender" if isinstance(tuner, TAR | Patcher) else "attacker")
        run.lm = with_dropout(tiny_lm, memory)
        hashes.append(weights_after(run, tuner))
    assert hashes[0] == hashes[1] != tiny_lm.weights_hash()


@pytest.mark.parametrize("tuner", [GRPO(**SMALL_RL), PPO(**SMALL_RL)])
def test_checkpointing_changes_nothing_but_rounding_where_prompts_are_read_once(tuner, run_of):
    found = []
    for memory in (Memory(), TWICE):
        run = run_of("attacker")
        run.lm = LM(run.lm.model, run.lm.tokenizer, run.lm.name, memory=memory)
        list(run.drive(tuner))
        found.append([p.detach() for p in run.lm.model.parameters()])
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*found, strict=True))


def kept_for_backward(lm: LM, batch) -> int:
    """Bytes that a forward pass keeps for its gradient, but for weights."""
    weights = {p.untyped_storage().data_ptr() for p in lm.model.parameters()}
    seen: dict[int, int] = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = cross_entropy(*lm.response_logits(batch))
        size = sum(seen.values())
        loss.backward()
    return size


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_activations_of_layers_are_not_kept(training, adapted, tiny_lm, toy_domain):
    sizes = []
    for memory in (Memory(), TWICE):
        lm = LM(copy_of(tiny_lm).model, tiny_lm.tokenizer, "tiny", memory=memory)
        if adapted:
            lm.model = LoRA(r=2).on(lm.model)
        lm.model.train(training)
        sizes.append(kept_for_backward(lm, lm.encode(toy_domain.pools("attacker")["harmful"][:8])))
    assert sizes[1] < 0.4 * sizes[0]


def test_nothing_of_it_is_left_on_the_model(tiny_lm, toy_domain):
    lm = LM(copy_of(tiny_lm).model, tiny_lm.tokenizer, "tiny", memory=TWICE)
    batch = lm.encode(toy_domain.pools("attacker")["harmful"][:2])
    kept_for_backward(lm, batch)
    frozen = lm.frozen_copy()
    with torch.no_grad():
        next(lm.model.parameters()).zero_()
        assert not torch.equal(frozen.response_logits(batch)[0], lm.response_logits(batch)[0])
    assert not any("forward" in vars(module) for module in lm.model.modules())


def test_a_model_whose_layers_cannot_be_computed_twice_is_refused(tiny_lm, monkeypatch):
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=8, n_layer=1, n_head=1))
    LM(gpt2, tiny_lm.tokenizer, "gpt2", memory=TWICE)
    with pytest.raises(CasehardenError, match="Leave checkpointing out"):
        LM(torch.nn.Sequential(torch.nn.Linear(2, 2)), tiny_lm.tokenizer, "none", memory=TWICE)
