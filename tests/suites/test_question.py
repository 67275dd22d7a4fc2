"""What an audit asks: which studies come of a suite, a model and a domain. Nothing runs."""

from dataclasses import replace

import pytest

from caseharden.domains import Almanac
from caseharden.errors import CasehardenError
from caseharden.records.asking import ways
from caseharden.suites import suite as suites
from caseharden.suites.question import Question
from suite_toys import SMALL


def test_a_question_that_cannot_be_answered_is_refused_before_anything_runs():
    small = suites.parse(SMALL, "small")
    with pytest.raises(CasehardenError, match="'snare'"):
        Question("m", "almanac-victim", Almanac(), small, held_out=("snares",))

    class Taskless(Almanac):
        def pools(self, role):
            return {name: pool for name, pool in super().pools(role).items() if not name.startswith("task:")}

    with pytest.raises(CasehardenError, match="no benign task"):
        Question("m", "almanac-victim", Taskless(), small)


def test_what_harm_is_asked_by_under_attack():
    suite = suites.parse({**SMALL, "asked": ["prefilled"], "harm_n": 5}, "small")
    question = Question("almanac-never-learned", "almanac-victim", Almanac(), suite)
    (spec, _) = question.attacks(suite.stages[0])
    measures = spec.all_measures()
    assert {*measures} == {"harm", "harm:prefilled", "utility"} and measures["harm"].n == 5
    every = len(ways(Almanac().measures(), "harm"))
    assert question.readings == every + 2 * len(suite.attacks) * len(suite.seeds)


def test_all_that_is_run_is_computed_in_the_audits_precision():
    suite = suites.parse(SMALL, "small")
    exact = Question("almanac-never-learned", "almanac-victim", Almanac(), suite)
    question = replace(exact, precision="bfloat16")
    assert {spec.precision for spec in question.studies()} == {"bfloat16"}
    assert question.prefix != exact.prefix


def test_another_suite_asks_other_studies():
    names = set()
    for tasks in (1, 2):
        suite = suites.parse({**SMALL, "benign_runs": {**SMALL["benign_runs"], "tasks": tasks}}, "small")
        names.add(Question("almanac-never-learned", "almanac-victim", Almanac(), suite).prefix)
    assert len(names) == 2 and len({name[:18] for name in names}) == 1


def test_attacks_that_need_what_is_not_there_are_left_out_and_counted():
    given = [
        {"strip": {"base": "baseline"}},
        {"chain": {"stages": [{"strip": {"base": "baseline", "strength": 0.3}}, {"sft": {"lr": 1e-3}}]}},
        {"sft": {"data": {"nowhere": 1.0}}},
        {"sft": {"lr": 1e-3}},
    ]
    suite = suites.parse({**SMALL, "attacks": given, "budgets": [0, 1, 2]}, "small")
    secret = Question("almanac-never-learned", "almanac-victim", Almanac(), suite)
    public = replace(secret, base_public=True)
    assert [type(attack).__name__ for attack in secret.stages[0].attacks] == ["SFT"]
    strip, chain, _ = public.stages[0].attacks
    assert strip.base == chain.stages[0].base == "almanac-victim"
    assert dict(secret.left_out) == {
        "the baseline's weights are secret": 2,
        "the domain has no pool nowhere": 1,
    }
    assert dict(public.left_out) == {"the domain has no pool nowhere": 1}
    assert secret.prefix != public.prefix and secret.readings < public.readings
    with pytest.raises(CasehardenError, match=r"none of the suite's attacks can be run here: .* secret"):
        replace(secret, suite=suites.parse({**SMALL, "attacks": given[:2]}, "small"))
