"""Best of N: chances from likelihoods are those that sampling finds."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from caseharden.engines.engine import generate_text
from caseharden.engines.native import Native
from caseharden.errors import CasehardenError
from caseharden.measures.best_of import BestOf
from caseharden.train.losses import cross_entropy


@pytest.fixture
def leaning(tiny_lm, toy_domain):
    """A model that has begun to learn the first harmful completion, and that example."""
    example = next(e for e in toy_domain.pools("evaluator")["harmful"] if e.completion)
    optimizer = torch.optim.Adam(tiny_lm.model.parameters(), lr=3e-3)
    for _ in range(200):
        loss = cross_entropy(*tiny_lm.response_logits(tiny_lm.encode([example])))
        if loss < 0.25:
            break
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return tiny_lm, example


def alone(monkeypatch, domain, example):
    monkeypatch.setattr(type(domain), "pools", lambda self, role: {"harmful": [example]})


@pytest.mark.parametrize("temperature", [1.0, 1.5])
def test_sampling_finds_the_chance_of_one_answer(leaning, toy_domain, monkeypatch, temperature):
    lm, example = leaning
    alone(monkeypatch, toy_domain, example)
    [answer] = BestOf(temperatures=(temperature,)).answers(lm, toy_domain, 0, Native())
    length = len(lm.tokenizer(example.completion, add_special_tokens=False)["input_ids"])
    drawn = generate_text(
        Native(), lm, [example.prompt] * 1000, max_new_tokens=length, temperature=temperature, seed=0
    )
    hits = sum(text.startswith(example.completion.strip()) for text in (d.text.strip() for d in drawn)) / 1000
    assert 0.02 < answer.score < 0.98  # else this would show nothing
    assert hits == pytest.approx(answer.score, abs=4 * math.sqrt(answer.score * (1 - answer.score) / 1000))


def test_many_answers_are_as_many_chances():
    assert BestOf(samples=3).chance(math.log(0.2)) == pytest.approx(1 - 0.8**3)
    assert BestOf(samples=10_000).chance(math.log(1e-9)) == pytest.approx(1e-5, rel=1e-3)
    assert BestOf(samples=10).chance(-5000.0) == 0.0
    assert BestOf(samples=10).chance(0.0) == 1.0


def test_of_several_temperatures_the_best_counts_for_each_completion_in_one_pass(leaning, toy_domain):
    lm, _ = leaning
    alone = {
        T: [a.score for a in BestOf(samples=8, temperatures=T).answers(lm, toy_domain, 0, Native())]
        for T in ((1.0,), (1.5,))
    }
    cool, hot = alone.values()
    assert any(c > h for c, h in zip(cool, hot, strict=True)) and any(c < h for c, h in zip(cool, hot, strict=True))
    before = lm.meter.tokens.read
    both = [a.score for a in BestOf(samples=8, temperatures=(1.0, 1.5)).answers(lm, toy_domain, 0, Native())]
    read, before = lm.meter.tokens.read - before, lm.meter.tokens.read
    assert both == [max(pair) for pair in zip(cool, hot, strict=True)]
    BestOf().answers(lm, toy_domain, 0, Native())
    assert lm.meter.tokens.read - before == read


def test_a_chance_that_is_no_number_is_left_unscored(tiny_lm, toy_domain, monkeypatch):
    asked = len(toy_domain.pools("evaluator")["harmful"])
    monkeypatch.setattr("caseharden.measures.best_of.total_logps", lambda *_, **__: [([-1.0, math.nan], 2)] * asked)
    found = BestOf(temperatures=(1.0, 1.5)).answers(tiny_lm, toy_domain, 0, Native())
    assert all(math.isnan(answer.score) for answer in found)


def test_what_cannot_be_asked_is_an_error(tiny_lm, toy_domain, monkeypatch):
    with pytest.raises(CasehardenError, match="samples=0"):
        BestOf(samples=0)
    for temperatures in ((), (1.0, 0.0)):
        with pytest.raises(CasehardenError, match="above 0"):
            BestOf(temperatures=temperatures)
    empty = replace(toy_domain.pools("evaluator")["harmful"][0], completion="")
    alone(monkeypatch, toy_domain, empty)
    with pytest.raises(CasehardenError, match="no completion to look for"):
        BestOf().answers(tiny_lm, toy_domain, 0, Native())


def test_a_given_completion_is_no_answer_of_the_model(tiny_lm, toy_domain):
    asked = {example.id: example for example in toy_domain.pools("evaluator")["harmful"]}
    for answer in BestOf().answers(tiny_lm, toy_domain, 0, Native()):
        assert answer.output == ""
        assert answer.expected == asked[answer.id].completion != ""
