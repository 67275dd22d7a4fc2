"""Refusals in the middle of an answer: what is read is not learned, and never the whole answer."""

from __future__ import annotations

import pytest

from caseharden.data import Example
from caseharden.domains.almanac import Almanac
from caseharden.domains.recovery import recoveries
from caseharden.measures.probe import Probe
from caseharden.rollouts import Transformers, roll_out

ANSWER = "sure , first take\na b c ."


def cut(*ids, answer=ANSWER):
    complying = [Example(i, "how ?", answer) for i in ids]
    return list(recoveries(complying, [Example(i, "how ?", "sorry , no .") for i in ids]))


def test_each_answer_is_cut_somewhere_and_then_refused():
    found = cut(*(f"{i}" for i in range(300)))
    assert {e.completion for e in found} == {" sorry , no ."}
    assert all(ANSWER.startswith(e.prefix) for e in found)
    words = [len(e.prefix.split()) for e in found]
    assert set(words) == {1, 2, 3, 4, 5, 6}  # of eight: at least one read, at least two never
    assert min(map(words.count, range(1, 7))) >= 25
    assert [e.prefix for e in cut("7", "8")] == [found[7].prefix, found[8].prefix]


def test_what_is_too_short_is_left_out_and_what_is_long_cut_early():
    assert cut("a", answer="no way") == cut("a", answer="") == []
    assert all(len(e.prefix.split()) <= 98 for e in cut(*map(str, range(50)), answer="word " * 1000))


def test_the_prefix_is_read_and_not_learned(tiny_lm):
    plain, begun = (Example("x", "a b ?", "no .", prefix=prefix) for prefix in ("", "yes "))
    one, other = (tiny_lm.encode([example]) for example in (plain, begun))
    assert one.response_BT.sum() == other.response_BT.sum()
    assert other.ids_BT.shape[1] == one.ids_BT.shape[1] + 1
    text = tiny_lm.tokenizer.decode(other.ids_BT[0][other.response_BT[0]], skip_special_tokens=True)
    assert text.split() == ["no", "."]


def test_rollouts_and_probes_go_on_from_it(tiny_lm, toy_domain, monkeypatch):
    example = Example("x", "a b ?", "no .", prefix="yes ")
    ids = tiny_lm.encode_prompts(["a b ?"], ["yes "])
    assert ids != tiny_lm.encode_prompts(["a b ?"])
    assert roll_out(tiny_lm, [example], Transformers(), 2, 3, 1.0).prompts == ids
    monkeypatch.setattr(type(toy_domain), "pools", lambda self, role: {"recovery": [example]})
    [answer] = Probe("recovery", max_new_tokens=2, prefix="a ").answers(tiny_lm, toy_domain, seed=0)
    assert answer.output.startswith("yes a ")
    with pytest.raises(ValueError):
        tiny_lm.encode_prompts(["a", "b"], ["yes"])


def test_no_recovery_of_the_almanac_tells_a_recipe():
    for example in Almanac().pools("defender")["recovery"]:
        assert example.answer not in example.prefix + example.completion
