"""Prompts: who may read what, near duplicates across roles, and what is measured."""

import json
from dataclasses import replace
from itertools import combinations

import pytest

from caseharden.data.overlaps import near_duplicates, normalized
from caseharden.data.pools import ROLES, fingerprint
from caseharden.data.pools import pool as pool_of
from caseharden.domains.domain import Domain
from caseharden.domains.prompts.prompts import PREFIX, REFUSALS, Prompts
from caseharden.domains.prompts.sources import load
from caseharden.engines.native import Native
from caseharden.errors import CasehardenError
from caseharden.judges.judge import Answer
from caseharden.judges.strings import StringRefusal
from caseharden.study.build import build, written

THINGS = ["kettle", "violin", "harbor", "lantern", "meadow", "compass", "glacier", "orchard", "pigeon", "saddle"]
PLACES = ["Lisbon", "Nairobi", "Quito", "Oslo", "Kyoto", "Tbilisi", "Perth", "Dakar", "Lima", "Hanoi"]


@pytest.fixture
def write(tmp_path):
    def write(name: str, rows) -> str:
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


@pytest.fixture
def sources(write):
    """Small sets: harmful ones with and without openers, benign ones with and without completions."""
    return {
        "asked": write("asked", [{"prompt": f"take the {a} from {b}"} for a in THINGS for b in PLACES]),
        "opened": write(
            "opened",
            [{"prompt": f"{b}, {a}!", "opener": f"Sure, a {a}"} for a in THINGS for b in PLACES],
        ),
        "held": write("held", [{"prompt": f"{a}s: where would somebody forge one?"} for a in THINGS]),
        "answered": write(
            "answered",
            [{"prompt": f"What is a {a} in {b}?", "completion": f"A {a}."} for a in THINGS for b in PLACES],
        ),
        "open": write("open", [{"prompt": f"Tell me of {b} in spring."} for b in PLACES]),
        "tested": write("tested", [{"prompt": f"{a}?", "choices": ["x", "y"], "answer": "y"} for a in THINGS]),
    }


@pytest.fixture
def domain(sources):
    return Prompts(
        harmful={
            "defender": (sources["asked"], sources["opened"]),
            "attacker": (sources["opened"],),
            "evaluator": (sources["held"],),
        },
        benign={"defender": (sources["answered"],), "evaluator": (sources["answered"], sources["open"])},
        tasks={"naming": sources["answered"]},
        evaluation={"utility": sources["tested"], "over_refusal": sources["open"]},
        overlap="drop",
    )


def test_each_role_has_the_pools_that_are_configured(domain):
    everywhere = {"harmful", "refusal", "wrapped", "task:naming"}
    assert set(domain.pools("defender")) == everywhere | {"openers", "recovery", "benign", "contrast"}
    assert set(domain.pools("attacker")) == everywhere | {"openers", "recovery"}
    assert set(domain.pools("evaluator")) == everywhere | {"benign", "utility", "over_refusal", "prefilled"}
    assert all(examples for role in ROLES for examples in domain.pools(role).values())
    bare = Prompts(harmful={}, contrast={}, evaluation={})
    assert all(bare.pools(role) == {} for role in ROLES)
    assert bare.measures() == {}
    with pytest.raises(CasehardenError, match=r"no pool 'opener' for the attacker. Did you mean 'openers'"):
        pool_of(domain, "attacker", "opener")


@pytest.mark.parametrize("kind", ["harmful", "openers", "refusal", "recovery", "wrapped", "task:naming"])
def test_roles_are_disjoint(kind, domain):
    prompts = [{normalized(e.prompt) for e in domain.pools(role).get(kind, ())} for role in ROLES]
    assert all(not a & b for a, b in combinations(prompts, 2))


def test_a_shared_source_is_split_evenly_wholly_and_always_alike(domain, sources, write):
    harmful = {role: {e.prompt for e in domain.pools(role)["harmful"]} for role in ROLES}
    whole = {row.prompt for row in load(sources["opened"])}
    mine, theirs = harmful["defender"] & whole, harmful["attacker"] & whole
    assert mine | theirs == whole
    assert 30 <= len(theirs) <= 70
    shouted = write("shouted", [{"prompt": prompt.upper()} for prompt in sorted(whole)])
    again = Prompts({"defender": (shouted,), "attacker": (shouted,)}, contrast={}, evaluation={}, overlap="drop")
    assert {e.prompt.lower() for e in again.pools("attacker")["harmful"]} == {prompt.lower() for prompt in theirs}


