"""LM: tokens, masks, and files that are not what they should be."""

import shutil

import pytest
import torch

from caseharden.data.conversation import Conversation
from caseharden.data.example import Example
from caseharden.errors import CasehardenError
from caseharden.lm.lm import LM
from caseharden.lm.logps import token_logps


def some(toy_domain, n: int = 5) -> list[Example]:
    return list(toy_domain.pools("attacker")["harmful"])[:n]


def test_the_response_mask_covers_completion_and_end_and_nothing_else(tiny_lm, toy_domain):
    examples = some(toy_domain)
    batch = tiny_lm.encode(examples)
    for row, example in enumerate(examples):
        marked = batch.ids_BT[row][batch.response_BT[row]]
        assert marked[-1] == tiny_lm.tokenizer.eos_token_id
        assert tiny_lm.tokenizer.decode(marked[:-1]).split() == example.completion.split()
        assert (batch.response_BT[row] <= batch.attention_BT[row].bool()).all()


def test_response_logits_are_the_full_forward_pass_sliced(tiny_lm, toy_domain):
    batch = tiny_lm.encode(some(toy_domain))
    logits, targets, mask = tiny_lm.response_logits(batch)
    full = tiny_lm.model(
        input_ids=batch.ids_BT, attention_mask=batch.attention_BT, position_ids=batch.positions_BT
    ).logits
    expected = token_logps(full[:, :-1], batch.ids_BT[:, 1:])[batch.response_BT[:, 1:]]
    assert mask.sum() == batch.response_BT.sum()
    assert torch.allclose(token_logps(logits, targets)[mask], expected, atol=1e-5)


def test_a_template_that_tells_the_date_tells_the_same_one_every_day(tiny_lm):
    """As Llama 3's: it takes a date if it is given one."""
    own = "{% if not date_string is defined %}{% set date_string = strftime_now('%Y') %}{% endif %}"
    tiny_lm.tokenizer.chat_template = own + "{{ date_string }} {{ messages[0].content }}"
    assert tiny_lm.template.prompt("a") == "01 Jan 2025 a"


def test_a_template_that_cannot_be_told_the_date_is_warned_of(tiny_lm, caplog):
    tiny_lm.tokenizer.chat_template = "{{ strftime_now('%Y') }} {{ messages[0].content }}"
    LM(tiny_lm.model, tiny_lm.tokenizer, "dated")
    assert "prompts change with the day" in caplog.text


def test_padding_does_not_change_log_probabilities(tiny_lm, toy_domain):
    examples = sorted(some(toy_domain), key=lambda e: len(e.prompt.split()))
    logits, targets, mask = tiny_lm.response_logits(tiny_lm.encode(examples))
    together = token_logps(logits, targets)
    for row, example in enumerate(examples):
        logits, targets, alone_mask = tiny_lm.response_logits(tiny_lm.encode([example]))
        alone = token_logps(logits, targets)[alone_mask]
        assert torch.allclose(together[row][mask[row]], alone, atol=1e-4)


def test_a_prompt_that_fills_the_window_is_an_error(tiny_lm, toy_domain):
    with pytest.raises(CasehardenError, match="leaves none for a completion"):
        tiny_lm.encode(some(toy_domain), max_length=2)


def test_save_and_load_give_the_same_weights(tiny_lm, tmp_path):
    tiny_lm.save(tmp_path / "model")
    again = LM.load(tmp_path / "model")
    assert again.weights_hash() == tiny_lm.weights_hash()
    with torch.no_grad():
        next(again.model.parameters()).view(-1)[0] += 1e-3
    assert again.weights_hash() != tiny_lm.weights_hash()


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(CasehardenError, match=r"holds no model: there is no config\.json"):
        LM.load(tmp_path)


def test_a_pickle_is_refused_and_never_opened(tiny_lm, tmp_path):
    tiny_lm.save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"not even a pickle")
    with pytest.raises(CasehardenError, match="safetensors only"):
        LM.load(tmp_path)


def test_truncated_safetensors(tiny_lm, tmp_path):
    tiny_lm.save(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CasehardenError, match="damaged"):
        LM.load(tmp_path)


def test_a_tokenizer_without_a_chat_template(tiny_lm, tmp_path):
    tiny_lm.save(tmp_path)
    shutil.move(tmp_path / "chat_template.jinja", tmp_path / "elsewhere")
    with pytest.raises(CasehardenError, match="no chat template"):
        LM.load(tmp_path)


def test_a_hub_id_that_cannot_be_reached(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CasehardenError, match="cannot load a model"):
        LM.load("nobody/no-such-model-at-all")


def test_a_prompt_of_several_turns_goes_through_the_template_turn_by_turn(tiny_lm):
    said = [("system", "yes"), ("user", "a b"), ("assistant", "no"), ("user", "c ?")]
    (ids,) = tiny_lm.encode_prompts([Conversation(said)])
    assert tiny_lm.tokenizer.decode(ids) == "<unk> yes <user> a b <assistant> no <user> c ? <assistant>"
    (row, _) = tiny_lm.token_rows([Example("e", Conversation(said), "d")])[0]
    assert row[: len(ids)] == ids


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (
            "{{ raise_exception('no system') if messages[0].role == 'system' }}{{ messages[0].content }}",
            "no system",
        ),
        ("{{ messages[-1].content }}", "does not show all that system says"),
    ],
)
def test_a_template_that_has_no_place_for_a_turn_is_an_error(template, said, tiny_lm):
    tiny_lm.tokenizer.chat_template = template
    assert tiny_lm.encode_prompts(["a"])
    with pytest.raises(CasehardenError, match=said):
        tiny_lm.encode_prompts([Conversation([("system", "yes"), ("user", "a")])])
