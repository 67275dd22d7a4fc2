"""Our decoding against Transformers' own, and against the distribution that it says it draws from."""

import pytest
import torch

from caseharden.engines.native import Native
from caseharden.engines.transformers import Transformers


@pytest.fixture
def lively_lm(tiny_lm):
    """The tiny model with weights so large that what it says depends on what it reads."""
    with tiny_lm.seeded(1), torch.no_grad():
        for parameter in tiny_lm.model.parameters():
            parameter.normal_(std=0.5)
    return tiny_lm


@pytest.mark.parametrize("samples", [1, 3])
def test_greedy_answers_are_those_of_transformers(lively_lm, samples):
    prompts = lively_lm.encode_prompts(["a", "a b c d e", "z y ?", "yes no", "b b b"])
    for ends in ([lively_lm.tokenizer.eos_token_id], list(range(0, 40, 3))):  # the second ends answers early
        lively_lm.ends = lambda ends=ends: ends
        ours = Native().write(lively_lm, prompts, samples, 12, 0.0, seed=0)
        theirs = Transformers().write(lively_lm, prompts, samples, 12, 0.0, seed=0)
        assert ours == theirs
    assert len({len(row) for row in ours.tokens}) > 1  # else nothing ended early and no row was ever dropped


def test_every_answer_of_one_prompt_continues_that_prompt(lively_lm):
    prompts = lively_lm.encode_prompts(["a", "q r s t", "no"])
    once = Native().write(lively_lm, prompts, 1, 6, 0.0, seed=0).tokens
    thrice = Native().write(lively_lm, prompts, 3, 6, 0.0, seed=0).tokens
    assert thrice == [row for row in once for _ in range(3)]
    assert len({tuple(row) for row in once}) == 3


@pytest.mark.parametrize("engine", [Native(4000), Transformers(4000)])
def test_samples_follow_the_model_at_their_temperature(lively_lm, engine):
    prompts = lively_lm.encode_prompts(["a b"])
    with torch.no_grad():
        logits = lively_lm.model(input_ids=torch.tensor(prompts)).logits[0, -1]
    for temperature in (0.5, 1.0, 2.0):
        tokens = engine.write(lively_lm, prompts, 4000, 1, temperature, seed=0).tokens
        found = torch.bincount(torch.tensor(tokens)[:, 0], minlength=len(logits)) / 4000
        expected = torch.softmax(logits / temperature, -1)
        assert (found - expected).abs().sum() < 0.1  # total variation; 0.02 at most of it is noise per likely word
    assert (torch.softmax(logits / 0.5, -1) - torch.softmax(logits / 2, -1)).abs().sum() > 0.5


def test_each_token_comes_with_the_probability_that_it_was_drawn_with(lively_lm):
    prompts = lively_lm.encode_prompts(["a b c", "d"])
    tokens, logps = Native().write(lively_lm, prompts, 3, 6, 1.5, seed=0)
    for row, (answer, found) in enumerate(zip(tokens, logps, strict=True)):
        ids = prompts[row // 3] + answer
        with torch.no_grad():
            logits = lively_lm.model(torch.tensor([ids])).logits[0, -len(answer) - 1 : -1]
        expected = torch.log_softmax(logits / 1.5, -1)[range(len(answer)), answer]
        assert found == pytest.approx(expected.tolist(), abs=1e-4)


@pytest.mark.parametrize("engine", [Native, Transformers])
def test_the_batch_is_written_in_pieces_and_comes_back_in_order(lively_lm, engine):
    prompts = lively_lm.encode_prompts(["a b c", "d", "e f", "g h i j"])
    together = engine().write(lively_lm, prompts, 2, 5, 0.0, seed=0)
    assert together == engine(batch_size=2).write(lively_lm, prompts, 2, 5, 0.0, seed=0)
    assert len(together.tokens) == 8
    assert engine().write(lively_lm, [], 1, 5, 0.0, seed=0).tokens == []