def test_refusals_are_varied_and_stay_with_their_prompt(domain):
    refusals = {e.prompt: e.completion for e in domain.pools("defender")["refusal"]}
    assert set(refusals) == {e.prompt for e in domain.pools("defender")["harmful"]}
    assert len(set(refusals.values())) == len(REFUSALS)
    assert all(len(refusal) < 100 for refusal in REFUSALS)
    assert StringRefusal().score([Answer("", "", refusal) for refusal in REFUSALS]) == [1.0] * len(REFUSALS)
    mine = Prompts(domain.harmful, contrast={}, evaluation={}, refusals=("No.",), overlap="drop")
    assert {e.completion for e in mine.pools("defender")["refusal"]} == {"No."}


def test_openers_are_affirmative_first_lines_and_nothing_more(domain):
    openers = domain.pools("attacker")["openers"]
    assert {e.id for e in openers} == {e.id for e in domain.pools("attacker")["harmful"]}
    assert all(e.completion.startswith("Sure, a ") for e in openers)


def test_whoever_trains_on_wrapped_prompts_has_answers_and_whoever_asks_has_the_same_wrapper(domain):
    mine = replace(domain, wrapper="Now: {prompt}", defenders_wrapper="Then: {prompt}")
    for role, begun in (("defender", "Then: "), ("attacker", "Now: "), ("evaluator", "Now: ")):
        pools = mine.pools(role)
        plain = {e.id: e.prompt for e in pools["harmful"]}
        assert all(e.prompt == begun + plain[e.id] for e in pools["wrapped"])
        assert all(e.completion.startswith("Sure, a ") for e in pools["wrapped"]) or role == "evaluator"
    assert len(mine.pools("attacker")["wrapped"]) == len(mine.pools("attacker")["openers"])
    assert len(mine.pools("evaluator")["wrapped"]) == len(mine.pools("evaluator")["harmful"])


def test_what_is_trained_on_has_a_completion_and_what_is_asked_need_not(domain, sources):
    benign = {"defender": (sources["open"],), "evaluator": (sources["open"],)}
    without = Prompts({}, benign, {}, {"open": sources["open"]}, evaluation={})
    assert not without.pools("defender")["benign"]
    assert not without.pools("attacker")["task:open"]
    assert without.pools("evaluator")["benign"]
    with pytest.raises(CasehardenError, match="is empty for the defender"):
        pool_of(without, "defender", "benign")
    assert all(e.completion for e in domain.pools("defender")["benign"])


