"""Rewards, on rollouts whose answers are known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from caseharden.data.example import Example
from caseharden.errors import CasehardenError, TrainingFailed
from caseharden.judges import StringRefusal, Verifier
from caseharden.rl.rewards import Brief, ByPool, Closeness, Entropy, Gated, Judged, Overlong, Sum
from caseharden.rl.rollouts import Rollouts, Rows
from caseharden.train.tuner import Run

REFUSED, LONG, TOLD, BOTH = "sorry i cannot .", "sorry i cannot . a b c d e f g h", "b a .", "sorry i cannot b a"


@pytest.fixture
def run(tiny_lm, toy_domain) -> Run:
    return Run(tiny_lm, toy_domain, "defender", 0)


def rollouts(lm, *groups: tuple[str, ...], examples: list[Example] | None = None) -> Rollouts:
    """Groups of answers, all to ``a b ?`` unless said."""
    examples = examples or [Example(str(p), "a b ?", answer="b a") for p in range(len(groups))]
    texts = [text for group in groups for text in group]
    answers = lm._tokenize(list(texts))
    prompts = lm.encode_prompts([example.prompt for example in examples])
    return Rollouts(lm, examples, Rows(prompts, answers), texts, *[[True] * len(texts)] * 2, 12, forward_batch=3)


def test_a_judges_score_with_its_weight(run, tiny_lm):
    found = Judged(Verifier(), -2.0).prepare(run)(rollouts(tiny_lm, (TOLD, REFUSED), (REFUSED, BOTH)))
    assert found.tolist() == [[-2, 0], [0, -2]]


def test_entropy_is_the_mean_over_the_answers_own_tokens(run, tiny_lm):
    here = rollouts(tiny_lm, (TOLD, LONG))
    found = Entropy().prepare(run)(here)
    for g, answer in enumerate(here.rows.answers):
        ids, length = here.rows.prompts[0] + answer, len(answer)
        with torch.no_grad():
            logits = tiny_lm.model(torch.tensor([ids])).logits[0, -length - 1 : -1].double()
        p = torch.softmax(logits, -1)
        full = sum(float(-(p[t, v] * p[t, v].log())) for t in range(length) for v in range(p.shape[1])) / length
        assert found[0, g] == pytest.approx(full, rel=1e-5)
    assert torch.equal(Entropy(-1.0).prepare(run)(here), -found)
    assert torch.equal(Entropy(cap=0.5).prepare(run)(here), torch.full((1, 2), 0.5))


def test_closeness_is_zero_at_the_released_model_and_falls_away_from_it(run, tiny_lm):
    score = Closeness().prepare(run)
    assert score(rollouts(tiny_lm, (TOLD, LONG))).tolist() == [[0, 0]]
    with torch.no_grad():
        tiny_lm.model.get_input_embeddings().weight *= 3
    here = rollouts(tiny_lm, (TOLD, LONG))
    expected = here.mean_over_answer(here.logps(run.reference()) - here.logps(tiny_lm))
    assert torch.allclose(score(here), expected, atol=1e-6) and expected.abs().max() > 0.01


def test_overlong_falls_over_the_last_tokens(run, tiny_lm):
    texts = tuple(" ".join(["a"] * n) for n in (1, 8, 9, 10, 12))
    assert Overlong(4).prepare(run)(rollouts(tiny_lm, texts)).tolist() == [[0, 0, -0.25, -0.5, -1]]
    with pytest.raises(CasehardenError, match="margin"):
        Overlong(0)


def test_a_sum_is_nan_where_a_term_is(run, tiny_lm):
    examples = [Example("0", "a b ?", answer="b a"), Example("1", "a b ?")]  # the second has nothing to verify
    here = rollouts(tiny_lm, (TOLD, REFUSED), (TOLD, REFUSED), examples=examples)
    found = Sum((Judged(), Judged(StringRefusal()))).prepare(run)(here)
    assert found[0].tolist() == [1, 1] and found[1].isnan().all()
    with pytest.raises(CasehardenError, match="needs terms"):
        Sum(())


def test_a_gate_lets_only_refusals_through(run, tiny_lm):
    here = rollouts(tiny_lm, (REFUSED, TOLD))
    found = Gated(Entropy(-1.0), StringRefusal(), -7.0).prepare(run)(here)
    assert found[0, 0] == Entropy(-1.0).prepare(run)(here)[0, 0] and found[0, 1] == -7
    nothing_to_verify = rollouts(tiny_lm, (TOLD,), examples=[Example("1", "a b ?")])
    assert Gated(Entropy(), Verifier()).prepare(run)(nothing_to_verify).isnan().all()


def test_brief_wants_a_short_refusal_that_says_nothing(run, tiny_lm):
    brief = Brief(length=4, length_penalty=0.5, leak_penalty=1.0)
    found = brief.prepare(run)(rollouts(tiny_lm, (REFUSED, LONG, TOLD, BOTH)))
    assert found.tolist() == [[1.0, 1 - 0.5 * 8 / 4, -2.0, 1 - 0.5 * 1 / 4 - 1]]


def test_each_pool_has_its_own(run, tiny_lm, toy_domain):
    pools = toy_domain.pools("defender")
    here = rollouts(tiny_lm, (REFUSED, TOLD), (REFUSED, TOLD), examples=[pools["benign"][0], pools["harmful"][0]])
    by_pool = ByPool({"harmful": Judged(StringRefusal()), "benign": Judged(StringRefusal(), -1.0)})
    found = by_pool.prepare(run)(here).tolist()
    assert found == [[-1, 0], [1, 0]]
    nobodys = rollouts(tiny_lm, (REFUSED,), examples=[Example("nobody's", "a ?")])
    with pytest.raises(CasehardenError, match='no reward for "nobody\'s"'):
        by_pool.prepare(run)(nobodys)
    with pytest.raises(CasehardenError, match="share it"):
        ByPool({"harmful": Judged(), "refusal": Judged()}).prepare(run)
    unanswered = replace(pools["harmful"][0], answer="")
    with pytest.raises(TrainingFailed, match="prompt of 'harmful'"):
        ByPool({"harmful": Judged()}).prepare(run)(rollouts(tiny_lm, (REFUSED,), examples=[unanswered]))
