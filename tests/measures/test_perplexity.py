"""Perplexity: the geometric mean of token probabilities as a score, 1 over the perplexity."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from caseharden.engines.native import Native
from caseharden.errors import CasehardenError
from caseharden.measures.perplexity import Perplexity
from caseharden.train.losses import cross_entropy


def test_score_is_one_over_perplexity(tiny_lm, toy_domain):
    answers = Perplexity(n=6).answers(tiny_lm, toy_domain, 0, Native())
    assert len(answers) == 6
    examples = {example.id: example for example in toy_domain.pools("evaluator")["benign"]}
    for answer in answers:
        with torch.no_grad():
            batch = tiny_lm.encode([examples[answer.id]], turn=False)
            nll = cross_entropy(*tiny_lm.response_logits(batch))
        assert 1 / answer.score == pytest.approx(float(nll.exp()), rel=1e-4)
        assert (answer.output, answer.expected) == ("", examples[answer.id].completion)


def test_learning_the_completions_raises_it(tiny_lm, toy_domain):
    benign = list(toy_domain.pools("evaluator")["benign"])
    measure = Perplexity(n=6)
    before = measure.answers(tiny_lm, toy_domain, 0, Native())
    optimizer = torch.optim.Adam(tiny_lm.model.parameters(), lr=1e-2)
    for _ in range(10):
        cross_entropy(*tiny_lm.response_logits(tiny_lm.encode(benign))).backward()
        optimizer.step()
        optimizer.zero_grad()
    after = measure.answers(tiny_lm, toy_domain, 0, Native())
    assert all(b.score < a.score <= 1 for b, a in zip(before, after, strict=True))


def test_it_scores_itself():
    assert Perplexity().judge is None


def test_a_pool_without_completions_is_an_error(tiny_lm, toy_domain, monkeypatch):
    empty = [replace(e, completion="") for e in toy_domain.pools("evaluator")["benign"]]
    monkeypatch.setattr(type(toy_domain), "pools", lambda self, role: {"benign": empty})
    with pytest.raises(CasehardenError, match="have no completion"):
        Perplexity().answers(tiny_lm, toy_domain, 0, Native())
