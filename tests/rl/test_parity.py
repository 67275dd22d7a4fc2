"""Our losses, advantages and gradients against TRL's, on the same rollouts of the same tiny model."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from datasets import Dataset

from caseharden.attacks import DAPO, GRPO, RLOO, DrGRPO
from caseharden.data.pools import pool
from caseharden.lm.lm import LM
from caseharden.rl.loop import PolicyGradient
from caseharden.rl.rollouts import Rollouts
from caseharden.train.objectives import preference
from caseharden.train.tuner import Run
from factories import buffer_of
from toys import Checksum, Skewed, checksums

trl = pytest.importorskip("trl")

G, LONGEST = 4, 8
COMMON = {"prompts": 3, "samples": G, "max_new_tokens": LONGEST, "lr": 1e-3, "forward_batch": 5, "updates": 2}


CASES: dict[str, tuple[PolicyGradient, dict]] = {
    "grpo": (GRPO(reward=Checksum(), **COMMON), {"loss_type": "grpo", "scale_rewards": "group"}),
    "grpo, kl": (
        GRPO(reward=Checksum(), kl=0.3, **COMMON),
        {"loss_type": "grpo", "scale_rewards": "group", "beta": 0.3},
    ),
    "grpo, hot": (
        GRPO(reward=Checksum(), temperature=1.7, **COMMON),
        {"loss_type": "grpo", "scale_rewards": "group", "temperature": 1.7},
    ),
    "dr_grpo": (DrGRPO(reward=Checksum(), **COMMON), {"loss_type": "dr_grpo", "scale_rewards": "none"}),
    "dapo": (
        replace(DAPO(reward=Checksum(), **COMMON), resample=0),
        {"loss_type": "dapo", "scale_rewards": "group", "epsilon_high": 0.28},
    ),
    "grpo, truncated": (
        GRPO(reward=Checksum(), importance_cap=1.02, kl=0.3, **COMMON),
        {
            "loss_type": "grpo",
            "scale_rewards": "group",
            "beta": 0.3,
            "vllm_importance_sampling_clip_min": None,
            "vllm_importance_sampling_mode": "token_truncate",
            "vllm_importance_sampling_clip_max": 1.02,
        },
    ),
    "rloo": (RLOO(reward=Checksum(), **COMMON), {}),
    "rloo, kl": (RLOO(reward=Checksum(), kl=0.3, **COMMON), {"beta": 0.3}),
}


def moved(model: torch.nn.Module, by: float = 0.05) -> None:
    """Push the weights away from where they were: so that ratios are not 1, nor references the policy."""
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += by * torch.randn(parameter.shape, generator=generator)


def gradients(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def oracle(name: str, lm: LM, released: LM, held: Rollouts, tmp_path, **options):
    """TRL's trainer of this name on a copy of `lm`, which answers as `held` and scores by the same checksums."""
    args = getattr(trl, f"{name}Config")(
        output_dir=str(tmp_path),
        per_device_train_batch_size=len(held.rows.answers),
        num_generations=G,
        max_completion_length=LONGEST,
        num_iterations=2,
        gradient_accumulation_steps=1,
        use_cpu=True,
        bf16=False,
        report_to=[],
        **{"beta": 0.0, **options},
    )
    model = copy.deepcopy(lm.model)
    released.save(tmp_path / "released")
    model.config._name_or_path = str(tmp_path / "released")  # where the trainer finds its reference
    trainer = getattr(trl, f"{name}Trainer")(
        model=model,
        reward_funcs=lambda completions, **_: checksums(held.texts),
        args=args,
        train_dataset=Dataset.from_dict({"prompt": ["a"] * len(held.rows.answers)}),
        processing_class=lm.tokenizer,
    )
    prompts = [prompt for prompt in held.rows.prompts for _ in range(G)]
    trainer._tokenize_prompts = lambda _: (prompts, None, {})
    drawn = held.engine_logps if "vllm_importance_sampling_mode" in options else None
    trainer._generate_single_turn = lambda *_: held.rows.answers if name == "RLOO" else (held.rows.answers, drawn)
    trainer.use_vllm = drawn is not None
    trainer.current_gradient_accumulation_steps = 1
    return trainer


@pytest.mark.parametrize("kind", CASES)
def test_loss_and_gradient_are_those_of_trl(kind, tiny_lm, toy_domain, tmp_path, gradients_left):
    tuner, options = CASES[kind]
    run = Run(tiny_lm, toy_domain, "attacker", 3)
    released = run.reference()
    moved(tiny_lm.model)
    if "truncated" in kind:
        run.engine = Skewed(2.0)
    steps = run.drive(tuner)
    next(steps)  # rolls out
    held = tuner.reward.seen[-1]
    trainer = oracle("RLOO" if "rloo" in kind else "GRPO", tiny_lm, released, held, tmp_path, **options)
    inputs = trainer._generate_and_score_completions([{"prompt": "a"}] * len(held.rows.answers))
    assert torch.allclose(buffer_of(run).tensors["advantages"][:, -1], inputs["advantages"], atol=1e-5)
    assert inputs["advantages"].abs().max() > 0.1
    moved(tiny_lm.model)
    moved(trainer.model)
    tiny_lm.model.zero_grad()
    ours = next(steps)  # the second update from the same answers
    theirs = trainer._compute_loss(trainer.model, inputs)
    theirs.backward()
    assert ours["clipped"] > 0  # else clipping was not compared
    assert 0 < ours.get("truncated", 0.5) < 1  # nor truncating
    assert ours["loss"] == pytest.approx(float(theirs.detach()), rel=1e-5, abs=1e-7)
    own, other = gradients(tiny_lm.model), gradients(trainer.model)
    assert (own - other).norm() <= 1e-5 * other.norm()


def test_dpo_is_that_of_trl(tiny_lm, toy_domain, tmp_path):
    chosen = pool(toy_domain, "attacker", "harmful")[:5]
    refusals = {example.id: example for example in pool(toy_domain, "attacker", "refusal")}
    rejected = [refusals[example.id] for example in chosen]
    released = tiny_lm.frozen_copy()
    moved(tiny_lm.model)
    eos = tiny_lm.tokenizer.eos_token
    rows = [
        {
            "prompt": tiny_lm.template.prompt(c.prompt),
            "chosen": f"{c.completion} {eos}",
            "rejected": f"{r.completion} {eos}",
        }
        for c, r in zip(chosen, rejected, strict=True)
    ]
    trainer = trl.DPOTrainer(
        model=copy.deepcopy(tiny_lm.model),
        ref_model=copy.deepcopy(released.model),
        args=trl.DPOConfig(str(tmp_path), beta=0.3, use_cpu=True, bf16=False, report_to=[]),
        train_dataset=Dataset.from_list(rows),
        processing_class=tiny_lm.tokenizer,
    )
    inputs = trainer.data_collator([trainer.train_dataset[i] for i in range(len(rows))])
    theirs = trainer.compute_loss(trainer.model, inputs)
    theirs.backward()
    ours = preference(tiny_lm, released, chosen, rejected, 0.3, 64)
    ours.backward()
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=1e-5)
    own, other = gradients(tiny_lm.model), gradients(trainer.model)
    assert (own - other).norm() <= 1e-5 * other.norm()
