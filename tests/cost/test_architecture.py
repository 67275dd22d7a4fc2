from pathlib import Path

import numpy
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from caseharden.cost.architecture import Architecture, Held, Variant
from caseharden.errors import CasehardenError
from caseharden.train.adapters import LoRA

SIZES = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 72, "num_attention_heads": 4}


@pytest.fixture
def config() -> LlamaConfig:
    return LlamaConfig(**SIZES, num_hidden_layers=6, num_key_value_heads=2, tie_word_embeddings=False)


@pytest.fixture
def architecture(config, tmp_path) -> Architecture:
    config.save_pretrained(tmp_path)
    return Architecture(tmp_path)


def trained(model) -> frozenset[str]:
    return frozenset(name.removeprefix("model.") for name, p in model.named_parameters() if p.requires_grad)


def test_parameters_are_counted_without_weights(architecture, config):
    model = LlamaForCausalLM(config)
    assert architecture.parameters == sum(p.numel() for p in model.parameters())
    assert architecture.largest == sum(p.numel() for p in model.model.layers[0].parameters())
    adapted = LoRA(r=3).on(model)
    assert architecture.adapters(3) == sum(p.numel() for p in adapted.parameters() if p.requires_grad)


@pytest.mark.parametrize("rank", [None, 3])
def test_a_twins_tensors_stand_for_all_of_the_models(architecture, rank):
    twin = architecture.twin if rank is None else LoRA(r=rank).on(architecture.twin)
    scales = architecture.scales(twin)
    parameters = [(p.numel(), *scales[tuple(p.shape)]) for p in twin.parameters()]
    whole = architecture.parameters + (architecture.adapters(rank) if rank else 0)
    assert sum(n * scale for n, scale, _ in parameters) == pytest.approx(whole)
    tensors = sum(1 for _ in architecture.shaped(architecture.config, rank).parameters())
    assert sum(number for *_, number in parameters) == pytest.approx(tensors)


@pytest.mark.parametrize("rank", [None, 3])
@pytest.mark.parametrize("shape", [(3, 21, 0, 11), (5, 33, 0, 4)])
def test_a_pass_takes_what_the_model_itself_takes(architecture, config, shape, rank):
    B, T, _, R = shape
    model = LlamaForCausalLM(config) if rank is None else LoRA(r=rank).on(LlamaForCausalLM(config))
    twin = architecture.twin if rank is None else LoRA(r=rank).on(architecture.twin)
    ids, mask = torch.zeros(B, T, dtype=torch.long), torch.ones(B, T, dtype=torch.long)
    mask[0, 0] = 0
    wide = {tuple(p.shape) for p in model.parameters()}
    with FlopCounterMode(display=False) as flops, Held(lambda t: t.shape[-1:] != (97,), wide) as ledger:
        out = model(input_ids=ids, attention_mask=mask, logits_to_keep=R, use_cache=False)
        kept, ledger.backward = ledger.held, True
        out.logits.sum().backward()
    said = architecture.profile(Variant(True, False, False, False, rank, trained(twin))).of([shape])[0]
    assert said[0] == pytest.approx(flops.get_total_flops(), rel=0.01)
    assert said[3:] == pytest.approx([kept, ledger.most], rel=0.07)


def test_frozen_layers_take_less(architecture):
    whole = trained(architecture.twin)
    head = frozenset({"lm_head.weight"})
    everything, little = (
        [
            architecture.profile(Variant(True, False, False, False, None, names)).of([(4, 32, 0, 8)])[0, i]
            for names in (whole, head)
        ]
        for i in (0, 3)
    )
    assert little[0] < everything[0] / 2 and little[1] < everything[1] / 4


def test_a_token_after_a_cache_costs_more_the_longer_it_is(architecture):
    decode = architecture.profile(Variant(False, True, True, False, None, frozenset()))
    flops, _, _, kept, _ = decode.of([(2, 1, past, 1) for past in (10, 100, 1000)]).T
    assert (numpy.diff(flops) > 0).all() and (numpy.diff(kept) > 0).all()
    keys_and_values = 2 * 6 * 2 * 8 * 4  # both, layers, heads, their width, bytes
    assert kept[2] - kept[1] == pytest.approx(2 * 900 * keys_and_values, rel=0.1)


def test_what_is_no_language_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(CasehardenError, match="cannot load"):
        Architecture(Path(tmp_path))
