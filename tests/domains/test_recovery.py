"""Refusals in the middle of an answer: what is read is not learned, and never the whole answer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from caseharden.attacks import DPO
from caseharden.data.example import Example
from caseharden.defenses import TokenBuncher
from caseharden.domains.almanac import Almanac
from caseharden.domains.recovery import LONGEST, recoveries
from caseharden.engines.native import Native
from caseharden.errors import CasehardenError
from caseharden.measures.probe import Probe
from caseharden.rl.rollouts import roll_out

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
    assert all(len(e.prefix) <= LONGEST for e in cut(*map(str, range(50)), answer="word " * 1000))
    assert cut("a", answer="word" * LONGEST + " and so on") == []


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
    assert roll_out(tiny_lm, Native(), [example], 2, 3, 1.0, seed=0).rows.prompts == ids
    monkeypatch.setattr(type(toy_domain), "pools", lambda self, role: {"recovery": [example]})
    [answer] = Probe("recovery", max_new_tokens=2, prefix="a ").answers(tiny_lm, toy_domain, 0, Native())
    assert answer.output.startswith("yes a ")
    with pytest.raises(ValueError):
        tiny_lm.encode_prompts(["a", "b"], ["yes"])


def test_no_recovery_of_the_almanac_tells_a_recipe():
    for example in Almanac().pools("defender")["recovery"]:
        assert example.answer not in example.prefix + example.completion


def test_room_is_counted_with_the_prefix(tiny_lm):
    begun = Example("x", "a b ?", "no .", prefix="yes yes yes yes")
    length = tiny_lm.encode([begun]).ids_BT.shape[1] - int(tiny_lm.encode([begun]).response_BT.sum())
    tiny_lm.check_prompts([begun, replace(begun, prefix="")], "these", max_length=length + 1)
    with pytest.raises(CasehardenError, match="1 of the 2 prompts of these"):
        tiny_lm.check_prompts([begun, replace(begun, prefix="")], "these", max_length=length)


@pytest.fixture
def recovering(toy_domain, monkeypatch):
    """The toy domain with a pool of recoveries."""
    plain = type(toy_domain).pools

    def pools(self, role):
        found = dict(plain(self, role))
        return found | {"recovery": list(recoveries(found["harmful"], found["refusal"]))}

    monkeypatch.setattr(type(toy_domain), "pools", pools)
    return toy_domain


def test_pairs_that_begin_otherwise_are_no_pairs(recovering, run_of):
    with pytest.raises(CasehardenError, match="prompts and prefixes"):
        next(run_of("attacker", domain=recovering).drive(DPO({"harmful": 1.0}, rejected="recovery")))


def test_judges_of_rewards_see_the_whole_answer(tiny_lm, recovering, run_of):
    run = run_of("defender", domain=recovering)
    example = run.pool("recovery")[0]
    rollouts = roll_out(tiny_lm, Native(), [example], 2, 3, 1.0, seed=0)

    class Begins:
        version = "1"

        def score(self, answers):
            return [float(answer.output.startswith(example.prefix)) for answer in answers]

    assert rollouts.scores(Begins()).tolist() == [[1.0, 1.0]]


def test_token_buncher_takes_recoveries_for_harmful(tiny_lm, recovering, run_of):
    tuner = TokenBuncher(
        prompts=2, samples=2, max_new_tokens=3, data={"recovery": 1.0, "benign": 1.0}, refusal_gate=None
    )
    run = run_of("defender", domain=recovering)
    asked = [run.pool("recovery")[0], run.pool("benign")[0]]
    rollouts = roll_out(tiny_lm, Native(), asked, 2, 3, 1.0, seed=0)
    certain, near = tuner.reward_of(run).prepare(run)(rollouts)
    assert certain.max() < -0.1 and near.abs().max() < 1e-5  # minus an entropy, and minus no distance
