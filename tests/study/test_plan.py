"""What a study consists of."""

import dataclasses
from pathlib import Path
from typing import ClassVar

import pytest

from caseharden import attacks, defenses, judges, measures
from caseharden.attacks import SFT
from caseharden.attacks.weights import Noise
from caseharden.errors import CasehardenError
from caseharden.judges import refusal
from caseharden.records.results import Traits
from caseharden.store.results import results
from caseharden.store.store import Store
from caseharden.study.plan import Environment, described, directions, hashed, plan, traits
from caseharden.study.spec import parse
from study_toys import outcomes, run, study


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


TABLES = (attacks.TABLE, defenses.TABLE, judges.TABLE, measures.TABLE)


@pytest.mark.parametrize("cls", [cls for table in TABLES for cls in table.values() if hasattr(cls, "knobs")])
def test_what_is_declared_to_change_no_result_is_a_field(cls):
    assert {*cls.knobs} <= {field.name for field in dataclasses.fields(cls)}


def test_attacks_that_differ_in_what_changes_no_result_are_one_attack():
    with pytest.raises(CasehardenError, match=r"attacks has .* twice"):
        labels(attacks=[{"grpo": {"forward_batch": [8, 16]}}])


def test_the_size_of_forward_passes_decides_the_noise_of_token_buncher():
    found = labels(defenses=[{"token_buncher": {"forward_batch": [8, 16]}}])
    assert [one["kind"] for one in found].count("harden") == 2


@dataclasses.dataclass(frozen=True)
class Walk:
    """An attack of somebody else, with names of its own."""

    step_size: float = 1e-2
    known: int | None = None
    kind: str = "random"
    pools: dict[str, float] = dataclasses.field(default_factory=lambda: {"harmful": 1.0, "benign": 2.0})
    rates: ClassVar = ("step_size",)
    bounds: ClassVar = ("known",)
    mixes: ClassVar = ("pools",)

    def steps(self, run):
        raise NotImplementedError


def test_an_attack_says_itself_what_its_fields_mean():
    walks = [Walk(), Walk(3e-2, kind="biased"), Walk(1e-1, known=10)]
    mix = ("harmful", "benign")
    assert traits(walks) == [
        Traits({"known": None, "kind": "random"}, (1e-2,), {"known": None}, mix),
        Traits({"known": None, "kind": "biased"}, (3e-2,), {"known": None}, mix),
        Traits({"known": 10, "kind": "random"}, (1e-1,), {"known": 10}, mix),
    ]


def test_an_attack_that_names_a_field_it_has_not_is_an_error():
    class Wrong(Walk):
        rates: ClassVar = ("stepsize",)

    with pytest.raises(CasehardenError, match="Did you mean 'step_size'"):
        traits([Wrong()])


def test_rates_of_stages_are_rates_be_they_defaults_or_not():
    def chain(**fields):
        return attacks.Chain((attacks.SFT(max_steps=5, **fields), attacks.PPO()))

    grid = [chain(), chain(lr=3e-4)]
    first, second = traits(grid)
    assert first.fixed == second.fixed
    assert (first.rates, second.rates) == ((1e-4, 1e-4, 3e-4), (3e-4, 1e-4, 3e-4))
    assert first.pools == ("harmful", "harmful")


def test_who_rewards_without_knowing_the_answer_is_told_also_by_default():
    rewards = ["verifier", "string_refusal", None, {"llm": {"model": "m", "concurrency": 2}}]
    attack = {"grpo": {"reward": {"sum": {"terms": [*({"judged": {"judge": j} if j else {}} for j in rewards)]}}}}
    given = {"name": "x", "domain": "almanac", "models": ["almanac-victim"], "attacks": [attack]}
    (label,) = [cell.labels() for cell in plan(parse(given)) if cell.kind == "attack"]
    assert label["traits"]["judges"] == ("string_refusal", '{"llm":{"model":"m"}}')


