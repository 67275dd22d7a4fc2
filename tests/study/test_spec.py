"""What a study may ask for: here, who may reward and who may report."""

import pytest

from caseharden.errors import CasehardenError
from caseharden.judges import Verifier
from caseharden.study.spec import among, parse, rewards_by

STUDY = {"name": "s", "domain": "almanac", "models": ["almanac-victim"], "budgets": [0, 5]}
BY_REFUSAL = {"judged": {"judge": "string_refusal", "weight": -1}}
HARM = {"harm": {"probe": {"judge": "string_refusal"}}}


def test_who_rewards_an_attack_does_not_report_harm():
    wrong = {**STUDY, "attacks": [{"grpo": {"reward": BY_REFUSAL}}], "measures": HARM}
    with pytest.raises(CasehardenError, match="StringRefusal rewards GRPO and reports harm as well"):
        parse(wrong)
    assert parse({**wrong, "measures": {}})
    assert parse({**wrong, "attacks": ["grpo"]})


def test_nor_hidden_in_a_chain_or_a_sum_or_a_defense():
    hidden = {"sum": {"terms": [{"judged": {}}, BY_REFUSAL]}}
    chain = {"chain": {"stages": [{"sft": {"max_steps": 2}}, {"grpo": {"reward": hidden}}]}}
    for tuners in ({"attacks": [chain]}, {"attacks": ["sft"], "defenses": ["token_buncher"]}):
        with pytest.raises(CasehardenError, match="StringRefusal rewards"):
            parse({**STUDY, **tuners, "measures": HARM})


def test_nor_as_a_part_of_the_judge_that_reports():
    compliance = {"harm": {"probe": {"judge": {"compliance": {"refusal": "string_refusal"}}}}}
    with pytest.raises(CasehardenError, match="StringRefusal rewards GRPO"):
        parse({**STUDY, "attacks": [{"grpo": {"reward": BY_REFUSAL}}], "measures": compliance})


def test_an_exact_verifier_may_be_both():
    study = parse({**STUDY, "attacks": ["grpo"]})
    assert {*rewards_by(study.attacks[0])} == {Verifier()}
    assert study.domain.measures()["harm"].judge == Verifier()


def test_a_study_may_be_about_something_else_than_harm():
    success = {"success": {"probe": {"pool": "task:echo"}}}
    about = {**STUDY, "watched": "success", "measures": {**success, "harm": None, "utility": None}}
    assert "harm" not in parse(about).all_measures()
    with pytest.raises(CasehardenError, match="leaves out harm, which this study needs"):
        parse({**about, "watched": "harm"})
    with pytest.raises(CasehardenError, match=r"no measure 'succes'\. Did you mean 'success'"):
        parse({**about, "watched": "succes"})


def test_what_only_watches_rewards_nobody():
    watched = {"tar": {"watch": {"measure": {"probe": {"role": "defender", "judge": "string_refusal"}}}}}
    assert parse({**STUDY, "attacks": ["sft"], "defenses": [watched], "measures": HARM})
    assert list(among({"a": (Verifier(), 1)}, Verifier)) == [Verifier()]


@pytest.mark.parametrize("place", ["alone", "in a chain"])
def test_a_reward_that_is_only_logged_rewards_nobody(place):
    def study(**fields):
        tuner = {"reward_neutralization": {"max_steps": 2, **fields}}
        defense = tuner if place == "alone" else {"chain": {"stages": [{"sft": {"max_steps": 2}}, tuner]}}
        return parse({**STUDY, "attacks": ["sft"], "defenses": [defense], "measures": HARM})

    plain = {"brief": "judged", "helpful": "judged"}
    assert study(**plain, attacker=BY_REFUSAL)
    for field in plain:
        with pytest.raises(CasehardenError, match="StringRefusal rewards"):
            study(**{**plain, field: BY_REFUSAL})


@pytest.mark.parametrize(
    "attack",
    [
        {"chain": {"stages": [{"sft": {"max_steps": 2}}, {"sft": {"lr": 3e-4, "max_steps": 2}}]}},
        "caseharden.defenses.controls:DeadWeights",
    ],
)
def test_an_attack_that_ends_before_the_last_budget_is_refused_before_anything_runs(attack):
    with pytest.raises(CasehardenError, match=r"ends at step [14], before the last budget, 5"):
        parse({**STUDY, "attacks": [attack]})
    assert parse({**STUDY, "budgets": [0, 1], "attacks": [attack]})


@pytest.mark.parametrize("stage", ["sft", "toys:Short"])
def test_a_chain_whose_end_is_not_known_may_reach_any_budget(stage):
    chain = {"chain": {"stages": [{"sft": {"max_steps": 2}}, stage]}}
    assert parse({**STUDY, "attacks": [chain]})
