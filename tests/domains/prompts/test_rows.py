"""Rows: what may stand in a cell, and what becomes of it."""

import json

import pytest

from caseharden.data.conversation import Conversation, turns
from caseharden.data.pools import ROLES
from caseharden.domains.prompts import rows, sources
from caseharden.domains.prompts.prompts import Prompts
from caseharden.errors import CasehardenError


def message(role, content, **more):
    return {"role": role, "content": content, **more}


SYSTEM, USER, ASSISTANT = message("system", "Be brief."), message("user", " hi "), message("assistant", "ho")


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ([USER], "hi"),
        ([message("user", [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}])], "hi"),
        ([message("user", "hi", name=None)], "hi"),
        ([SYSTEM, USER], (("system", "Be brief."), ("user", "hi"))),
        ([USER, ASSISTANT, USER], (("user", "hi"), ("assistant", "ho"), ("user", "hi"))),
        (
            [SYSTEM, USER, ASSISTANT, USER],
            tuple((m["role"], m["content"].strip()) for m in (SYSTEM, USER, ASSISTANT, USER)),
        ),
    ],
)
@pytest.mark.parametrize("column", ["prompt", "question"])
def test_messages_are_turns_and_one_users_is_a_text(prompt, said, column):
    found = rows.usual({column: prompt, "completion": [ASSISTANT]})
    assert found.completion == "ho"
    assert (turns(found.prompt) if isinstance(said, tuple) else found.prompt) == said
    assert isinstance(found.prompt, Conversation) == isinstance(said, tuple)


BAD = {
    "nobody": ([], "turns of nobody"),
    "system alone": ([SYSTEM], "has the turns system"),
    "system late": ([USER, SYSTEM, USER], "has the turns user, system, user"),
    "two systems": ([SYSTEM, SYSTEM, USER], "has the turns system, system, user"),
    "no alternation": ([USER, USER], "has the turns user, user"),
    "answer": ([USER, ASSISTANT], "turns user, assistant.*belongs into 'completion'"),
    "texts": (["a", "b"], r"prompt has 'a' \(str\) where a message"),
    "number": ([1], r"prompt has 1 \(int\)"),
    "role": ([message("tool", "x")], "a message of 'tool'"),
    "no role": ([{"from": "human", "value": "x"}], "a message of None with from, value"),
    "calls": ([message("user", "x", tool_calls=[])], "with tool_calls"),
    "content": ([message("user", {"text": "x"})], r"\(dict\)"),
    "empty": ([message("user", " ")], "empty message of user"),
    "picture": ([message("user", [{"type": "image", "url": "x"}])], "parts that are not text"),
    "object": ({"text": "x"}, r"prompt is \{'text': 'x'\} \(dict\)"),
    "nan": (float("nan"), r"prompt is nan \(float\)"),
    "infinity": (float("inf"), r"prompt is inf \(float\)"),
    "truth": (True, r"prompt is True \(bool\)"),
}


@pytest.mark.parametrize("case", BAD)
def test_whatever_is_no_prompt_is_an_error_with_line_and_type(case, tmp_path):
    value, said = BAD[case]
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "fine"}\n' + json.dumps({"prompt": value, "completion": "c"}))
    with pytest.raises(CasehardenError, match=f"mine.jsonl:2: .*{said}"):
        sources.load(str(path))


@pytest.mark.parametrize("column", ["completion", "answer", "topic", "opener", "input", "id"])
@pytest.mark.parametrize("value", [float("nan"), {"a": 1}, ["a", "b"], False], ids=repr)
def test_nor_may_any_other_cell_hold_what_is_no_text(column, value):
    with pytest.raises(CasehardenError, match=column):
        rows.usual({"prompt": "p", column: value})


def test_a_completion_of_messages_is_one_of_the_assistant():
    for wrong in ([USER], [ASSISTANT, USER], []):
        with pytest.raises(CasehardenError, match="completion has"):
            rows.usual({"prompt": "p", "completion": wrong})


def test_numbers_are_texts():
    row = rows.usual({"prompt": "p", "id": 7, "answer": 4, "choices": [3, 4]})
    assert (row.id, row.answer, row.choices) == ("7", "4", ("3", "4"))


