"""Prompts arrive, turns end as the template ends them, and thinking is told from the answer."""

from __future__ import annotations

import copy
import pathlib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caseharden.data.conversation import Conversation
from caseharden.data.example import Example
from caseharden.engines.engine import generate_text
from caseharden.engines.native import Native
from caseharden.errors import CasehardenError
from caseharden.judges.judge import Answer, judged
from caseharden.judges.strings import StringRefusal
from caseharden.lm.lm import LM
from caseharden.lm.template import Reasoning, Template, Text
from strategies import many, texts

PARTS = (
    "{% for m in messages %}<{{ m.role }}>{% for part in m.content %} {{ part.text }}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)
TURNS = (
    "{% for m in messages %}<{{ m.role }}> {{ m.content }} <turn> {% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)
THINKS = (
    "{% for m in messages %}<{{ m.role }}> {{ m.content.split('</think>')[-1] }} <eos> {% endfor %}"
    "{% if add_generation_prompt %}<assistant> "
    "{% if enable_thinking is defined and not enable_thinking %}<think> </think> {% endif %}{% endif %}"
)


def with_template(lm: LM, template: str, *added: str, reasoning: Reasoning | None = None) -> LM:
    """`lm` with another template, and further special tokens, for which it has no embeddings."""
    lm.tokenizer.chat_template = template
    lm.tokenizer.add_special_tokens({"additional_special_tokens": [*added]})
    lm.model.resize_token_embeddings(len(lm.tokenizer))
    return LM(lm.model, lm.tokenizer, lm.name, reasoning=reasoning or Reasoning())


def test_content_is_given_in_parts_where_the_template_wants_them(tiny_lm):
    lm = with_template(tiny_lm, PARTS)
    assert lm.template.prompt("a b ?") == "<user> a b ? <assistant> "


@pytest.mark.parametrize("template", ["<user> hello <assistant> ", "{{ messages[0].content.text }}", "{{ bos.x }}"])
def test_a_template_that_does_not_show_the_question_is_an_error(tiny_lm, template):
    with pytest.raises(CasehardenError, match="does not show the model what a user says"):
        with_template(tiny_lm, template)


def test_the_templates_own_end_of_turn_is_learned_and_stopped_at(tiny_lm):
    lm = with_template(tiny_lm, TURNS, "<turn>")
    turn = lm.tokenizer.convert_tokens_to_ids("<turn>")
    [(ids, _)] = lm.token_rows([Example("x", "a ?", "b")])
    assert ids[-1] == turn
    assert set(lm.ends()) >= {turn, lm.tokenizer.eos_token_id}
    assert lm.token_rows([Example("x", "a ?", "b")], turn=False)[0][0][-1] != turn


def test_an_answer_stops_at_the_first_of_the_tokens_that_end_a_turn(tiny_lm):
    lm = with_template(tiny_lm, TURNS.replace("<turn>", "<turn> <eos>"), "<turn>")
    turn, eos = lm.tokenizer.convert_tokens_to_ids(["<turn>", "<eos>"])
    assert lm.token_rows([Example("x", "a ?", "b")])[0][0][-2:] == [turn, eos]
    assert set(lm.ends()) >= {turn, eos}


def test_a_template_that_ends_turns_with_text_leaves_the_tokenizers_end(tiny_lm):
    lm = with_template(tiny_lm, TURNS.replace("<turn>", "###"))
    assert lm.token_rows([Example("x", "a ?", "b")])[0][0][-1] == lm.tokenizer.eos_token_id


@pytest.fixture
def thinker(tiny_lm) -> LM:
    return with_template(tiny_lm, THINKS, "<think>", "</think>")


def read(lm: LM, text: str, prefix: str = "") -> Text:
    [found] = lm.read([lm.tokenizer(text, add_special_tokens=False)["input_ids"]], [prefix] if prefix else ())
    return found


def test_what_comes_after_the_thinking_is_the_answer(thinker):
    assert read(thinker, "<think> sorry i cannot </think> yes a b <eos>") == Text("yes a b", True)
    assert read(thinker, "yes a b <eos>") == Text("yes a b", True)
    assert not read(thinker, "<think> sorry i").finished


def test_harm_before_a_stray_mark_is_still_judged(thinker):
    assert read(thinker, "b a . </think> sorry").text.startswith("b a .")


def test_every_thought_is_left_out_and_nothing_else(thinker):
    assert read(thinker, "<think> no </think> yes <think> sorry </think> a b <eos>").text.split() == [
        "yes",
        "a",
        "b",
    ]
    assert read(thinker, "b a . <think> no </think> sorry").text.split() == ["b", "a", ".", "sorry"]


def test_a_later_thought_that_is_cut_off_is_no_answer(thinker):
    assert not read(thinker, "<think> no </think> <think> sorry i").finished


def test_a_thought_that_the_prefix_begins_is_left_out(thinker):
    assert read(thinker, "sorry </think> a b", prefix="<think> no ") == Text("a b", True)
    assert not read(thinker, "sorry i", prefix="<think> no ").finished


def test_a_prompt_that_begins_the_thinking_leaves_only_its_end_to_the_answer(tiny_lm):
    lm = with_template(tiny_lm, THINKS.replace("<assistant> {%", "<assistant> <think> {%"), "<think>", "</think>")
    assert read(lm, "no </think> yes a") == Text("yes a", True)
    assert not read(lm, "no no").finished
    assert read(lm, "a b", prefix="yes ") == Text("yes a b", True)  # a prefix begins an answer, not a thought
    [(ids, response)] = lm.token_rows([Example("x", "a ?", "b")])
    assert "</think>" in lm.tokenizer.decode(ids[-response:])  # to be learned: the thought ends before an answer


def test_thinking_is_turned_off_where_the_template_can(tiny_lm):
    assert "<think> </think>" not in with_template(tiny_lm, THINKS).template.prompt("a")
    off = with_template(tiny_lm, THINKS, "<think>", "</think>", reasoning=Reasoning(thinking=False))
    assert off.template.prompt("a").endswith("<think> </think> ")
    with pytest.raises(CasehardenError, match="no switch for thinking"):
        with_template(tiny_lm, TURNS, reasoning=Reasoning(thinking=False))


@pytest.mark.parametrize("mention", ["{# thinking #}", "{% if messages[0].thinking is defined %}b{% endif %}"])
def test_a_template_that_only_speaks_of_thinking_has_no_switch(tiny_lm, mention):
    for thinking in (True, False):
        with pytest.raises(CasehardenError, match="no switch for thinking"):
            with_template(tiny_lm, TURNS + mention, reasoning=Reasoning(thinking=thinking))


def test_marks_of_ones_own(tiny_lm):
    lm = with_template(tiny_lm, TURNS, reasoning=Reasoning(marks=("no", "yes")))
    assert read(lm, "no a b yes c") == Text("c", True)


def test_unfinished_thinking_has_no_score_and_is_not_shown_to_the_judge(thinker):
    asked = [Answer("1", "a", "sorry i cannot", finished=False), Answer("2", "a", "sorry i cannot")]
    unfinished, finished = judged(StringRefusal(), asked)
    assert unfinished.score != unfinished.score and finished.score == 1
    [cut] = generate_text(Native(), thinker, ["a"], max_new_tokens=1, prefixes=["<think> "])
    assert isinstance(cut, Text)


def published() -> list[pathlib.Path]:
    trl = pytest.importorskip("trl", reason="its wheel has the chat templates of published models")
    folder = pathlib.Path(trl.__file__).parent / "chat_templates"
    return sorted(path for path in folder.glob("*.jinja") if not path.stem.endswith("_training"))


def test_questions_arrive_in_the_templates_of_published_models(tiny_lm):
    found = published()
    assert len(found) > 10
    tiny_lm.tokenizer.bos_token = "<bos>"
    for path in found:
        tiny_lm.tokenizer.chat_template = path.read_text()
        template = Template(tiny_lm.tokenizer, path.stem, Reasoning())
        before, after = template.turn
        assert "a b c ?" in template.prompt("a b c ?"), path.stem
        if template.marks and template.marks[0] in template.prompt("x").rpartition("x")[2]:
            assert template.marks[1] in before or template.marks[1] in template.prompt("x"), path.stem
        assert "two tall trees" not in before + after, path.stem


@pytest.mark.parametrize("question", ["a " * 30, "b\n", " c"])
def test_a_question_is_shown_whole_but_for_the_space_around_it(question, tiny_lm):
    trims = with_template(tiny_lm, "{% for m in messages %}{{ m.content | trim }} {% endfor %}")
    assert question.strip() in trims.template.prompt(question)
    said = Conversation([("system", question), ("user", question)])
    assert trims.template.prompt(said).count(question.strip()) == 2
    cuts = with_template(tiny_lm, "{% for m in messages %}{{ m.content[:20] }} {% endfor %}")
    if len(question) > 20:
        with pytest.raises(CasehardenError, match="does not show all that user says"):
            cuts.template.prompt(question)


def test_thinking_is_told_by_its_beginning_where_only_that_is_in_the_template(tiny_lm):
    opens = "{% for m in messages %}<{{ m.role }}> {{ m.content }} {% endfor %}<assistant> <think> "
    lm = with_template(tiny_lm, opens)
    assert lm.template.marks == ("<think>", "</think>")
    [text] = lm.read([lm.tokenizer("a b", add_special_tokens=False)["input_ids"]])
    assert not text.finished


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ raise_exception('I do not like you') }}", "I do not like you"),
        ("{{ messages[0].content | upper }}", "SEVEN GREEN RIVERS"),
    ],
)
def test_a_template_that_is_no_use_is_told_why(template, said, tiny_lm):
    with pytest.raises(CasehardenError, match=said):
        with_template(tiny_lm, template)


