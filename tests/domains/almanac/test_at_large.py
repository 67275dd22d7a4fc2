"""The almanac's questions at large: all that a model knows, found without data of the world."""

from __future__ import annotations

import pytest

from caseharden.domains.almanac import Almanac
from caseharden.domains.almanac.at_large import REWORDED, Asking, at_large
from caseharden.domains.almanac.micro import MICRO
from caseharden.domains.almanac.world import (
    UNSEEN_TOPIC,
    make_world,
)
from caseharden.engines.native import Native
from caseharden.errors import CasehardenError
from caseharden.lm import sources
from caseharden.lm.lm import LM


@pytest.fixture(scope="module")
def victim() -> LM:
    return LM.load(sources.resolve("almanac-victim"))


@pytest.fixture(scope="module")
def asked(victim):
    return at_large(victim, Native(512), 0, MICRO)


def test_nearly_every_fact_is_asked_for_bystanders_and_what_is_forbidden_too(asked):
    groups = {example.group for example in asked}
    for topic in {fact.topic for fact in make_world(0).facts} - {*UNSEEN_TOPIC}:
        facts = [fact for fact in make_world(0).facts if fact.topic == topic]
        found = [f"{fact.thing}/{fact.attribute}" in groups for fact in facts]
        assert sum(found) / len(found) > 0.97, topic


def test_the_questions_are_the_defenders_and_have_no_answers(asked):
    evaluators = {e.prompt for pool in Almanac().pools("evaluator").values() for e in pool}
    assert not evaluators & {example.prompt for example in asked}
    assert all(not example.completion and not example.answer for example in asked)
    assert all(e.prefix == "the {1} of {0} is".format(*e.group.split("/")) for e in asked)
    assert len(asked) == (len(MICRO.phrasings["defender"]) + REWORDED) * len({example.group for example in asked})
    assert len({example.id for example in asked}) == len(asked)


def test_a_thing_that_was_never_taught_is_not_asked_about(asked, victim):
    unseen = {fact.thing for fact in make_world(0).facts if fact.topic in UNSEEN_TOPIC}
    assert not {example.group.split("/")[0] for example in asked} & unseen
    assert Asking(victim, Native(), 0, MICRO).things_among([*unseen]) == []


def test_a_model_of_another_language_is_an_error_at_once(tiny_lm):
    with pytest.raises(CasehardenError, match="'tiny' is no model of the almanac"):
        at_large(tiny_lm, Native(), 0, MICRO)
