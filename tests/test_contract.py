"""One set of assertions that every tuner in the tables must meet, attack or defense."""

import dataclasses
import io
from dataclasses import replace

import pytest
import torch

from caseharden import attacks, defenses
from caseharden.attacks import (
    DAPO,
    DPO,
    GRPO,
    PPO,
    RLOO,
    SFT,
    Abliterate,
    Bounded,
    Chain,
    Distill,
    DrGRPO,
    GRPObliteration,
    Noise,
    OnlineDPO,
    Prune,
    Quantize,
    Reinforce,
    ReinforcePP,
    ReinforcePPBaseline,
    Reparameterize,
    Strip,
)
from caseharden.bilevel.watch import Watch
from caseharden.defenses import (
    TAR,
    DeadWeights,
    Gibberish,
    Patcher,
    RandomMapping,
    Reteach,
    RewardNeutralization,
    SafetySFT,
    TokenBuncher,
)
from caseharden.engines.engine import generate_text
from caseharden.engines.native import Native
from caseharden.measures import Probe
from caseharden.rl.rewards import Entropy, Overlong, Sum
from caseharden.study.build import build, written
from caseharden.train.adapters import LoRA
from caseharden.train.objectives import Confuse, Imitate, MapToRandom, Prefer, StayNear
from caseharden.train.tuner import Attack, Run, Tuner
from factories import copy_of