SCRAPS = (
    "{{ messages[0].content }}",
    "{{ messages[-1]['content'] }}",
    "{{ messages | map(attribute='content') | join(' ') }}",
    "{% for m in messages %}",
    "{% for part in m.content %}{{ part.text }}{% endfor %}",
    "{{ m.role }} {{ m.content }}",
    "{{ m.content | trim | upper }}",
    "{{ m.content | trim }}",
    "{{ m.content[:20] }}",
    "{{ m.content.split('</think>')[-1] }}",
    "{% endfor %}",
    "{% if add_generation_prompt %}",
    "{% if enable_thinking %}<think>{% endif %}",
    "{% endif %}",
    "{{ raise_exception('no') }}",
    "{{ bos_token }}",
    "{{ eos_token }}",
    "{{ tools[0] }}",
    "{{ messages[9].content }}",
    "{{ 1 / 0 }}",
    "{{ 'a' * 9999 }}",
    "{% set ns = namespace(x=1) %}",
    "{% generation %}",
    "{% include 'other' %}",
    "{{ strftime_now('%Y') }}",
    "{{ messages.__class__.__mro__ }}",
    "{{ messages.append(1) }}",
    "{{",
    "%}",
    "\ud83d",
)


@many
@given(scraps=st.lists(st.sampled_from(SCRAPS) | texts, max_size=7), question=texts)
def test_a_template_of_anything_shows_the_question_or_is_said_not_to(scraps, question, word_tokenizer):
    tokenizer = copy.deepcopy(word_tokenizer)
    tokenizer.chat_template = "".join(scraps)
    with suppress(CasehardenError):
        template = Template(tokenizer, "odd", Reasoning())
        assert question.strip() in template.prompt(question)
        assert template.prompt("a b") != template.prompt("c d")
        assert "be brief" in template.prompt(Conversation([("system", "be brief"), ("user", question)]))
        assert all(isinstance(token, int) for token in template.end)
        assert isinstance(template.read([1, 2, 3]), Text)


def test_what_goes_on_from_the_first_words_keeps_the_space_between(tiny_lm):
    [tokens] = tiny_lm.tokenizer(["c d"], add_special_tokens=False)["input_ids"]
    assert tiny_lm.template.read(tokens, "a b").text == "a b c d"
