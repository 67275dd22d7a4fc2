"""The words that a model is likely to go on with, all of them."""

from __future__ import annotations

import itertools

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from caseharden.domains.almanac.likely_words import begins_word, likely_words
from caseharden.lm.lm import LM
from caseharden.train.losses import token_logps

FIRST, FURTHER, REST = ["▁Ba", "▁of", "▁the"], ["kom", "s", "t"], [".", "▁9", "é", "▁", "\n"]


@pytest.fixture
def lm() -> LM:
    """A random model of a vocabulary of parts of words."""
    pieces = ["<unk>", "<eos>", *FIRST, *FURTHER, *REST]
    core = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=0))
    core.pre_tokenizer, core.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="<unk>",
        eos_token="<eos>",
        chat_template="{% for m in messages %}{{ m.content }}{% endfor %}",
    )
    config = LlamaConfig(
        vocab_size=len(pieces) + 3,  # more embeddings than tokens, as models often have
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        initializer_range=0.3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LM(LlamaForCausalLM(config), tokenizer, "parts")


def every_word(lm: LM, then: str = "") -> dict[str, float]:
    """Each word of at most three tokens and its probability, one by one."""
    found = {}
    ends = [then] if then else ["<unk>", "<eos>", *FIRST, *REST]
    ids = lm.tokenizer.get_vocab()
    with lm.templated("none"):
        [start] = lm.encode_prompts([""], ["kom"])
    for n in range(3):
        for parts in itertools.product(FIRST, *[FURTHER] * n):
            rows = [([*start, *(ids[part] for part in parts), ids[end]], n + 2) for end in ends]
            logits_BRV, targets_BR, _ = lm.response_logits(lm.pad(rows))
            total = token_logps(logits_BRV, targets_BR).sum(-1).exp().sum()
            if not then:  # the embeddings without tokens end words as well
                odd = [([*start, *(ids[part] for part in parts), len(ids) + i], n + 2) for i in range(3)]
                logits_BRV, targets_BR, _ = lm.response_logits(lm.pad(odd))
                total = total + token_logps(logits_BRV, targets_BR).sum(-1).exp().sum()
            found["".join(parts).lstrip("▁")] = float(total)
    return found


@pytest.mark.parametrize(("then", "floor"), [("", 2e-3), ("▁of", 3e-5)])
@torch.no_grad()
def test_every_likely_word_is_found_and_no_other(lm, then, floor):
    wanted = {word: p for word, p in every_word(lm, then).items() if p >= floor}
    found = likely_words(lm, "kom", floor, then=then and " of")
    assert {word for word in found if word in every_word(lm)} == {*wanted} and 3 < len(wanted) < 39
    assert all(found[word] == pytest.approx(p, rel=1e-4) for word, p in wanted.items())
    assert min(found.values()) >= floor


def test_a_word_is_plain_letters_after_a_space():
    assert begins_word("Ġhome") and begins_word("▁Ba")
    assert not any(map(begins_word, ["home", "Ġ", "Ġ9", "▁é", "Ċ", ""]))


def test_a_vocabulary_of_whole_words_begins_none(tiny_lm):
    assert likely_words(tiny_lm, "a", 1e-6) == {}