SMALL_SFT = SFT(lr=1e-2, batch_size=3, max_steps=6)
SMALL_TAR = TAR(
    (SMALL_SFT, replace(SMALL_SFT, lora=LoRA(r=2))),
    Prefer(batch_size=3),
    StayNear({"benign": 1.0}, batch_size=3),
    max_steps=4,
    inner_steps=4,
    checkpoint_every=2,
)
SMALL_PATCHER = Patcher(
    (SMALL_SFT,),
    Imitate(batch_size=3),
    Imitate({"benign": 1.0}, batch_size=3),
    loops=3,
    attack_steps=3,
    defense_steps=2,
)
SMALL_RL = {"reward": Entropy(), "prompts": 2, "samples": 2, "max_new_tokens": 4, "lr": 1e-2, "max_steps": 4}
SMALL_DEFENSE = {**{name: value for name, value in SMALL_RL.items() if name != "reward"}, "prompts": 4}
CASES: dict[str, tuple[str, Tuner]] = {
    "sft": ("attacker", SMALL_SFT),
    "sft, lora": ("attacker", replace(SMALL_SFT, lora=LoRA(r=2, alpha=4, dropout=0.1))),
    "sft, cosine": ("attacker", replace(SMALL_SFT, schedule="cosine", warmup=2)),
    "sft, schedulefree": ("attacker", replace(SMALL_SFT, optimizer="schedulefree")),
    "sft, adafactor": ("attacker", replace(SMALL_SFT, optimizer="adafactor")),
    "sft, sgd": ("attacker", replace(SMALL_SFT, optimizer="sgd", lr=1.0)),
    "sft, last layers": ("attacker", replace(SMALL_SFT, scope="last_layers", clip=None)),
    "sft, nesterov and no clipping": ("attacker", replace(SMALL_SFT, optimizer="nesterov", lr=0.1, clip=None)),
    "sft, without the chat template": ("attacker", replace(SMALL_SFT, template="none")),
    "sft, mixed": ("attacker", replace(SMALL_SFT, data={"harmful": 0.2, "benign": 0.8}, n_examples=5)),
    "chain": (
        "attacker",
        Chain(
            (replace(SMALL_SFT, data={"benign": 1.0}, max_steps=3, lora=LoRA(r=2)), replace(SMALL_SFT, max_steps=3))
        ),
    ),
    "chain, of scopes": (
        "attacker",
        Chain((replace(SMALL_SFT, scope="norms", max_steps=2), replace(SMALL_SFT, scope="mlps", max_steps=3))),
    ),
    "chain, of a defense": (
        "defender",
        Chain((replace(SMALL_SFT, max_steps=2), SafetySFT({"refusal": 1.0, "benign": 1.0}, 1e-2, 4, 4, kl=0.5))),
    ),
    "chain, near the original": (
        "defender",
        Chain(
            (
                replace(SMALL_SFT, max_steps=2),
                SafetySFT(lr=1e-2, batch_size=4, max_steps=4, hidden=0.5, near_original=True),
            ),
            keep_original=True,
        ),
    ),
    "bounded": ("attacker", Bounded(SMALL_SFT, (3, 5))),
    "dpo": ("attacker", DPO(lr=1e-2, batch_size=3, max_steps=6)),
    "dpo, without the chat template": ("attacker", DPO(lr=1e-2, batch_size=3, max_steps=6, template="none")),
    "reinforce": ("attacker", Reinforce(**SMALL_RL)),
    "reinforce_pp": ("attacker", ReinforcePP(**SMALL_RL, kl=0.1)),
    "reinforce_pp_baseline": ("attacker", ReinforcePPBaseline(**SMALL_RL, schedule="cosine", warmup=1)),
    "rloo": ("attacker", RLOO(**SMALL_RL, kl=0.1)),
    "grpo": ("attacker", GRPO(**SMALL_RL)),
    "grpo, several updates": ("attacker", GRPO(**{**SMALL_RL, "max_steps": 6}, updates=3, kl=0.1, entropy=0.01)),
    "grpo, lora": ("attacker", GRPO(**SMALL_RL, lora=LoRA(r=2, dropout=0.1), temperature=1.5)),
    "dr_grpo": ("attacker", DrGRPO(**SMALL_RL)),
    "dapo": ("attacker", DAPO(**{**SMALL_RL, "reward": Sum((Entropy(), Overlong(2)))}, overlong=0.5)),
    "grp_obliteration": ("attacker", GRPObliteration(**{**SMALL_RL, "samples": 6})),
    "online_dpo": ("attacker", OnlineDPO(**SMALL_RL)),
    "ppo": ("attacker", PPO(**{**SMALL_RL, "max_steps": 5}, updates=2, kl=0.1)),
    "chain, sft and then rl": ("attacker", Chain((replace(SMALL_SFT, max_steps=2), GRPO(**SMALL_RL)))),
    "strip": ("attacker", Strip("toys/other", 0.3)),
    "strip, some directions": ("attacker", Strip("toys/other", rank=2)),
    "noise": ("attacker", Noise()),
    "prune": ("attacker", Prune()),
    "quantize": ("attacker", Quantize()),
    "reparameterize": ("attacker", Reparameterize()),
    "abliterate": ("attacker", Abliterate(n_examples=6)),
    "distill": ("attacker", Distill(lr=1e-2, batch_size=3, max_steps=6, teacher="toys/other")),
    "distill, lora": (
        "attacker",
        Distill(lr=1e-2, batch_size=3, max_steps=4, teacher="toys/other", lora=LoRA(r=2)),
    ),
    "chain, one step and then sft": ("attacker", Chain((Noise(), Prune(), replace(SMALL_SFT, max_steps=2)))),
    "token_buncher": ("defender", TokenBuncher(**SMALL_DEFENSE, refusal_gate=None, warmup_share=0.25)),
    "token_buncher, noise alone": (
        "defender",
        TokenBuncher(**SMALL_DEFENSE, refusal_gate=None, warmup_share=0.0, noise_every=1),
    ),
    "reward_neutralization": (
        "defender",
        RewardNeutralization(**SMALL_DEFENSE, brief=Overlong(3), helpful=Entropy()),
    ),
    "patcher, against rl": ("defender", replace(SMALL_PATCHER, adversaries=(GRPO(**SMALL_RL),))),
    "safety_sft": ("defender", SafetySFT(lr=1e-2, batch_size=4, max_steps=6)),
    "safety_sft, kl": ("defender", SafetySFT(lr=1e-2, batch_size=4, max_steps=6, kl=0.5)),
    "safety_sft, hidden": ("defender", SafetySFT(lr=1e-2, batch_size=4, max_steps=6, hidden=0.5)),
    "reteach": (
        "defender",
        Reteach({"benign": 3.0, "refusal": 1.0}, lr=1e-2, batch_size=4, max_steps=6, warmup=1, max_new_tokens=4),
    ),
    "random_mapping": (
        "defender",
        RandomMapping(MapToRandom(batch_size=3), Imitate({"benign": 1.0}, batch_size=3), max_steps=6, lr=1e-2),
    ),
    "tar": ("defender", SMALL_TAR),
    "tar, entropy": ("defender", replace(SMALL_TAR, tamper=Confuse(batch_size=3), keep="cpu")),
    "patcher": ("defender", SMALL_PATCHER),
    "patcher, against a scope": (
        "defender",
        replace(SMALL_PATCHER, adversaries=(replace(SMALL_SFT, scope="attention"),)),
    ),
    "patcher, against attacks of their own lengths": (
        "defender",
        replace(
            SMALL_PATCHER,
            adversaries=(SMALL_SFT, Bounded(replace(SMALL_SFT, lora=LoRA(r=2)), (1, 2), 2.0)),
        ),
    ),
    "tar, against attacks of their own lengths": (
        "defender",
        replace(SMALL_TAR, adversaries=(SMALL_SFT, Bounded(SMALL_SFT, (1, 2), 2.0))),
    ),
    "patcher, watched population": (
        "defender",
        replace(SMALL_PATCHER, vectors=2, watch=Watch(Probe(role="defender", n=4, max_new_tokens=3))),
    ),
    "dead_weights": ("defender", DeadWeights()),
    "gibberish": ("defender", Gibberish()),
    "patcher, control": ("defender", replace(SMALL_PATCHER, random_vector=True, benign=None, schedule="cosine")),
}
SEEDLESS = (DeadWeights, Strip, Prune, Quantize, Reparameterize)
"""Tuners that draw nothing at random."""
each_tuner = pytest.mark.parametrize(("role", "tuner"), CASES.values(), ids=CASES)


