"""A model is loaded whole, with the weights that were meant, or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from architectures import CONFIGS, tiny_model
from caseharden.engines.engine import generate_text
from caseharden.engines.native import Native
from caseharden.errors import CasehardenError
from caseharden.lm.lm import LM
from caseharden.train.adapters import LoRA
from caseharden.train.tuner import Run
from factories import copy_of
from strategies import many, values

LAYER = "model.layers.1.mlp.up_proj.weight"


def rewritten(lm: LM, folder, change) -> None:
    """`lm` saved to `folder`, its tensors as `change` makes them."""
    lm.save(folder)
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


@pytest.mark.parametrize("prefix", ["_orig_mod.", "base_model.model.", "module."])
def test_weights_under_other_names_are_an_error_with_their_names(tiny_lm, tmp_path, prefix):
    rewritten(tiny_lm, tmp_path, lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()})
    with pytest.raises(CasehardenError, match=r"are not those of its config\.json") as error:
        LM.load(tmp_path)
    assert prefix in str(error.value)


def test_the_base_layers_of_an_adapter_are_an_error(tiny_lm, tmp_path):
    rewritten(
        tiny_lm, tmp_path, lambda tensors: {n.replace("proj", "proj.base_layer"): t for n, t in tensors.items()}
    )
    with pytest.raises(CasehardenError, match="base_layer"):
        LM.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda tensors: {n: t for n, t in tensors.items() if "layers.1." not in n},
            r"9 are missing .* and 3 more",
        ),
        (lambda tensors: {n: t for n, t in tensors.items() if n != LAYER}, rf"1 are missing \({LAYER}\)"),
        (lambda tensors: {**tensors, "model.extra": torch.zeros(2)}, r"1 are not asked for \(model.extra\)"),
        (lambda tensors: {**tensors, LAYER: torch.zeros(3, 16)}, rf"1 are of another shape \({LAYER}\)"),
    ],
    ids=["layer", "tensor", "extra", "shape"],
)
def test_tensors_missing_left_over_or_of_another_shape_are_an_error(tiny_lm, tmp_path, change, said):
    rewritten(tiny_lm, tmp_path, change)
    with pytest.raises(CasehardenError, match=said):
        LM.load(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_an_error(tiny_lm, tmp_path, value):
    with torch.no_grad():
        tiny_lm.model.get_parameter(LAYER)[0, 0] = value
    tiny_lm.save(tmp_path)
    with pytest.raises(CasehardenError, match=f"the weights {LAYER} of .* are not finite"):
        LM.load(tmp_path)


def test_weights_that_no_optimizer_trains_are_finite_as_well(word_tokenizer, tmp_path):
    lm = tiny_model("deepseek_v3", word_tokenizer)
    [name] = [name for name, _ in lm.model.named_buffers() if name.endswith("e_score_correction_bias")]
    lm.model.get_buffer(name).fill_(float("nan"))
    lm.save(tmp_path)
    with pytest.raises(CasehardenError, match=f"the weights {name} of .* are not finite"):
        LM.load(tmp_path)


def test_weights_in_integers_are_an_error(tiny_lm, tmp_path):
    rewritten(tiny_lm, tmp_path, lambda tensors: {**tensors, LAYER: tensors[LAYER].to(torch.int8)})
    with pytest.raises(CasehardenError, match=rf"weights in integers \({LAYER}\)"):
        LM.load(tmp_path)


def test_a_quantized_model_is_an_error_that_says_what_to_do(tiny_lm, tmp_path):
    tiny_lm.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(CasehardenError, match=r"quantized model\. .*dequantize"):
        LM.load(tmp_path)


@pytest.mark.parametrize("name", ["../elsewhere.safetensors", "/etc/elsewhere.safetensors"])
def test_an_index_that_names_files_elsewhere_is_an_error(tiny_lm, tmp_path, name):
    tiny_lm.save(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {LAYER: name}}))
    with pytest.raises(CasehardenError, match="outside its folder"):
        LM.load(tmp_path)


def test_a_pointer_is_no_weights(tiny_lm, tmp_path):
    tiny_lm.save(tmp_path)
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CasehardenError, match="git lfs pull"):
        LM.load(tmp_path)


def test_an_end_of_turn_that_the_model_does_not_have_is_an_error(tiny_lm, tmp_path):
    tiny_lm.tokenizer.add_special_tokens({"eos_token": "<new>"})
    tiny_lm.save(tmp_path)
    with pytest.raises(CasehardenError, match=r"'<new>' of .* has no embedding"):
        LM.load(tmp_path)


def test_ends_of_answers_are_token_ids(tiny_lm, tmp_path):
    tiny_lm.save(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": "one"}')
    with pytest.raises(CasehardenError, match="no token ids as ends, but 'one'"):
        LM.load(tmp_path)


def test_an_adapter_is_no_model(tiny_lm, tmp_path):
    tiny_lm.save(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(CasehardenError, match="holds an adapter"):
        LM.load(tmp_path)


def test_a_padding_token_that_the_model_does_not_have_is_not_used(tiny_lm, toy_domain):
    examples = [*toy_domain.pools("attacker")["harmful"][:1], *toy_domain.pools("attacker")["benign"][:1]]
    expected = tiny_lm.response_logits(tiny_lm.encode(examples))[0]
    tiny_lm.tokenizer.add_special_tokens({"pad_token": "<new>"})
    assert tiny_lm.tokenizer.pad_token_id == tiny_lm.model.get_input_embeddings().num_embeddings
    padded = LM(tiny_lm.model, tiny_lm.tokenizer, "padded")
    assert torch.equal(padded.response_logits(padded.encode(examples))[0], expected)


def test_a_token_that_the_model_does_not_have_is_an_error_in_a_prompt(tiny_lm, tmp_path):
    tiny_lm.tokenizer.add_special_tokens({"additional_special_tokens": ["<new>"]})
    with pytest.raises(CasehardenError, match=r"the token '<new>' .* has no embedding"):
        tiny_lm.encode_prompts(["a b", "a <new> b"])
    tiny_lm.tokenizer.chat_template = "{% for m in messages %}<new> {{ m.content }} {% endfor %}"
    tiny_lm.save(tmp_path)
    with pytest.raises(CasehardenError, match="has no embedding"):
        LM.load(tmp_path)


def test_positions_are_known_by_any_name(word_tokenizer):
    lm = tiny_model("mpt", word_tokenizer)
    with pytest.raises(CasehardenError, match="more than the 128 positions of 'mpt'"):
        Native().write(lm, lm.encode_prompts([" ".join(["a"] * 150)]), 1, 5, 0.0, seed=0)


def test_no_row_of_a_batch_changes_how_the_others_are_read(word_tokenizer, monkeypatch):
    scales = {"type": "longrope", "long_factor": [2.0] * 4, "short_factor": [1.0] * 4}
    two = {"rope_scaling": scales, "original_max_position_embeddings": 16}
    monkeypatch.setitem(CONFIGS, "phi3", {**two, "sliding_window": None})
    lm = tiny_model("phi3", word_tokenizer)
    short, long = lm.encode_prompts(["a b c", " ".join(["a"] * 20)])
    [alone] = Native().write(lm, [short], 1, 5, 0.0, seed=0).tokens
    with pytest.raises(CasehardenError, match="16 positions"):
        assert Native().write(lm, [short, long], 1, 5, 0.0, seed=0).tokens[0] == alone


def test_a_prompt_beyond_the_models_positions_is_an_error(tiny_lm, toy_domain):
    long = " ".join(["a"] * 70)
    with pytest.raises(CasehardenError, match=r"a prompt takes 7\d tokens, .* 64 positions of 'tiny'"):
        tiny_lm.check_positions(tiny_lm.encode_prompts([long]), 1)


def test_capabilities_do_not_depend_on_when_they_are_asked_for(tiny_lm, toy_domain):
    dropping, calm = Run(copy_of(tiny_lm), toy_domain, "attacker", 0), copy_of(tiny_lm)
    with torch.no_grad():
        for parameter in dropping.trainable(LoRA(r=2, dropout=0.5)):
            parameter += 0.5
    with dropping.lm.training():
        assert dropping.lm.capabilities == calm.capabilities
        assert dropping.lm.model.training


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON document."""
    yield path
    for key, inner in value.items() if isinstance(value, dict) else []:
        yield from places(inner, (*path, key))


@many
@given(data=st.data())
def test_a_folder_with_anything_in_it_is_loaded_or_said_to_hold_no_model(data, tiny_lm, tmp_path):
    folder = tmp_path / "odd"
    tiny_lm.save(folder)
    path = data.draw(st.sampled_from(sorted(folder.iterdir())))
    kind = data.draw(st.sampled_from(["gone", "cut", "bytes", "folder", "altered"]))
    if kind == "gone":
        path.unlink()
    elif kind == "cut":
        path.write_bytes(path.read_bytes()[: data.draw(st.integers(0, 400))])
    elif kind == "bytes":
        path.write_bytes(data.draw(st.binary(max_size=40)))
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    elif path.suffix == ".json":
        document = json.loads(path.read_text())
        *outer, last = data.draw(st.sampled_from([p for p in places(document) if p]))
        place = document
        for key in outer:
            place = place[key]
        place[last] = data.draw(values)
        path.write_text(json.dumps(document))
    try:
        with suppress(CasehardenError):
            lm = LM.load(folder)
            assert len(generate_text(Native(), lm, ["a b ?"], max_new_tokens=2)) == 1
    finally:
        shutil.rmtree(folder)
