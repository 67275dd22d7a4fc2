"""Formats: from a file's bytes to its rows, or to what is wrong with it."""

import codecs
import csv
import json
import pickle
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caseharden.domains.prompts.sources import load
from caseharden.errors import CasehardenError
from strategies import many, texts, values


@pytest.fixture
def loaded(tmp_path):
    """Write a file and load it."""

    def load_from(content, name="mine.jsonl"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return load(str(path))

    return load_from


LONG = "word " * 40_000
ONE = {
    "mine.jsonl": '{"prompt": "p", "completion": "c"}\n',
    "mine.json": '[{"prompt": "p", "completion": "c"}]',
    "mine.csv": "prompt,completion\np,c\n",
}


@pytest.mark.parametrize("name", ONE)
def test_a_byte_order_mark_is_no_part_of_a_file(name, loaded):
    (row,) = loaded(codecs.BOM_UTF8 + ONE[name].encode(), name)
    assert (row.prompt, row.completion) == ("p", "c")
    with pytest.raises(CasehardenError, match=r"cannot read .*UTF-8"):
        loaded(codecs.BOM_UTF16_LE + ONE[name].encode("utf-16-le"), name)


def test_a_long_field_of_csv_is_read_whole(loaded):
    assert len(loaded(f"prompt\n{LONG}\n", "mine.csv")[0].prompt) == len(LONG) - 1
    assert csv.field_size_limit() == 131072, "the module's own bound is as it was"


def test_fractions_are_read_as_they_are_written(loaded):
    assert loaded('{"prompt": "p", "answer": 0.50}')[0].answer == "0.50"
    assert loaded('{"prompt": "p", "answer": 1e3, "id": 7}')[0].answer == "1e3"


BAD = {
    "digits": (
        '{"prompt": "a"}\n{"prompt": "p", "n": %s}' % ("9" * 5000),
        "mine.jsonl",
        ":2: .*cannot be read .*digits",
    ),
    "digits in a list": ('[{"prompt": "p", "n": %s}]' % ("9" * 5000), "mine.json", "cannot be read .*digits"),
    "depth": ('{"prompt": "a"}\n' + "[" * 100_000, "mine.jsonl", ":2: .*cannot be read .*recursion"),
    "depth of objects": ('{"a":' * 100_000, "mine.json", "cannot be read .*recursion"),
    "half": ('{"prompt": "a"}\n{"prompt": "\\ud83d"}', "mine.jsonl", ":2: .*half of a character"),
    "half in a key": ('{"prompt": "a", "\\uDE00": 1}', "mine.jsonl", ":1: .*half of a character"),
    "half in a list": ('[{"prompt": "a", "choices": ["\\ud83d", "b"]}]', "mine.json", "half of a character"),
    "key twice": ('{"prompt": "a"}\n{"prompt": "b", "prompt": "c"}', "mine.jsonl", ":2: .*key comes twice"),
    "column twice": ("prompt,prompt\na,b\n", "mine.csv", ":1: a column comes twice"),
    "semicolons": (
        "prompt;completion\na;b, c\n",
        "mine.csv",
        ":1: the columns are separated by semicolons. .*commas",
    ),
    "tabs": ("prompt\tcompletion\na\tb\n", "mine.csv", ":1: the columns are separated by tabs"),
    "bars": ("prompt|completion\na|b\n", "mine.csv", ":1: the columns are separated by vertical bars"),
    "a list over lines": (
        json.dumps([{"prompt": "a"}], indent=1),
        "mine.jsonl",
        ":1: what begins here goes on over several lines. Write one object on each line, .* ending .json",
    ),
    "objects over lines": (json.dumps({"prompt": "a"}, indent=1) * 2, "mine.jsonl", ":1: what begins here goes on"),
    "a list on one line": ('[{"prompt": "a"}]', "mine.jsonl", ":1: this is no JSON object. .* ending .json"),
    "lines": (
        '{"prompt": "a"}\n{"prompt": "b"}\n',
        "mine.json",
        r"not JSON \(Extra data at line 2, column 1\). One object on each line is read from a .jsonl file",
    ),
    "open text": ('{"prompt": "a', "mine.jsonl", r"not JSON \(Unterminated string at column 12\)"),
    "line break in a text": (
        '[{"prompt": "\n"}]',
        "mine.json",
        r"\(Invalid control character at line 1, column 14\)",
    ),
    "open quotation": ('prompt\na\n"b\nc\n', "mine.csv", ":3: this is not CSV .*unexpected end"),
    "text after a quotation": ('prompt\n"a"b\n', "mine.csv", ":2: this is not CSV"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_read_whole_is_said_with_its_place(case, loaded):
    text, name, said = BAD[case]
    with pytest.raises(CasehardenError, match=said):
        loaded(text, name)


def test_a_whole_character_may_be_escaped(loaded):
    assert loaded(r'{"prompt": "\ud83d\ude42 \\ud83d"}')[0].prompt == "\U0001f642 \\ud83d"


# ---- whatever people bring ------------------------------------------------------------------------------

columns = st.sampled_from(["prompt", "question", "completion", "choices", "answer", "input", "id", "category"])
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": texts | values},
        optional={"name": values},
    ),
    max_size=4,
)
objects = st.dictionaries(columns, values | messages | st.lists(texts, max_size=3), max_size=4)


def is_sound(rows):
    """Whether rows are what everything else takes them for: texts, of which none is somebody's repr."""
    for row in rows:
        assert row.prompt.strip()
        cells = (row.id, row.prompt, row.completion, row.answer, row.topic, row.opener, *row.choices)
        assert all(isinstance(cell, str) and cell.encode() is not None for cell in cells)
        assert not row.choices or row.answer in row.choices
        assert pickle.loads(pickle.dumps(row)) == row


@many
@given(rows=st.lists(objects, min_size=1, max_size=3), ascii_only=st.booleans())
def test_objects_of_anything_are_read_or_said_to_be_wrong(rows, ascii_only, loaded):
    lines = "\n".join(json.dumps(row, ensure_ascii=ascii_only) for row in rows)
    with suppress(CasehardenError):
        is_sound(loaded(lines.encode("utf-8", "surrogatepass")))
    with suppress(CasehardenError):
        is_sound(loaded(f"[{lines}]".replace("}\n{", "},\n{").encode("utf-8", "surrogatepass"), "mine.json"))


SCRAPS = '{}[]",:\\\n\r\t \ufeff\0é01e.-+promtudNa\'"'


@many
@given(content=st.binary(max_size=60) | st.text(SCRAPS, max_size=60).map(str.encode), name=st.sampled_from([*ONE]))
def test_any_bytes_are_read_or_said_to_be_wrong(content, name, loaded):
    for beginning in (b"", ONE[name].encode()):
        with suppress(CasehardenError):
            is_sound(loaded(beginning + content, name))
