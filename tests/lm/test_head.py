"""The head: logits of some tokens at a time say what all at once say, and are not all held at once."""

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM

from caseharden.defenses import SafetySFT
from caseharden.lm import head
from caseharden.lm.head import Logits, headless
from caseharden.lm.lm import LM
from caseharden.lm.logps import entropy, token_logps
from caseharden.lm.memory import Memory
from caseharden.train.adapters import BelowAdapters, LoRA
from caseharden.train.losses import kl
from factories import copy_of

TWICE = Memory(checkpointing=True)


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(head, "TOKENS", 5)


@pytest.fixture
def spare(tiny_lm):
    return LM(copy_of(tiny_lm).model, tiny_lm.tokenizer, "tiny", memory=TWICE)


@pytest.mark.parametrize("value", ["likelihood", "entropy", "kl"])
def test_parts_say_what_the_whole_says(value, spare, tiny_lm, toy_domain):
    found = []
    batch = spare.encode(toy_domain.pools("attacker")["harmful"][:6])
    for lm in (tiny_lm, spare):
        logits, states_LBTD = lm.response(batch, states=True)
        assert (logits.head is None) == (lm is tiny_lm)
        with torch.no_grad():
            other = Logits(logits.whole() * 0.5) if lm is tiny_lm else lm.response(batch)[0]
        if lm is spare:
            other = Logits(other.given_BRX * 0.5, other.head)  # no bias in the head: half the logits
        told = {"likelihood": (token_logps, batch.targets_BR), "entropy": (entropy,), "kl": (kl, other)}[value]
        values_BR = logits.each(*told)
        values_BR.sum().backward()
        gradients = [p.grad for p in lm.model.parameters()]
        lm.model.zero_grad()
        found.append([values_BR, states_LBTD, logits.whole(), *gradients])
    assert all(torch.allclose(a, b, atol=1e-4, rtol=1e-4) for a, b in zip(*found, strict=True))


def test_no_more_logits_exist_at_a_time_than_of_some_tokens(spare, toy_domain):
    batch = spare.encode(toy_domain.pools("attacker")["harmful"][:6])
    assert batch.targets_BR.numel() > 10
    seen = []

    def value(logits_1NV, targets_1N):
        seen.append(logits_1NV.shape)
        return token_logps(logits_1NV, targets_1N)

    spare.response(batch)[0].each(value, batch.targets_BR).sum().backward()
    assert {shape[0] for shape in seen} == {1} and max(shape[1] for shape in seen) == 5
    assert sum(shape[1] for shape in seen) == 2 * batch.targets_BR.numel(), "forward, and again for the gradient"


def test_a_method_comes_to_the_same(tiny_lm, run_of):
    found = []
    for memory in (Memory(), TWICE):
        run = run_of("defender")
        run.lm = LM(copy_of(tiny_lm).model, tiny_lm.tokenizer, "tiny", memory=memory)
        tuner = SafetySFT({"refusal": 1.0, "benign": 1.0}, lr=1e-3, max_steps=3, kl=1.0, hidden=0.5)
        losses = [metrics["loss"] for metrics in run.drive(tuner)]
        found.append(losses)
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_below_adapters_the_head_is_that_of_the_pass(spare, toy_domain):
    spare.model = LoRA(r=2).on(spare.model)
    batch = spare.encode(toy_domain.pools("attacker")["harmful"][:2])
    assert spare.response(batch)[0].head is not None
    assert BelowAdapters.of(spare).response(batch)[0].head is None


def test_logits_that_a_head_alone_does_not_make_are_left_whole(tiny_lm, toy_domain):
    """Gemma 2 bounds what its head gives."""
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = Gemma2Config(
        vocab_size=len(tiny_lm.tokenizer), num_key_value_heads=1, head_dim=8, final_logit_softcapping=30.0, **sizes
    )
    model = Gemma2ForCausalLM(config)
    lm = LM(model, tiny_lm.tokenizer, "gemma2", memory=TWICE)
    assert not lm.capabilities.head
    logits, _ = lm.response(lm.encode(toy_domain.pools("attacker")["harmful"][:2]))
    assert logits.head is None and logits.whole().abs().max() < 3, "too small for the bound to show"


def test_the_head_is_put_back_even_if_the_model_fails(spare):
    with pytest.raises(ZeroDivisionError), headless(spare.model):
        _ = 1 / 0
    assert "forward" not in vars(spare.model.get_output_embeddings())
