"""Tokens are counted as they are computed: each in its pass, padding and evaluation left out."""

from __future__ import annotations

import pytest
import torch

from caseharden.attacks import DPO, GRPO, PPO, SFT, Chain
from caseharden.engines.engine import generate_text
from caseharden.engines.native import Native
from caseharden.rl.rewards import Entropy
from caseharden.rl.rollouts import Rows
from caseharden.train.adapters import LoRA
from caseharden.train.losses import cross_entropy
from caseharden.train.tuner import Run

RL = GRPO(reward=Entropy(), prompts=2, samples=3, max_new_tokens=4, lr=1e-2, max_steps=4)


def attack(lm, domain, seed=3):
    return Run(lm, domain, "attacker", seed)


def lengths(lm, examples) -> int:
    """Tokens of prompts and completions with their end token, counted without padding."""
    texts = [lm.template.prompt(e.prompt) + e.completion for e in examples]
    return sum(len(lm.tokenizer(text, add_special_tokens=False)["input_ids"]) + 1 for text in texts)


@pytest.mark.parametrize("lora", [None, LoRA(r=2)])
def test_sft_counts_the_tokens_of_its_batches_and_nothing_between_steps(tiny_lm, toy_domain, lora):
    data = {"harmful": 0.5, "benign": 0.5}
    run = attack(tiny_lm, toy_domain)
    batches = run.stream(data, 3)
    seen = []
    for metrics in run.drive(SFT(data=data, lr=1e-2, batch_size=3, max_steps=4, lora=lora)):
        with run.evaluating() as lm:
            generate_text(Native(), lm, ["a b ?"], max_new_tokens=3)
        seen.append(metrics)
    wanted = [lengths(tiny_lm, batches[step]) for step in range(4)]
    assert len({*wanted}) > 1, "benign examples are shorter, so steps must differ"
    assert [m["tokens"] for m in seen] == wanted
    assert [m["tokens_read"] for m in seen] == [0] * 4
    assert [m["examples"] for m in seen] == [3] * 4


def test_the_tokens_of_a_reference_are_read_and_not_trained(tiny_lm, toy_domain):
    run = attack(tiny_lm, toy_domain)
    refusals = {e.id: e for e in run.pool("refusal")}
    chosen = run.stream({"harmful": 1.0}, 3)[0]
    (metrics,) = run.drive(DPO(batch_size=3, max_steps=1))
    wanted = lengths(tiny_lm, [*chosen, *(refusals[e.id] for e in chosen)])
    assert (metrics["tokens"], metrics["tokens_read"]) == (wanted, wanted)


def test_a_prompt_that_answers_share_is_counted_once(tiny_lm):
    prompts, answers = [[5, 6, 7, 8], [5, 6]], [[9, 10, 11], [9], [12, 13], [14]]
    Rows(prompts, answers).logps(tiny_lm, 8)
    apart = sum(len(p) - 1 for p in prompts)  # all but the last token of each prompt, once
    assert tiny_lm.meter.tokens.read == apart + sum(len(a) for a in answers)  # the last one, and all but the end
    assert tiny_lm.meter.tokens.trained == 0


@pytest.mark.parametrize("updates", [1, 2])
def test_rl_trains_on_what_it_wrote_and_tries_examples_only_when_it_rolls_out(tiny_lm, toy_domain, updates):
    run = attack(tiny_lm, toy_domain)
    steps = list(run.drive(GRPO(**{**vars(RL), "updates": updates})))
    rolled = [step % updates == 0 for step in range(4)]
    assert [m["examples"] for m in steps] == [6 * now for now in rolled]
    assert [m["tokens_read"] > 0 for m in steps] == rolled
    assert all(m["tokens"] > 0 for m in steps)


def test_a_critic_costs_as_much_as_its_policy(tiny_lm, toy_domain):
    plain = next(iter(attack(tiny_lm.frozen_copy(), toy_domain).drive(RL)))
    fields = {name: getattr(RL, name) for name in ("reward", "prompts", "samples", "max_new_tokens", "lr")}
    critic = next(iter(attack(tiny_lm.frozen_copy(), toy_domain).drive(PPO(**fields, updates=1))))
    assert critic["tokens"] > 1.5 * plain["tokens"]
    assert critic["tokens_read"] > plain["tokens_read"]


def test_a_chain_counts_each_token_once(tiny_lm, toy_domain):
    whole = SFT(lr=1e-3, batch_size=3, max_steps=2)
    alone = [m["tokens"] for m in attack(tiny_lm, toy_domain).drive(whole)]
    chained = [m["tokens"] for m in attack(tiny_lm, toy_domain).drive(Chain((whole, whole)))]
    assert len(chained) == 4 and max(chained) < 2 * min(alone)


def test_counting_changes_no_gradient(tiny_lm, toy_domain):
    batch = tiny_lm.encode(list(toy_domain.pools("attacker")["harmful"])[:3])
    parameters, R = list(tiny_lm.model.parameters()), batch.response_length
    logits_BRV, targets_BR, mask_BR = tiny_lm.response_logits(batch)
    inputs = {"input_ids": batch.ids_BT, "attention_mask": batch.attention_BT, "position_ids": batch.positions_BT}
    bare_BRV = tiny_lm.model(**inputs).logits[:, -R - 1 : -1]
    counted, bare = (
        torch.autograd.grad(cross_entropy(logits, targets_BR, mask_BR), parameters)
        for logits in (logits_BRV, bare_BRV)
    )
    assert tiny_lm.meter.tokens.trained == int(batch.attention_BT.sum())
    for ours, theirs in zip(counted, bare, strict=True):
        assert theirs.abs().sum() > 0
        assert torch.allclose(ours, theirs, atol=1e-6)
