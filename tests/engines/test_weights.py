"""Of weights that a copy is made of: changes are seen, adapters are merged, another model's answers are told."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from architectures import tiny_model
from caseharden.engines import weights
from caseharden.engines.native import Native
from caseharden.engines.weights import as_checkpoint, check_agreement, checksum, effective
from caseharden.errors import CasehardenError
from caseharden.train.adapters import LoRA
from caseharden.train.tuner import Run
from factories import copy_of


def test_weights_with_the_same_bits_have_the_same_checksum_and_no_others(tiny_lm):
    known = checksum(tiny_lm)
    assert checksum(tiny_lm) == checksum(copy_of(tiny_lm)) == known
    for name, tensor in tiny_lm.state_dict().items():
        flat = tensor.data.view(torch.int32).reshape(-1)
        place = len(flat) // 2
        for bit in (0, 9, 22, 30):
            flat[place] ^= 1 << bit
            assert checksum(tiny_lm) != known, (name, bit)
            flat[place] ^= 1 << bit
    assert checksum(tiny_lm) == known
    tiny_lm.model.double()
    assert checksum(tiny_lm) != known


def test_what_stands_elsewhere_is_something_else(tiny_lm, monkeypatch):
    """Also in other pieces that are mixed by themselves."""
    monkeypatch.setattr(weights, "CHUNK", 64)
    weight = tiny_lm.model.get_input_embeddings().weight.data
    seen = {checksum(tiny_lm)}
    for _ in range(20):
        weight.copy_(weight.roll(1, 0))
        seen.add(checksum(tiny_lm))
    weight[:, [0, 1]] = weight[:, [1, 0]]
    assert len({*seen, checksum(tiny_lm)}) == 22


@pytest.mark.parametrize("dtype", [torch.bool, torch.int8, torch.bfloat16, torch.float32, torch.float64])
def test_numbers_of_any_width_count(tiny_lm, dtype):
    tiny_lm.model.register_buffer("extra", torch.zeros(3, 5).to(dtype))
    known = checksum(tiny_lm)
    tiny_lm.model.extra[2, 4] = 1
    assert checksum(tiny_lm) != known


def test_adapters_are_merged_as_they_would_be_for_release(tiny_lm, toy_domain):
    plain = {name: tensor.clone() for name, tensor in effective(tiny_lm).items()}
    assert all(torch.equal(tensor, tiny_lm.state_dict()[name]) for name, tensor in plain.items())
    run = Run(tiny_lm, toy_domain, "attacker", 0)
    for parameter in run.trainable(LoRA(r=2)):
        parameter.data += 0.3
    adapted, known = checksum(run.lm), run.lm.weights_hash()
    merged = effective(run.lm)
    with run.lm.model.disable_adapter():
        assert checksum(run.lm) != adapted
        assert all(torch.equal(tensor, plain[name]) for name, tensor in effective(run.lm).items())
    assert checksum(run.lm) == adapted and run.lm.weights_hash() == known
    assert as_checkpoint(run.lm).keys() == merged.keys() == plain.keys()
    released = run.finish().state_dict()
    assert released.keys() == merged.keys()
    assert all(torch.equal(tensor, merged[name]) for name, tensor in released.items())
    assert any(not torch.equal(tensor, plain[name]) for name, tensor in merged.items())


@pytest.mark.parametrize("kind", ["gpt2", "gemma3n_text", "mixtral", "qwen3_next"])
def test_weights_go_by_the_names_of_a_saved_model_whatever_holds_them(kind, word_tokenizer, tmp_path):
    """Linear layers that are written the other way round, experts in one tensor, tied weights."""
    lm = tiny_model(kind, word_tokenizer)
    lm.model.save_pretrained(tmp_path, state_dict=effective(lm))
    saved = {name: tensor for path in tmp_path.glob("*.safetensors") for name, tensor in load_file(path).items()}
    found = as_checkpoint(lm)
    assert all(torch.equal(tensor, found[name]) for name, tensor in saved.items())
    shared = {tensor.data_ptr() for name, tensor in found.items() if name in saved}
    assert all(tensor.data_ptr() in shared for name, tensor in found.items() if name not in saved)
    lm.model = LoRA(r=2).on(lm.model)
    for name, parameter in lm.model.named_parameters():
        if "lora_" in name:
            parameter.data += 0.1
    merged = effective(lm)
    released = lm.model.merge_and_unload().state_dict()
    assert released.keys() == merged.keys()
    assert all(torch.equal(tensor, merged[name]) for name, tensor in released.items())


def test_an_answer_of_other_weights_is_told_and_rounding_is_not(tiny_lm):
    with tiny_lm.seeded(1), torch.no_grad():
        for parameter in tiny_lm.model.parameters():
            parameter.normal_(std=0.5)
    prompt = tiny_lm.encode_prompts(["a b c"])
    other, rounded = copy_of(tiny_lm), copy_of(tiny_lm)
    rounded.model.bfloat16()
    other.model.load_state_dict({name: tensor.flip(0) for name, tensor in tiny_lm.state_dict().items()})
    for writer, passes in ((tiny_lm, True), (rounded, True), (other, False)):
        answer = Native().write(writer, prompt, 1, 8, 0.0, 0).tokens[0]
        if passes:
            check_agreement(tiny_lm, prompt[0], answer, "it", "")
        else:
            with pytest.raises(CasehardenError, match=r"it writes other answers than 'tiny': .* nats .* Do so\."):
                check_agreement(tiny_lm, prompt[0], answer, "it", "Do so.")