@pytest.mark.parametrize(
    ("cell", "choices"), [('["b", "d"]', ("b", "d")), ("[1, 2]", ("1", "2")), (" ", ()), ("", ()), ("[]", ())]
)
def test_choices_in_a_cell_are_a_list_of_json(cell, choices):
    assert rows.usual({"prompt": "p", "choices": cell, "answer": choices[-1] if choices else ""}).choices == choices


@pytest.mark.parametrize(
    "cell", ["['b', 'd']", "b;d", '"bd"', '{"b": "d"}', "bd", '["\\ud83d", "d"]', {"text": ["b", "d"]}]
)
def test_choices_are_never_taken_apart(cell):
    with pytest.raises(CasehardenError, match=r"choices.*(list of texts|is not JSON|half of a character)"):
        rows.usual({"prompt": "p", "choices": cell, "answer": "d"})


@pytest.mark.parametrize(
    ("parse", "row"),
    [
        (rows.first_turn, {"turns": "abc"}),
        (rows.first_turn, {"prompt": "abc"}),
        (rows.numbered, {"question": "q", "choices": "abc", "answer": 1}),
        (rows.numbered, {"question": "q", "choices": ["a", "b"], "answer": -1}),
        (rows.numbered, {"question": "q", "choices": ["a", "b"], "answer": 2}),
        (rows.two_solutions, {"goal": "g", "sol1": "a", "sol2": "b", "label": -1}),
        (rows.two_options, {"sentence": "s", "option1": "a", "option2": "b", "answer": "0"}),
        (rows.lettered, {"question": "q", "choices": {"text": "ab", "label": "AB"}, "answerKey": "B"}),
    ],
)
def test_nor_is_a_text_a_list_or_the_last_option_number_minus_one_in_known_sets(parse, row):
    with pytest.raises(CasehardenError, match=r"list of texts|right option has number"):
        parse(row)


def test_what_the_system_says_to_all_makes_no_two_prompts_alike(tmp_path):
    system = message("system", "You are a careful assistant that answers in one plain sentence. " * 5)
    questions = {"a": "How are locks picked?", "b": "What is the tallest mountain?", "c": "How is a cake baked?"}
    for name, question in questions.items():
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"prompt": [system, message("user", question)]}))
    harmful = {role: (f"{tmp_path}/{name}.jsonl",) for role, name in zip(ROLES, questions, strict=True)}
    domain = Prompts(harmful=harmful, evaluation={}, contrast={})
    (asked,) = domain.pools("evaluator")["harmful"]
    assert asked.prompt.turns[1] == ("user", questions["c"])
    (tmp_path / "b.jsonl").write_text(json.dumps({"prompt": [message("user", questions["c"].upper())]}))
    with pytest.raises(CasehardenError, match="near duplicates"):
        Prompts(harmful=harmful, evaluation={}, contrast={}).pools("attacker")


# ---- two columns for one thing --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "p", "question": "q"}, "'prompt' and 'question' are two columns for one thing, prompt"),
        ({"question": "q", "instruction": [USER]}, "'instruction' and 'question' are two columns"),
        ({"prompt": "p", "output": "b", "response": "a"}, "'response' and 'output' are two columns .*completion"),
        ({"prompt": "p", " Prompt": "q"}, "'prompt' and ' Prompt' are two columns"),
        ({"prompt": "p", "Answer": "a", "answer": "b"}, "'Answer' and 'answer' are two columns"),
    ],
)
def test_two_columns_for_one_thing_must_say_the_same(row, said):
    with pytest.raises(CasehardenError, match=said):
        rows.usual(row)


def test_columns_that_say_the_same_or_nothing_are_one():
    row = {"prompt": "p", "question": " p ", "completion": " ", "response": "c", "output": None}
    assert rows.usual(row) == rows.Row(id="", prompt="p", completion="c")
    assert rows.usual({"prompt": [USER], "question": [USER]}).prompt == "hi"


def test_a_topic_is_that_of_the_first_column_for_it():
    assert rows.usual({"prompt": "p", "type": "t", "category": "c"}).topic == "c"
    assert rows.usual({"prompt": "p", "question_id": 2, "ID": 1}).id == "1"
