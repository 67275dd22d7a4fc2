"""What a model's parts say of it."""

import torch
from transformers import OPTConfig, OPTForCausalLM

from caseharden.lm.structure import has_dropout
from factories import copy_of


def test_dropout_is_seen_as_a_module_and_as_a_probability(tiny_lm):
    model = copy_of(tiny_lm).model
    assert not has_dropout(model)
    model.model.layers[1].self_attn.attention_dropout = 0.1
    assert has_dropout(model)
    assert has_dropout(torch.nn.Sequential(torch.nn.Dropout(0.1))) and not has_dropout(torch.nn.Dropout(0.0))


def test_dropout_is_seen_under_an_architectures_own_name():
    sizes = {"hidden_size": 8, "ffn_dim": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 8}
    for dropout in (0.0, 0.1):
        config = OPTConfig(**sizes, word_embed_proj_dim=8, dropout=dropout, attention_dropout=0.0, layerdrop=0.0)
        assert has_dropout(OPTForCausalLM(config)) == (dropout > 0)
