"""What an attacker has by itself: two halves of its own pools, and measures on one of them."""

import pytest
import yaml

from caseharden.attacks import SFT
from caseharden.data.example import Example
from caseharden.domains import Almanac, AttackerOnly
from caseharden.errors import CasehardenError
from caseharden.measures.perplexity import Perplexity
from caseharden.records.asking import ways
from caseharden.study.spec import StudySpec, parse
from search_toys import Private
from toys import ToyDomain


def groups(pool):
    return {example.group or example.id for example in pool}


def test_no_group_is_in_both_halves_and_nothing_is_lost():
    whole, parts = Almanac().pools("attacker"), AttackerOnly(Almanac())
    trained, asked = parts.pools("attacker"), parts.pools("evaluator")
    assert {*trained} == {*asked} == {*whole}
    everywhere = [set().union(*map(groups, half.values())) for half in (trained, asked)]
    assert not everywhere[0] & everywhere[1]
    for name, pool in whole.items():
        assert sorted([*trained[name], *asked[name]], key=str) == sorted(pool, key=str)
        assert abs(len(groups(trained[name])) - len(groups(asked[name]))) <= 1
    assert parts.pools("defender") == {}


def test_nobody_elses_pools_are_read():
    parts = AttackerOnly(Private())
    assert parts.pools("evaluator")["harmful"]
    assert {*parts.measures()} == {"harm", "utility", "slow"}, "those whose pool the attacker has"


def test_measures_ask_few_questions():
    found = AttackerOnly(Almanac(), questions=10).measures()
    assert found["harm"].n == found["harm:wrapped"].n == 10
    assert AttackerOnly(ToyDomain(), questions=10).measures()["utility"].n == 8, "where they asked fewer before"
    assert [*ways(found, "harm")] == ["plain", "wrapped"], "of other ways only the evaluator has the pools"


def test_utility_is_how_likely_benign_completions_are_where_it_is_the_evaluators():
    class Multiple(Private):
        def measures(self):
            return {"harm": super().measures()["harm"], "utility": super().measures()["bystander"]}

    assert AttackerOnly(Multiple(), 5).measures()["utility"] == Perplexity("benign", n=5)


@pytest.mark.parametrize("missing", ["harmful", "benign"])
def test_without_a_pool_to_ask_there_is_nothing_to_measure(missing):
    class Poor(Private):
        def pools(self, role):
            return {name: pool for name, pool in super().pools(role).items() if name != missing}

    with pytest.raises(CasehardenError, match="the attacker of domain 'toy' has no"):
        AttackerOnly(Poor()).measures()


def test_a_study_with_it_can_be_written_and_read():
    spec = StudySpec("own", AttackerOnly(Almanac(seed=1), 20), ("almanac-victim",), (SFT(),))
    assert "attacker_only" in spec.to_yaml()
    assert parse(yaml.safe_load(spec.to_yaml())).domain == spec.domain


def test_a_pool_of_two_is_parted():
    class Two(ToyDomain):
        def pools(self, role):
            return {"harmful": [Example("a", "a ?", "a"), Example("b", "b ?", "b")]}

    parts = AttackerOnly(Two())
    assert len(parts.pools("attacker")["harmful"]) == len(parts.pools("evaluator")["harmful"]) == 1