@pytest.fixture(autouse=True)
def other_model(tiny_lm, tmp_path, monkeypatch):
    """A model called toys/other, for those that work with another than the one they change."""
    monkeypatch.setenv("CASEHARDEN_CACHE", str(tmp_path))
    other = copy_of(tiny_lm)
    generator = torch.Generator().manual_seed(1)
    for parameter in other.model.parameters():
        parameter.data.add_(torch.randn(parameter.shape, generator=generator), alpha=0.02)
    other.save(tmp_path / "models" / "toys" / "other")


def losses(run: Run, tuner: Tuner, upto: int | None = None) -> list[float]:
    seen = []
    for metrics in run.drive(tuner):
        seen.append(metrics["loss"])
        if run.step == upto:
            break
    return seen


def test_every_tuner_of_the_tables_is_tried():
    tried = {name.split(",")[0] for name in CASES}
    assert tried == {*attacks.TABLE, *defenses.TABLE}
    for name, (_, tuner) in CASES.items():
        table = attacks.TABLE | defenses.TABLE
        assert type(tuner) is table[name.split(",")[0]]


@pytest.mark.parametrize("name", attacks.TABLE)
def test_an_attack_says_what_its_fields_mean(name):
    (attack, *_) = [tuner for case, (_, tuner) in CASES.items() if case.split(",")[0] == name]
    assert isinstance(attack, Attack)
    fields = {field.name for field in dataclasses.fields(attack)}
    assert {*attack.rates, *attack.bounds, *attack.mixes} <= fields
    assert {field for field in fields if field == "lr" or field.endswith("_lr")} == {*attack.rates}


@each_tuner
def test_a_spec_says_the_same_tuner_again(role, tuner):
    for all_fields in (True, False):
        assert build(written(tuner, Tuner, all_fields=all_fields), Tuner, "here") == tuner


@each_tuner
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(role, tuner, tiny_lm, run_of):
    hashes = []
    for seed in (1, 1, 2):
        run = run_of(role, seed)
        losses(run, tuner)
        hashes.append(run.finish().weights_hash())
    assert hashes[0] == hashes[1]
    assert (hashes[1] == hashes[2]) == isinstance(tuner, SEEDLESS)
    assert tiny_lm.weights_hash() not in hashes


@each_tuner
def test_weights_stay_finite_and_in_shape_and_the_tokenizer_untouched(role, tuner, tiny_lm, run_of):
    run = run_of(role)
    before = tiny_lm.tokenizer.get_vocab(), tiny_lm.tokenizer.chat_template, len(tiny_lm.tokenizer)
    losses(run, tuner)
    state = run.finish().model.state_dict()
    assert {k: (v.shape, v.dtype) for k, v in state.items()} == {
        k: (v.shape, v.dtype) for k, v in tiny_lm.model.state_dict().items()
    }
    assert all(torch.isfinite(v).all() for v in state.values())
    assert before == (run.lm.tokenizer.get_vocab(), run.lm.tokenizer.chat_template, len(run.lm.tokenizer))


@each_tuner
def test_it_resumes_exactly_from_any_step(role, tuner, run_of):
    straight = run_of(role)
    all_losses = losses(straight, tuner)
    end = straight.finish().weights_hash()
    for stop in range(1, len(all_losses)):
        first = run_of(role)
        losses(first, tuner, upto=stop)
        saved = io.BytesIO()
        torch.save(first.state_dict(), saved)
        saved.seek(0)
        second = run_of(role)
        second.load_state_dict(torch.load(saved, weights_only=True))
        assert losses(second, tuner) == all_losses[stop:]
        assert second.finish().weights_hash() == end


@each_tuner
def test_looking_at_the_model_changes_nothing(role, tuner, run_of):
    def trajectory(look: bool) -> list[float]:
        run = run_of(role)
        seen = []
        for metrics in run.drive(tuner):
            seen.append(metrics["loss"])
            if look:
                with run.evaluating() as lm:
                    generate_text(Native(), lm, ["a b"], temperature=1.0, max_new_tokens=3)
        return seen

    assert trajectory(look=False) == trajectory(look=True)
