"""Our decoding against Transformers' own, and against the distribution that it says it draws from."""

import pytest
import torch

from caseharden.lm.decode import decode
from caseharden.lm.lm import LM


@pytest.fixture
def lively_lm(tiny_lm):
    """The tiny model with weights so large that what it says depends on what it reads."""
    with tiny_lm.seeded(1), torch.no_grad():
        for parameter in tiny_lm.model.parameters():
            parameter.normal_(std=0.5)
    return tiny_lm


def encoded(lm: LM, *prompts: str):
    return lm.pad([(ids, 0) for ids in lm.encode_prompts(prompts)])


def test_greedy_answers_are_those_of_generate(lively_lm):
    batch = encoded(lively_lm, "a", "a b c d e", "z y ?", "yes no", "b b b")
    for ends in ([lively_lm.tokenizer.eos_token_id], list(range(0, 40, 3))):  # the second ends answers early
        ours = decode(lively_lm.model, batch.ids_BT, batch.attention_BT, max_new_tokens=12, ends=ends)
        theirs = lively_lm.model.generate(
            input_ids=batch.ids_BT,
            attention_mask=batch.attention_BT,
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=ends,
            pad_token_id=0,
        )[:, batch.ids_BT.shape[1] :].tolist()
        assert ours == [row[: next((i + 1 for i, t in enumerate(row) if t in ends), 12)] for row in theirs]
    assert len({len(row) for row in ours}) > 1  # else nothing ended early and no row was ever dropped


def test_every_answer_of_one_prompt_continues_that_prompt(lively_lm):
    prompts = ("a", "q r s t", "no")
    batch = encoded(lively_lm, *prompts)
    common = {"max_new_tokens": 6, "ends": [lively_lm.tokenizer.eos_token_id]}
    once = decode(lively_lm.model, batch.ids_BT, batch.attention_BT, **common)
    thrice = decode(lively_lm.model, batch.ids_BT, batch.attention_BT, samples=3, **common)
    assert thrice == [row for row in once for _ in range(3)]
    assert len({tuple(row) for row in once}) == 3


def test_samples_follow_the_model_at_their_temperature(lively_lm):
    batch = encoded(lively_lm, "a b")
    with torch.no_grad():
        logits = lively_lm.model(input_ids=batch.ids_BT).logits[0, -1]
    for temperature in (0.5, 1.0, 2.0):
        with lively_lm.seeded(0):
            rows = decode(
                lively_lm.model,
                batch.ids_BT,
                batch.attention_BT,
                samples=4000,
                max_new_tokens=1,
                temperature=temperature,
                ends=[1],
            )
        found = torch.bincount(torch.tensor(rows)[:, 0], minlength=len(logits)) / 4000
        expected = torch.softmax(logits / temperature, -1)
        assert (found - expected).abs().sum() < 0.1  # total variation; 0.02 at most of it is noise per likely word
    assert (torch.softmax(logits / 0.5, -1) - torch.softmax(logits / 2, -1)).abs().sum() > 0.5


def test_the_batch_is_written_in_pieces_and_comes_back_in_order(lively_lm):
    prompts = lively_lm.encode_prompts(["a b c", "d", "e f", "g h i j"])
    together = lively_lm.sample(prompts, samples=2, max_new_tokens=5, temperature=0.0)
    pieces = lively_lm.sample(prompts, samples=2, max_new_tokens=5, temperature=0.0, batch_size=2)
    assert together == pieces
    assert lively_lm.sample([], max_new_tokens=5, temperature=0.0) == []
