"""Worst of N: one answer a prompt, the one that complied if any did, and no score where nobody can know."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pytest

from caseharden.engines.native import Native
from caseharden.errors import CasehardenError
from caseharden.judges.judge import NAN, Answer, judged
from caseharden.measures.probe import Probe
from caseharden.measures.worst_of import WorstOf
from caseharden.records.statistics import reading
from toys import Opens


@dataclass(frozen=True)
class Told:
    """A judge that has its scores by the answer's text."""

    scores: Mapping[str, float] = field(default_factory=dict)
    version: str = "1"

    def score(self, answers):
        return [self.scores[answer.output] for answer in answers]


def kept(monkeypatch, lm, domain, *outputs: str, scores: Mapping[str, float], unfinished: str = "") -> Answer:
    """What is kept of these answers to one prompt."""
    said = [Answer("x", "a ?", output, finished=output != unfinished) for output in outputs]
    monkeypatch.setattr(Probe, "answers", lambda *_: said)
    measure = WorstOf(judge=Told(scores), samples=len(outputs))
    [answer] = judged(measure.judge, measure.answers(lm, domain, 0, Native()))
    return answer


def test_the_answer_that_complied_is_kept_whatever_else_has_no_score(monkeypatch, tiny_lm, toy_domain):
    scores = {"no": 0.0, "yes": 0.9, "half": 0.6, "?": NAN}
    found = kept(monkeypatch, tiny_lm, toy_domain, "no", "half", "?", "yes", "no", scores=scores)
    assert (found.output, found.score) == ("yes", 0.9)


def test_where_none_complied_and_one_has_no_score_nobody_knows_the_worst(monkeypatch, tiny_lm, toy_domain):
    scores = {"no": 0.0, "hardly": 0.2, "?": NAN}
    found = kept(monkeypatch, tiny_lm, toy_domain, "no", "?", "hardly", scores=scores)
    assert found.output == "?" and math.isnan(found.score)
    found = kept(monkeypatch, tiny_lm, toy_domain, "no", "thinking", scores=scores, unfinished="thinking")
    assert not found.finished and math.isnan(found.score)
    found = kept(monkeypatch, tiny_lm, toy_domain, "no", "hardly", scores=scores)
    assert (found.output, found.score) == ("hardly", 0.2)


def test_a_judge_that_fails_for_a_while_leaves_the_prompt_without_a_score(monkeypatch, tiny_lm, toy_domain):
    failed = []

    def score(self, answers):
        if not failed:
            failed.append(len(answers))
            raise RuntimeError("connection lost")
        return [0.0] * len(answers)

    monkeypatch.setattr(Told, "score", score)
    found = kept(monkeypatch, tiny_lm, toy_domain, "no", "yes", scores={})
    assert failed == [2] and math.isnan(found.score), "what the other answer would have got is not known"


def test_a_prompt_counts_once_and_by_the_worst_of_all_its_answers(tiny_lm, toy_domain):
    judge = Opens()
    warm = {
        "judge": judge,
        "samples": 3,
        "temperatures": (1.0, 3.0),
        "templates": ("chat", "none"),
        "n": 20,
        "max_new_tokens": 1,
    }
    measure = WorstOf(**warm)
    found = judged(judge, measure.answers(tiny_lm, toy_domain, 0, Native()))
    assert found == judged(judge, measure.answers(tiny_lm, toy_domain, 0, Native()))
    assert len({a.id for a in found}) == len(found) == 20
    read = reading([a.score for a in found], [a.cluster for a in found])
    assert (read.n, read.clusters) == (20, 20)

    alone = [{"temperatures": (T,), "templates": (name,)} for T in (1.0, 3.0) for name in ("chat", "none")]
    each = [judged(judge, WorstOf(**warm | part).answers(tiny_lm, toy_domain, 0, Native())) for part in alone]
    assert [a.score for a in found] == [max(part[i].score for part in each) for i in range(20)]
    assert read.value > max(sum(a.score for a in part) / 20 for part in each)  # else this would show nothing


def test_one_greedy_answer_is_a_probe(tiny_lm, toy_domain):
    probe = Probe(n=9, max_new_tokens=3)
    same = WorstOf(samples=1, temperatures=(0.0,), n=9, max_new_tokens=3)
    found = same.answers(tiny_lm, toy_domain, 0, Native())
    assert found == judged(probe.judge, probe.answers(tiny_lm, toy_domain, 5, Native()))


def test_several_answers_of_a_probe_stand_together_and_go_on_from_its_prefix(tiny_lm, toy_domain):
    probe = Probe(n=4, per_prompt=3, temperature=2.0, max_new_tokens=3, prefix="yes ")
    found = probe.answers(tiny_lm, toy_domain, 0, Native())
    once = replace(probe, per_prompt=1).answers(tiny_lm, toy_domain, 0, Native())
    assert [a.id for a in found] == [a.id for a in once for _ in range(3)]
    assert all(a.output.startswith("yes") for a in found)
    assert len({a.output for a in found[:3]}) > 1


@pytest.mark.parametrize(
    "fields", [{"samples": 0}, {"temperatures": ()}, {"temperatures": (-1.0,)}, {"templates": ()}]
)
def test_what_cannot_be_asked_is_an_error(fields):
    with pytest.raises(CasehardenError, match="one or several"):
        WorstOf(**fields)
    with pytest.raises(CasehardenError, match="at temperature 0 all answers are the same"):
        WorstOf(samples=2, temperatures=(0.0, 1.0))
