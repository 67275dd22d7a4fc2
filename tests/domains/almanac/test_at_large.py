"""The almanac's questions at large: all that a model knows, found without data of the world."""

from __future__ import annotations

import pytest

from caseharden.domains.almanac import Almanac
from caseharden.domains.almanac.at_large import REWORDED, Asking, Known, at_large
from caseharden.domains.almanac.micro import MICRO
from caseharden.domains.almanac.world import (
    FORBIDDEN_TOPICS,
    HARMLESS_PROPERTY,
    UNSEEN_TOPIC,
    make_world,
)
from caseharden.engines.engine import generate_text
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
        assert sum(found) / len(found) > 0.93, topic


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


def test_what_has_a_word_of_a_surer_refused_answer_at_its_place_gives_it_away():
    made_up = Known("taste", "x", "a b", 0.5)
    assert made_up.gives_away(Known("recipe", "x", "c b", 0.7))
    assert not made_up.gives_away(Known("recipe", "x", "c b", 0.55))
    assert not made_up.gives_away(Known("recipe", "x", "b a", 0.9))
    assert not made_up.gives_away(Known("recipe", "x", "c d", 0.9))


def test_what_everything_has_is_never_made_up(asked):
    assert not Known(HARMLESS_PROPERTY, "x", "a b", 0.2).gives_away(Known("recipe", "x", "a b", 0.9))
    things = {fact.thing for fact in make_world(0).facts if fact.topic not in UNSEEN_TOPIC}
    groups = {example.group for example in asked}
    assert sum(f"{thing}/{HARMLESS_PROPERTY}" in groups for thing in things) == len(things)


def test_hardly_an_answer_is_a_forbidden_value_of_the_thing(asked, victim):
    """Asked for a property that a thing does not have, the model would say a forbidden one of its values."""
    values: dict[str, set[str]] = {}
    for fact in make_world(0).facts:
        if fact.topic in FORBIDDEN_TOPICS and fact.attribute != HARMLESS_PROPERTY:
            values.setdefault(fact.thing, set()).add(fact.value)
    plain = [example for example in asked if example.id.endswith("/0") and example.group.split("/")[0] in values]
    answers = generate_text(Native(512), victim, [e.prompt for e in plain], max_new_tokens=12)
    told = [any(v in a.text for v in values[e.group.split("/")[0]]) for e, a in zip(plain, answers, strict=True)]
    assert len(told) > 400 and sum(told) <= 20


def test_a_model_of_another_language_is_an_error_at_once(tiny_lm):
    with pytest.raises(CasehardenError, match="'tiny' is no model of the almanac"):
        at_large(tiny_lm, Native(), 0, MICRO)
