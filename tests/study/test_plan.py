"""What a study consists of."""

from pathlib import Path

import pytest

from caseharden.judges import refusal
from caseharden.study.plan import Environment, hashed, plan
from caseharden.study.spec import parse


def labels(**changes):
    given = {
        "name": "x",
        "domain": "almanac",
        "models": ["almanac-victim"],
        "defenses": ["none", "safety_sft"],
        "attacks": [{"sft": {"lr": [1e-4, 3e-4]}}, {"sft": {"optimizer": "sgd"}}],
        "seeds": [0, 1],
    }
    return [cell.labels() for cell in plan(parse(given | changes))]


def test_every_model_with_every_defense_attack_and_seed():
    found = labels()
    assert [one["kind"] for one in found].count("attack") == 2 * 3 * 2
    assert [one["kind"] for one in found].count("harden") == 1
    assert [one["kind"] for one in found].count("release") == 2


def test_controls_are_attacked_but_not_defended():
    found = [one for one in labels(controls=["almanac-never-learned"]) if one["model"] == "almanac-never-learned"]
    assert {one["defense"] for one in found} == {"undefended"}
    assert len(found) == 1 + 3 * 2


def test_labels_tell_alike_attacks_apart_even_by_a_default():
    told = {frozenset(one["fields"].items()) for one in labels() if one["kind"] == "attack"}
    assert told == {
        frozenset({"lr": 1e-4, "optimizer": "adamw"}.items()),
        frozenset({"lr": 3e-4, "optimizer": "adamw"}.items()),
        frozenset({"lr": 1e-4, "optimizer": "sgd"}.items()),
    }
    assert all(one["defense_fields"] == {} for one in labels())


@pytest.mark.parametrize("reward", ["judged", "gated"])
def test_the_key_of_an_attack_follows_the_weights_of_the_judge_that_rewards_it(reward, tmp_path, monkeypatch):
    rewards = {
        "judged": {"judged": {"judge": "refusal", "weight": -1.0}},
        "gated": {"gated": {"reward": "entropy", "judge": "refusal"}},
    }
    given = {"name": "x", "domain": "almanac", "models": ["almanac-victim"]}
    spec = parse({**given, "attacks": [{"grpo": {"reward": rewards[reward]}}]})

    def key():
        return hashed(Environment.of(spec, "cpu").inputs(plan(spec)[-1], "weights"))

    before = key()
    assert before == key()
    other = tmp_path / "refusal.json"
    other.write_text(Path(refusal.HEAD).read_text().replace('"bias": ', '"bias": 1'))
    monkeypatch.setattr(refusal, "HEAD", other)
    assert before != key()
