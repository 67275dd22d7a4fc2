"""Prompts without the chat template: bare, or as instruction and response."""

from __future__ import annotations

import pytest
from tokenizers.processors import TemplateProcessing

from caseharden.data.conversation import Conversation
from caseharden.data.example import Example
from caseharden.engines.native import Native
from caseharden.errors import CasehardenError
from caseharden.lm.frame import FRAMES
from caseharden.lm.lm import LM
from caseharden.measures.probe import Probe

STARTS = "<bos> {% for m in messages %}<{{ m.role }}> {{ m.content }} <turn> {% endfor %}<assistant> <think> "


def words(lm: LM, ids: list[int]) -> list[str]:
    return lm.tokenizer.convert_ids_to_tokens(ids)


def with_tokens(lm: LM, *added: str, template: str | None = None) -> LM:
    lm.tokenizer.add_tokens([*added], special_tokens=True)
    lm.tokenizer.chat_template = template or lm.tokenizer.chat_template
    lm.model.resize_token_embeddings(len(lm.tokenizer))
    return LM(lm.model, lm.tokenizer, lm.name)


def test_a_bare_prompt_is_the_prompt_and_its_answer_ends_with_the_sequence(tiny_lm):
    example = Example("x", "a b ?", "b a .", prefix="yes ")
    with tiny_lm.templated("none"):
        [(ids, response)] = tiny_lm.token_rows([example])
        assert words(tiny_lm, ids) == ["a", "b", "?", "yes", "b", "a", ".", "<eos>"] and response == 4
        assert tiny_lm.encode_prompts(["a b ?"]) == [ids[:3]]
        assert tiny_lm.read([ids[4:]], ["yes "])[0].text == "yes b a ."
    assert words(tiny_lm, tiny_lm.encode_prompts(["a b ?"])[0]) == ["<user>", "a", "b", "?", "<assistant>"]


def test_an_instruction_stands_in_its_frame(tiny_lm):
    lm = with_tokens(tiny_lm, "###", "Instruction:", "Response:")
    with lm.templated("instruction"):
        [prompt] = lm.encode_prompts(["a b ?"])
        assert lm.template.prompt("a b ?") == "### Instruction:\na b ?\n\n### Response:\n"
    assert words(lm, prompt) == ["###", "Instruction:", "a", "b", "?", "###", "Response:"]


def test_several_turns_are_a_transcript(tiny_lm):
    with tiny_lm.templated("none"):
        said = Conversation([("system", "be kind"), ("user", "a ?")])
        assert tiny_lm.template.prompt(said) == "system: be kind\n\nuser: a ?\n"


def test_a_template_in_unknown_words_is_an_error_and_so_is_one_that_is_none(tiny_lm):
    wanted = r"no tokens for the template 'instruction'.*Take `template: none`"
    with pytest.raises(CasehardenError, match=wanted), tiny_lm.templated("instruction"):
        raise AssertionError("it was taken")
    with pytest.raises(CasehardenError, match=r"no template 'nonne'.* 'none'"), tiny_lm.templated("nonne"):
        raise AssertionError("it was taken")
    assert tiny_lm.template is tiny_lm.chat


@pytest.mark.parametrize("begins", [True, False])
def test_a_text_begins_as_the_tokenizer_begins_one_whatever_the_chat_template_writes(begins, tiny_lm):
    tiny_lm.tokenizer.bos_token = "<bos>"
    lm = with_tokens(tiny_lm, "<bos>", "<turn>", template=STARTS)
    bos = lm.tokenizer.bos_token_id
    if begins:
        lm.tokenizer.backend_tokenizer.post_processor = TemplateProcessing("<bos> $A", None, [("<bos>", bos)])
    with lm.templated("none"):
        [prompt] = lm.encode_prompts(["a ?"])
    assert words(lm, prompt) == ["<bos>"] * begins + ["a", "?"]


@pytest.mark.parametrize("name", FRAMES)
def test_thinking_is_not_begun_and_what_is_thought_is_not_read(name, tiny_lm):
    added = ("<turn>", "<think>", "</think>", "###", "Instruction:", "Response:")
    lm = with_tokens(tiny_lm, *added, template=STARTS)
    chat, turn = lm.ends(), lm.tokenizer.convert_tokens_to_ids("<turn>")
    with lm.templated(name):
        [prompt] = lm.encode_prompts(["a ?"])
        assert "<think>" not in words(lm, prompt)
        said = lm.tokenizer("yes a <turn>", add_special_tokens=False)["input_ids"]
        assert lm.read([said])[0] == ("yes a", True)  # in the chat template this would be a thought
        thought = lm.tokenizer("<think> no </think> a", add_special_tokens=False)["input_ids"]
        assert lm.read([thought])[0] == ("a", True)
        assert lm.ends() == chat and turn in chat  # a chat model may still end its turn as it was taught to


def test_room_is_checked_for_the_template_that_is_used(tiny_lm):
    asked = [Example("x", "a " * 60)]
    with tiny_lm.templated("none"):
        tiny_lm.check_prompts(asked, "a pool", answer=4)
    with pytest.raises(CasehardenError, match="the longest takes 62"):
        tiny_lm.check_prompts(asked, "a pool", answer=4)


def test_prompts_in_unknown_words_are_an_error(tiny_lm):
    read = [Example(str(i), "a b a b a b a b ?") for i in range(9)]
    tiny_lm.check_prompts([*read, Example("x", "a zebra ?")], "a pool")
    with pytest.raises(CasehardenError, match=r"3 of the 17 tokens of the prompts of a pool are '<unk>'"):
        tiny_lm.check_prompts([*read[:1], Example("x", "unknown words ?", prefix="all")], "a pool")
    tiny_lm.tokenizer.pad_token = tiny_lm.tokenizer.unk_token  # byte-level tokenizers, that know every word
    LM(tiny_lm.model, tiny_lm.tokenizer, "bytes").check_prompts([Example("x", "unknown words ?")], "a pool")


def test_a_probe_asks_by_its_template_and_leaves_the_model_as_it_was(tiny_lm, toy_domain, monkeypatch):
    seen = []
    write = Native.write

    def watched(self, lm, prompts, *rest):
        seen.append(prompts)
        return write(self, lm, prompts, *rest)

    monkeypatch.setattr(Native, "write", watched)
    for template in ("none", "chat"):
        Probe(n=3, max_new_tokens=2, template=template).answers(tiny_lm, toy_domain, 0, Native())
    bare, chat = seen
    assert [[*prompt[1:-1]] for prompt in chat] == bare
    assert tiny_lm.template is tiny_lm.chat
