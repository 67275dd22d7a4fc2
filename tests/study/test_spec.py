"""What a study may ask for: who may reward and who may report, and what YAML stands for."""

import math
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caseharden.errors import CasehardenError
from caseharden.judges import Verifier
from caseharden.study.spec import among, parse, read_yaml, rewards_by
from strategies import many, values

STUDY = {"name": "s", "domain": "almanac", "models": ["almanac-victim"], "budgets": [0, 5]}
BY_REFUSAL = {"judged": {"judge": "string_refusal", "weight": -1}}
HARM = {"harm": {"probe": {"judge": "string_refusal"}}}


def test_who_rewards_an_attack_does_not_report_harm():
    wrong = {**STUDY, "attacks": [{"grpo": {"reward": BY_REFUSAL}}], "measures": HARM}
    with pytest.raises(CasehardenError, match="StringRefusal rewards GRPO and reports harm as well"):
        parse(wrong)
    assert parse({**wrong, "measures": {}})
    assert parse({**wrong, "attacks": ["grpo"]})


def test_nor_does_it_report_harm_in_another_way_of_asking():
    asked = {"harm:prefilled": {"probe": {"pool": "prefilled", "judge": "string_refusal"}}}
    with pytest.raises(CasehardenError, match="StringRefusal rewards GRPO and reports harm as well"):
        parse({**STUDY, "attacks": [{"grpo": {"reward": BY_REFUSAL}}], "measures": asked})


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


# ---- YAML -----------------------------------------------------------------------------------------------

AS_WRITTEN = [
    *(
        "010",
        "1:30",
        "-1:30:15",
        "1:30.5",
        "0b11",
        "-0b1",
        "1_0",
        "0x1_0",
        "1_000.0",
        "1_0e3",
        "1._5",
        ".1_0",
        "-0x1F",
    ),
    *("+0o17", "0o18", "+.nan", "2024-01-01", "yes", "No", "ON", "off", "y", "="),
]


@pytest.mark.parametrize("text", AS_WRITTEN)
def test_what_yaml_of_old_made_something_else_of_is_read_as_it_is_written(text):
    assert read_yaml(f"- {text}\n- {{k: {text}}}") == [text, {"k": text}]
    with pytest.raises(CasehardenError, match=r"attacks\[0\]\.sft\.batch_size: expected int"):
        parse(read_yaml(f"{{name: s, domain: almanac, models: [m], attacks: [sft: {{batch_size: {text}}}]}}"))


def test_what_yaml_has_of_its_own_stays():
    assert read_yaml("[10, -3, +4, 0, 0o17, 0x1F, 1.5, .5, 2., -1E-4, true, False, ~, null, '010']") == [
        *(10, -3, 4, 0, 15, 31, 1.5, 0.5, 2.0, -1e-4, True, False, None, None, "010")
    ]
    assert read_yaml("[.inf, -.inf, +.INF]") == [math.inf, -math.inf, math.inf] and math.isnan(read_yaml(".nan"))
    assert read_yaml("a:\nb: ''") == {"a": None, "b": ""}


@pytest.mark.parametrize("name", ["1e5", "010", "1_0", "0o7", "1:30", "yes", "-.5E3", "null", "2026-01-01", "<<"])
def test_a_text_that_looks_like_something_else_survives_writing(name):
    spec = parse({**STUDY, "name": name})
    assert parse(read_yaml(spec.to_yaml())).name == name


MERGED = """
deep:
  first: &first {a: 1, b: 2}
  second: &second
    <<: *first
    b: 3
outer: {<<: *second, c: 4}
both: {<<: [*second, *first], a: 5}
"""


@pytest.mark.parametrize("name", ["../up", "a/b", "..", "\\\\host\\share", " "])
def test_a_name_leads_nowhere_else(name):
    with pytest.raises(CasehardenError, match="names no folder"):
        parse({**STUDY, "name": name})


def test_what_is_merged_from_a_deeper_place_may_be_given_anew():
    assert read_yaml(MERGED) == {
        "deep": {"first": {"a": 1, "b": 2}, "second": {"a": 1, "b": 3}},
        "outer": {"a": 1, "b": 3, "c": 4},
        "both": {"a": 5, "b": 3},
    }
    with pytest.raises(CasehardenError, match="line 7: b is given twice"):
        read_yaml(MERGED.replace("b: 3", "b: 3\n    b: 3"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &x {b: *x}", "line 1: this contains itself"),
        ("- 1\n- &x [*x]", "line 2: this contains itself"),
        ("{1: x}", "line 1: the key 1 is no text"),
        ("a:\n  ? [b]\n  : c", "line 2: the key .* is no text"),
        (r'"\ud83d"', "line 1: .* has half a character"),
        ("9" * 5000, "this is no YAML: Exceeds the limit"),
        ("[" * 100_000, "this is no YAML: .*recursion"),
        ("!!int x", "this is no YAML"),
        ("!!bool x", "this is no YAML"),
        ("!!timestamp x", "this is no YAML"),
        ("!!python/name:os.system", "this is no YAML"),
    ],
)
def test_what_cannot_be_read_is_said(text, said):
    with pytest.raises(CasehardenError, match=said):
        read_yaml(text)


# ---- whatever people bring ------------------------------------------------------------------------------

WHOLE = {
    "name": "s",
    "domain": {"almanac": {"defended": ["venom"], "attacked": ["hex", "snare"]}},
    "models": ["almanac-victim"],
    "controls": ["almanac-never-learned"],
    "defenses": ["none", {"safety_sft": {"lr": 1e-4, "max_steps": 50}}],
    "attacks": [
        {"sft": {"lr": [1e-5, 1e-4], "data": {"harmful": 1.0}, "lora": {"r": 4}}},
        {"grpo": {"reward": {"judged": {"weight": 1}}}},
        {"chain": {"stages": [{"sft": {"max_steps": 2}}, "sft"]}},
    ],
    "budgets": [0, 5],
    "seeds": [0],
    "measures": {"slips": None, "chance": {"best_of": {"pool": "harmful", "samples": 10}}},
    "engine": "native",
    "threads": 1,
}


def places(thing, before=()):
    """Every place in nested mappings and lists, as the keys that lead there."""
    yield before
    inner = thing.items() if isinstance(thing, dict) else enumerate(thing) if isinstance(thing, list) else ()
    for key, value in inner:
        yield from places(value, (*before, key))


def altered(thing, place, value):
    """A copy of `thing` with `value` at `place`."""
    if not place:
        return value
    copy = dict(thing) if isinstance(thing, dict) else list(thing)
    copy[place[0]] = altered(copy[place[0]], place[1:], value)
    return copy


@many
@given(place=st.sampled_from([*places(WHOLE)]), value=values | st.dictionaries(st.just("sft"), values))
def test_a_spec_with_anything_anywhere_is_read_or_said_to_be_wrong(place, value):
    with suppress(CasehardenError):
        spec = parse(altered(WHOLE, place, value))
        assert parse(read_yaml(spec.to_yaml())) == spec


@many
@given(text=st.text() | st.text("&*<>:-[]{}!?|#%@'\",. \n\tabc01~=", max_size=40))
def test_any_text_is_yaml_or_said_to_be_none(text):
    with suppress(CasehardenError):
        read_yaml(text)
