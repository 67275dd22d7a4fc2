"""What every engine keeps to: seeds, plain decoding, the model's own ends, tokens counted."""

from __future__ import annotations

import pytest
import torch

from caseharden.engines import TABLE
from caseharden.engines.engine import generate_text
from caseharden.lm.template import Text
from caseharden.train.adapters import LoRA
from caseharden.train.tuner import Run

PROMPTS = ["a b ?", "c d ?", "e ?", "f g h ?"]
writes_what_was_trained = pytest.mark.parametrize(
    "engine", [name for name in TABLE if name != "server"], indirect=True
)


def test_answers_are_seeded_and_leave_the_global_random_state(tiny_lm, engine):
    before = torch.get_rng_state()
    drawn = [generate_text(engine, tiny_lm, PROMPTS, temperature=1.0, seed=s, max_new_tokens=6) for s in (1, 1, 2)]
    assert torch.equal(before, torch.get_rng_state())
    assert drawn[0] == drawn[1] != drawn[2]
    greedy = [generate_text(engine, tiny_lm, PROMPTS, seed=s, max_new_tokens=6) for s in (0, 9)]
    assert greedy[0] == greedy[1]


def test_answers_go_on_from_their_prefixes(tiny_lm, engine):
    begun = generate_text(engine, tiny_lm, PROMPTS, prefixes=["yes "] * len(PROMPTS), max_new_tokens=2)
    assert all(answer.text.startswith("yes ") for answer in begun)
    unbegun = generate_text(engine, tiny_lm, [tiny_lm.template.prompt(p) for p in PROMPTS], max_new_tokens=2)
    assert begun != unbegun


def test_decoding_is_plain_whatever_the_model_asks_for_but_ends_where_it_says(tiny_lm, engine):
    plain = generate_text(engine, tiny_lm, PROMPTS, max_new_tokens=6)
    drawn = generate_text(engine, tiny_lm, PROMPTS, max_new_tokens=6, temperature=1.0)
    asked = {"repetition_penalty": 50.0, "no_repeat_ngram_size": 1, "top_k": 1, "suppress_tokens": [5, 6, 7, 8]}
    tiny_lm.model.generation_config.update(**asked)
    assert generate_text(engine, tiny_lm, PROMPTS, max_new_tokens=6) == plain
    assert generate_text(engine, tiny_lm, PROMPTS, max_new_tokens=6, temperature=1.0) == drawn
    first = plain[0].text.split()[0]
    tiny_lm.model.generation_config.eos_token_id = [tiny_lm.tokenizer.convert_tokens_to_ids(first)]
    assert generate_text(engine, tiny_lm, PROMPTS[:1], max_new_tokens=6) == [Text(first, True)]
    assert tiny_lm.model.generation_config.repetition_penalty == 50.0  # as it was


@writes_what_was_trained
def test_adapters_write_along_and_are_left_as_they_were(tiny_lm, toy_domain, engine):
    own = tiny_lm.model.generation_config
    before = generate_text(engine, tiny_lm, PROMPTS, max_new_tokens=6)
    run = Run(tiny_lm, toy_domain, "attacker", 0)
    with torch.no_grad():
        for parameter in run.trainable(LoRA(r=2)):
            parameter += 1.0
    assert generate_text(engine, run.lm, PROMPTS, max_new_tokens=6) != before
    assert run.lm.model.unload().generation_config is own


@pytest.mark.parametrize(("name", "reads"), [("native", 1), ("transformers", 3)])
def test_tokens_are_counted_as_they_are_read(tiny_lm, name, reads):
    """A prompt as often as it is read, and of an answer each token that another follows."""
    encoded = tiny_lm.encode_prompts(["a b ?", "c ?"])
    tiny_lm.ends = lambda: [len(tiny_lm.tokenizer) + 1]  # none ends early
    TABLE[name]().write(tiny_lm, encoded, 3, 5, 1.0, seed=0)
    assert tiny_lm.meter.tokens.read == reads * sum(map(len, encoded)) + 2 * 3 * (5 - 1)
    assert tiny_lm.meter.tokens.trained == 0