def test_measures_say_which_way_they_are_better():
    given = {"name": "x", "domain": "almanac", "models": ["almanac-victim"]}
    own = {"evasive": {"probe": {"judge": "string_refusal", "better": "lower"}}, "fluent": {"perplexity": {}}}
    found = directions(parse({**given, "measures": own}))
    assert found == {
        "harm": "lower",
        "harm:prefilled": "lower",
        "harm:sampled": "lower",
        "harm:template": "lower",
        "harm:wrapped": "lower",
        "slips": "lower",
        "over_refusal": "lower",
        "evasive": "lower",
        "utility": "higher",
        "bystander": "higher",
    }
    for name in ("utility", "bystander", "bystander:river"):
        spec = parse({**given, "measures": {name: {"probe": {"pool": "benign", "better": "lower"}}}})
        with pytest.raises(CasehardenError, match=f"{name} is better higher, not lower"):
            directions(spec)
    for name in ("harm@refusal", "evasive@", "@"):
        with pytest.raises(CasehardenError, match=r"another judge's scores\. Leave out the @"):
            directions(parse({**given, "measures": {name: "probe"}}))


@pytest.mark.parametrize("cls", measures.TABLE.values())
def test_which_way_a_measure_is_better_is_not_in_its_key(cls):
    assert described(cls(better="lower")) == described(cls())


def test_how_training_is_made_to_fit_is_in_no_key():
    given = {"name": "x", "domain": "almanac", "models": ["almanac-victim"], "attacks": ["sft"]}
    specs = [parse(given), parse({**given, "memory": {"checkpointing": True}})]
    found = [[Environment.of(spec, "cpu").inputs(cell, "weights") for cell in plan(spec)] for spec in specs]
    assert specs[0].memory != specs[1].memory and found[0] == found[1]


def test_the_weights_of_a_model_that_an_attack_names_are_part_of_its_key(tiny_lm, tmp_path):
    def keys() -> list[str]:
        tiny_lm.save(tmp_path / "base")
        given = {"attacks": [{"strip": {"base": str(tmp_path / "base")}}, "sft"], "budgets": [0, 1]}
        spec = parse({"name": "x", "domain": "almanac", "models": ["almanac-victim"], **given})
        environment = Environment.of(spec, "cpu")
        return [hashed(environment.inputs(cell, "weights")) for cell in plan(spec) if cell.kind == "attack"]

    stripping, tuning = keys()
    tiny_lm.model.model.norm.weight.data.add_(1.0)
    again, unmoved = keys()
    assert stripping != again
    assert tuning == unmoved


def test_a_base_that_is_nowhere_is_an_error_before_anything_runs():
    given = {"name": "x", "domain": "almanac", "models": ["almanac-victim"]}
    with pytest.raises(CasehardenError, match="no model 'nowhere'"):
        Environment.of(parse({**given, "attacks": [{"strip": {"base": "nowhere"}}], "budgets": [0, 1]}), "cpu")


def test_an_attack_that_is_over_is_measured_no_further(tiny_lm, tmp_path):
    tiny_lm.save(tmp_path / "tiny")
    spec = study(tmp_path / "tiny", defenses=(None,), attacks=(Noise(), SFT(lr=1e-2)), budgets=(0, 1, 3))
    store = Store(tmp_path / "store")
    run(spec, store)
    found = results(store)
    assert {c.attack: [p.budget for p in c.points] for c in found.curves} == {"noise": [0, 1], "sft": [0, 1, 3]}
    assert found.complete
    assert {c.attack: c.ended_early(3) for c in found.curves} == {"noise": False, "sft": False}
    assert [c.ended_early(5) for c in found.curves] == [False, True]
    assert set(outcomes(run(spec, store))) == {"stored"}


def test_an_attack_that_is_over_needs_a_budget_at_its_end(tiny_lm, tmp_path):
    with pytest.raises(CasehardenError, match=r"is over at step 1\. Add it to the budgets"):
        study(tmp_path, attacks=(Noise(),), budgets=(0, 2))
