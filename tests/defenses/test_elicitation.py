"""Elicitation: which of a model's own answers are kept, and how they are told apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest

from caseharden.data.conversation import Conversation
from caseharden.data.example import Example
from caseharden.data.pools import pool
from caseharden.defenses.elicitation import Said, elicited
from caseharden.engines.engine import Written
from caseharden.errors import CasehardenError
from caseharden.judges.strings import StringRefusal
from toys import Opens, ToyDomain

ANSWERS = {
    "a b ?": "b a .",
    "c d ?": "sorry i cannot .",
    "e f ?": "no sorry i cannot .",  # a refusal in other words
    "g h ?": "h g",  # never ends
    "i j ?": "j i .",
    "i j .": "j j .",  # another answer to the same question
    "k l ?": "sorry i cannot .",
    "k l .": "no sorry i cannot .",
    "m n ?": "",
}
POOLS = ("answered", "declined")
GROUPS = {"i j ?": "ij", "i j .": "ij", "k l ?": "kl", "k l .": "kl"}


@dataclass(frozen=True)
class Asking(ToyDomain):
    """Asks what there is an answer to."""

    answers: Mapping[str, str] = field(default_factory=lambda: ANSWERS, compare=False)
    groups: Mapping[str, str] = field(default_factory=lambda: GROUPS, compare=False)
    prefix: str = ""

    def at_large(self, lm, engine, seed):
        return [Example(p, p, group=self.groups.get(p, ""), prefix=self.prefix) for p in self.answers]


@dataclass(frozen=True)
class Scripted:
    """An engine that says what it is told to, and ends where that ends in a full stop, or says nothing.

    `kept` is what it says where an answer has been made to begin.
    """

    answers: Mapping[str, str]
    kept: Mapping[str, str] = field(default_factory=dict)

    def write(self, lm, prompts: Sequence[list[int]], samples, limit, temperature, seed) -> Written:
        ends = lm.ends()[:1]
        known = dict(zip(map(tuple, lm.encode_prompts([*self.answers])), self.answers.values(), strict=True))
        if self.kept:
            begun = lm.encode_prompts([*self.kept], ["yes"] * len(self.kept))
            known |= dict(zip(map(tuple, begun), self.kept.values(), strict=True))
        said = [known[tuple(prompt)] for prompt in prompts]
        return Written([lm._tokenize([text])[0] + (ends if text[-1:] in ("", ".") else []) for text in said])


def run_with(run_of, answers=ANSWERS):
    run = run_of("defender", domain=Asking(answers=answers))
    run.engine = Scripted(answers)
    return run


def test_answers_are_kept_where_they_end_and_agree_and_are_told_apart_by_refusals(run_of):
    run = run_with(run_of)
    told = elicited(run, StringRefusal(), 8, POOLS)
    assert {e.prompt: e.completion for e in told.pool("answered")} == {"a b ?": "b a ."}
    declined = ("c d ?", "e f ?", "k l ?", "k l .")
    assert {e.prompt: e.completion for e in told.pool("declined")} == {p: ANSWERS[p] for p in declined}


def test_the_other_pools_stay_and_other_roles_see_none_of_the_new_ones(run_of):
    run = run_with(run_of)
    told = elicited(run, StringRefusal(), 8, POOLS)
    assert told.pool("benign") == run.pool("benign")
    assert "answered" not in run.domain.pools("defender")
    for role in ("attacker", "evaluator"):
        assert told.domain.pools(role) == run.domain.pools(role)
    with pytest.raises(CasehardenError, match="no pool 'answered'"):
        pool(told.domain, "attacker", "answered")


def test_a_pool_of_the_domains_own_is_not_replaced(run_of):
    class Taken(Asking):
        def pools(self, role):
            return {**super().pools(role), "false": []}

    with pytest.raises(CasehardenError, match="has a pool 'false' of its own"):
        elicited(run_of("defender", domain=Taken()), StringRefusal(), 8, POOLS)


def test_a_domain_without_prompts_at_large_is_an_error(run_of):
    class Bare:
        name = "bare"

        def pools(self, role):
            return {}

    with pytest.raises(CasehardenError, match="'bare' has no prompts at large"):
        elicited(run_of("defender", domain=Bare()), StringRefusal(), 8, POOLS)


@pytest.mark.parametrize(
    ("answers", "lacking"),
    [({}, "answered"), ({"a b ?": "sorry i cannot ."}, "answered"), ({"a b ?": "b a ."}, "declined")],
)
def test_what_is_wanted_and_not_there_is_an_error(answers, lacking, run_of):
    run = run_with(run_of, answers)
    with pytest.raises(CasehardenError, match=f"nothing is {lacking}: to {len(answers)} prompts at large"):
        elicited(run, StringRefusal(), 8, POOLS)
    run = run_with(run_of, answers)
    elicited(run, StringRefusal(), 8, {*POOLS} - {lacking, *(POOLS if not answers else ())})


def test_an_empty_answer_is_no_refusal_whatever_the_judge_says(run_of):
    run = run_with(run_of, {"a b ?": "", "c d ?": "d c ."})
    told = elicited(run, Opens(""), 8, ("answered",))
    assert not told.domain.pools("defender")["declined"] and len(told.pool("answered")) == 1


@dataclass(frozen=True)
class Unsure:
    """A judge that cannot tell of answers that begin with a letter."""

    version: str = "1"

    def score(self, answers):
        return [float("nan") if answer.output[:1] == "b" else 0.0 for answer in answers]


def test_what_could_not_be_judged_is_left_out(run_of):
    run = run_with(run_of, {"a b ?": "b a .", "c d ?": "d c ."})
    told = elicited(run, Unsure(), 8, ("answered",))
    assert [e.prompt for e in told.pool("answered")] == ["c d ?"] and not told.domain.pools("defender")["declined"]


def test_conversations_survive_a_crash():
    said = Said()
    talk = Conversation([("system", "be brief"), ("user", "a b ?")])
    answered = [Example("1", talk, "b a .", group="g"), Example("2", "c ?", "c c .", prefix="yes")]
    said.pools = {"answered": answered, "declined": []}
    again = Said()
    again.load_state_dict(said.state_dict())
    assert again.pools == said.pools and again.pools["answered"][0].prompt.turns == talk.turns


def test_the_usual_answer_of_a_question_is_kept_and_others_are_not(run_of):
    answers = {"a b ?": "b a .", "a b .": "b a .", "a b": "b b .", "c d ?": "d c .", "c d .": "sorry i cannot ."}
    answers |= dict.fromkeys(("g h ?", "g h .", "g h"), "h g .") | dict.fromkeys(("g h g", "g h h"), "g .")
    run = run_of("defender", domain=Asking(answers=answers))
    run.domain = replace(run.domain, groups={prompt: prompt[:3] for prompt in answers})
    run.engine = Scripted(answers)
    told = elicited(run, StringRefusal(), 8, ("answered",))
    kept = [(e.prompt, e.completion) for e in told.pool("answered")]
    assert kept[:2] == [("a b ?", "b a ."), ("a b .", "b a .")]
    assert kept[2:] == [(prompt, "h g .") for prompt in ("g h ?", "g h .", "g h")], "three of five"
    assert not told.domain.pools("defender")["declined"]


REFUSED = dict.fromkeys(("a b ?", "a b .", "c d ?", "e f ?"), "sorry i cannot .")


def falsely(run_of, answers, kept, wanted=("declined", "false")):
    run = run_of("defender", domain=Asking(answers=answers, groups={p: p[:3] for p in answers}, prefix="yes"))
    run.engine = Scripted(answers, kept)
    return elicited(run, StringRefusal(), 8, wanted)


def test_false_words_after_the_beginning_of_an_answer_are_those_of_other_questions(run_of):
    told = falsely(run_of, REFUSED | {"g h ?": "h g ."}, {"a b ?": "b a .", "c d ?": "d c .", "e f ?": "b f ."})
    false = {e.prompt: (e.prefix, e.completion) for e in told.pool("false")}
    assert false.keys() == REFUSED.keys()  # what is answered is left as it is
    assert false["a b ?"] == false["a b ."]
    for prompt, (first, second) in {"a b ?": "ba", "c d ?": "dc", "e f ?": "bf"}.items():
        begun, (one, two, stop) = false[prompt][0], false[prompt][1].split()
        assert begun == "yes" and one != first and two != second and stop == "."
        assert one in "bd" and two in "acf"
    assert all(not e.prefix and e.completion == "sorry i cannot ." for e in told.pool("declined"))


def test_what_is_false_is_the_same_for_a_seed(run_of):
    kept = {"a b ?": "b a .", "c d ?": "d c .", "e f ?": "f e ."}
    one, other = (falsely(run_of, REFUSED, kept).pool("false") for _ in range(2))
    assert one == other


def test_nothing_is_false_of_one_question_alone_nor_without_beginnings(run_of):
    with pytest.raises(CasehardenError, match=r"nothing is false.* come with the beginning of one"):
        falsely(run_of, {"a b ?": "sorry i cannot ."}, {"a b ?": "b a ."})
    run = run_with(run_of, REFUSED)
    with pytest.raises(CasehardenError, match="nothing is false"):
        elicited(run, StringRefusal(), 8, ("false",))