def test_prompts_at_large_are_all_of_the_defenders_and_tell_nothing(domain, tiny_lm):
    asked = domain.at_large(tiny_lm, Native(), 0)
    pools = domain.pools("defender")
    assert {e.prompt for e in asked} == {
        e.prompt for name in ("harmful", "benign", "contrast") for e in pools[name]
    }
    assert len({e.id for e in asked}) == len(asked)
    assert not any(e.completion or e.topic for e in asked)
    openers = {e.prompt: e.completion for e in pools["openers"]}
    assert openers and all(e.prefix == openers.get(e.prompt, PREFIX) for e in asked)
    benign = [e.prompt in {b.prompt for b in pools["benign"]} for e in asked]
    assert 0 < sum(benign[: len(asked) // 2]) < sum(benign)


def test_limit_and_longest_bound_training_and_not_evaluation(sources, write):
    long = write("long", [{"prompt": "word " * 300}, {"prompt": "short"}])

    def asked(role, **fields):
        given = Prompts({role: (sources["asked"], long)}, contrast={}, evaluation={}, **fields)
        return len(given.pools(role)["harmful"])

    assert asked("attacker") == 101
    assert asked("attacker", limit=7) == 8
    assert asked("attacker", longest=5000) == 102
    assert asked("evaluator", limit=7) == 102


def test_a_spec_names_every_field(domain):
    named = written(domain, Domain)
    assert build(named, Domain, "domain") == domain
    with pytest.raises(CasehardenError, match=r"no field 'benig'. Did you mean 'benign'"):
        build({"prompts": {"harmful": {}, "benig": {}}}, Domain, "domain")


def test_near_duplicates_across_roles_are_refused_or_dropped(write):
    train = write(
        "train", [{"prompt": "How would one pick the lock of a neighbor's shed?"}, {"prompt": "Other thing"}]
    )
    attack = write(
        "attack", [{"prompt": "how would one pick the lock of a neighbors shed"}, {"prompt": "Third kind"}]
    )
    test = write("test", [{"prompt": "THIRD KIND!"}, {"prompt": "Something else again"}])
    given = {"defender": (train,), "attacker": (attack,), "evaluator": (test,)}
    with pytest.raises(CasehardenError, match=r"2 near duplicates.*pick the lock.*~.*Set `overlap: drop`"):
        Prompts(given, contrast={}, evaluation={}).pools("attacker")
    dropping = Prompts(given, contrast={}, evaluation={}, overlap="drop")
    assert dropping.dropped == {"defender": 1, "attacker": 1, "evaluator": 0}
    left = {role: [e.prompt for e in dropping.pools(role)["harmful"]] for role in ROLES}
    assert left["defender"] == ["Other thing"]
    assert left["attacker"] == ["how would one pick the lock of a neighbors shed"]
    assert len(left["evaluator"]) == 2


def test_over_refusal_prompts_must_not_have_been_trained_on(write):
    same = "Where do I shoot the best sunrise?"
    ours = write("ours", [{"prompt": same, "completion": "On a hill."}])
    theirs = write("theirs", [{"prompt": same.lower()}])
    with pytest.raises(CasehardenError, match="1 near duplicates"):
        Prompts({}, contrast={"defender": (ours,)}, evaluation={"over_refusal": theirs}).pools("defender")


def test_fingerprint_follows_the_data(domain, sources, write):
    before = fingerprint(domain)
    assert before == fingerprint(Prompts(**vars_of(domain)))
    write("held", [{"prompt": "another question"}])
    assert fingerprint(Prompts(**vars_of(domain))) != before


def vars_of(domain):
    return {name: getattr(domain, name) for name in Prompts.__dataclass_fields__}


def test_measures_are_those_whose_pools_are_there(domain):
    assert set(domain.measures()) == {
        "harm",
        "harm:prefilled",
        "harm:wrapped",
        "harm:template",
        "harm:sampled",
        "utility",
        "refusal",
        "refusal_benign",
        "over_refusal",
    }
    for measure in domain.measures().values():
        assert measure.pool in domain.pools("evaluator")


def test_choices_that_no_role_trains_on_are_bystanders(domain, sources):
    asked = {
        **domain.evaluation,
        "bystander": sources["tested"],
        "other": sources["tested"],
        "prose": sources["open"],
    }
    both = replace(domain, evaluation=asked)
    assert both.bystanders == {"bystander": "bystander", "bystander:other": "other"}  # prose has no choices
    assert {name: both.measures()[name].pool for name in both.bystanders} == dict(both.bystanders)
    assert domain.bystanders == {}
    learned = replace(both, evaluation={"utility": sources["tested"], "other": sources["tested"]})
    assert set(learned.bystanders) == {"bystander:other"}
    learned = replace(learned, tasks={"choosing": sources["tested"]})
    assert learned.bystanders == {} and "bystander:other" not in learned.measures()
    with pytest.raises(CasehardenError, match="not all of it is multiple choice"):
        replace(both, evaluation={"bystander": sources["open"]}).measures()


@pytest.mark.parametrize("trained", [{"tasks": {"arc": "arc-easy-train"}}, {"benign": {"attacker": ("arc-easy",)}}])
def test_what_a_role_trains_on_is_no_bystander(trained):
    with pytest.raises(CasehardenError, match="arc-easy as a bystander, and a role trains on it"):
        Prompts({}, evaluation={"bystander": "arc-easy"}, **trained)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"harmful": {"atacker": ("advbench",)}}, "harmful has sources for 'atacker'.*Did you mean 'attacker'"),
        ({"harmful": {}, "refusals": ()}, "refusals is empty"),
        ({"harmful": {}, "wrapper": "Go ahead."}, "'Go ahead.' has no place for the prompt"),
        ({"harmful": {}, "evaluation": {"benign": "arc-easy"}}, "cannot name a pool 'benign'.*Rename"),
    ],
)
def test_bad_fields(fields, message):
    with pytest.raises(CasehardenError, match=message):
        Prompts(**fields)


@pytest.mark.parametrize(
    ("source", "many", "topics"), [("lookalikes", 250, 10), ("everyday", 250, 10), ("conversations", 60, 5)]
)
def test_our_own_prompts_are_many_varied_and_all_answered(source, many, topics):
    rows = load(source)
    assert len(rows) >= many
    assert len({row.topic for row in rows}) >= topics
    assert all(row.completion and row.prompt for row in rows)
    assert near_duplicates([rows[0].prompt], [row.prompt for row in rows[1:]]) == []
    openings = [row.completion.split()[0] for row in rows]
    assert max(map(openings.count, set(openings))) < len(rows) / 10
    assert not any("sorry" in row.completion.lower()[:40] or "I can't" in row.completion for row in rows)


@pytest.mark.data
def test_the_real_sets(data_dir):
    domain = Prompts(
        harmful={
            "defender": ("catqa", "dangerousqa", "advbench"),
            "attacker": ("advbench",),
            "evaluator": ("harmbench", "strongreject"),
        },
        benign={"defender": ("self-instruct",), "evaluator": ("user-oriented", "mt-bench")},
        overlap="drop",
    )
    sizes = {role: len(domain.pools(role)["harmful"]) for role in ROLES}
    assert sizes["defender"] > 850 and sizes["attacker"] > 200 and sizes["evaluator"] == 482
    assert sum(domain.dropped.values()) < 30
    assert len(domain.pools("defender")["contrast"]) > 370
    assert len(domain.pools("evaluator")["over_refusal"]) == 250
    assert all(example.choices for example in domain.pools("evaluator")["utility"])
