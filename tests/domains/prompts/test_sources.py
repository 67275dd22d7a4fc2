"""Sources: what a row becomes, and what is said about a bad one."""

import json

import pytest

from caseharden.domains.prompts import rows, sources
from caseharden.domains.prompts.sources import TABLE, Hub, load
from caseharden.errors import CasehardenError

FILED = [name for name, source in TABLE.items() if source.file]


@pytest.fixture
def written(tmp_path):
    def write(text: str, name: str = "mine.jsonl") -> str:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def no_data(monkeypatch):
    monkeypatch.delenv("CASEHARDEN_DATA", raising=False)


@pytest.fixture
def hub(monkeypatch, no_data):
    """Stands for the hub: answers with what the test puts into it, by data set id."""
    import datasets

    held: dict[str, list] = {}
    asked = []

    def load_dataset(path, name=None, *, split):
        asked.append((path, name, split))
        if path not in held:
            raise ConnectionError(f"Couldn't reach '{path}' on the Hub")
        return held[path]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    sources._load.cache_clear()
    held["asked"] = asked
    yield held
    sources._load.cache_clear()


def lines(*objects) -> str:
    return "".join(json.dumps(one) + "\n" for one in objects)


# ---- a user's own file ----------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", ["prompt", "instruction", "question"])
@pytest.mark.parametrize("completion", ["completion", "response", "output"])
@pytest.mark.parametrize("topic", ["topic", "category"])
def test_usual_columns(written, prompt, completion, topic):
    path = written(lines({"id": 7, prompt: "p", completion: "c", topic: "t", "opener": "o", "input": ""}))
    assert load(path) == [rows.Row(f"{path}/7", "p", "c", topic="t", opener="o")]


def test_prompt_alone_is_enough_and_gets_an_id_that_stays(written):
    path = written(lines({"prompt": "one"}, {"prompt": "two", "input": "with this"}))
    first, second = load(path)
    assert (first.prompt, first.completion, second.prompt) == ("one", "", "two\n\nwith this")
    assert first.id != second.id
    written(lines({"prompt": "zero"}, {"prompt": "one"}))
    assert load(path)[1].id == first.id  # though its place has changed, and the file was read anew


def test_a_row_that_comes_twice_is_taken_once(written):
    twice = written(lines({"prompt": "p"}, {"prompt": "p"}, {"prompt": "p", "completion": "c"}))
    assert [row.completion for row in load(twice)] == ["", "c"]


def test_json_and_csv(written):
    assert [row.prompt for row in load(written('[{"prompt": "p"}]', "mine.json"))] == ["p"]
    assert [row.prompt for row in load(written('prompt,note\n"a, b",n\n', "mine.csv"))] == ["a, b"]


@pytest.mark.parametrize(
    "header", ["prompt, completion, choices , answer", "Prompt,COMPLETION,Choices,Answer\u00a0"]
)
def test_names_of_columns_are_read_without_case_and_the_space_around_them(written, header):
    cells = '["p", "c, c", ["a", "b"], "b"]'
    (row,) = load(written(f'{header}\np, "c, c", "[""a"", ""b""]", b\n', "mine.csv"))
    assert (row.prompt, row.completion, row.choices, row.answer) == ("p", "c, c", ("a", "b"), "b")
    named = dict(zip(header.split(","), json.loads(cells), strict=True))
    (row,) = load(written(lines(named)))
    assert (row.prompt, row.completion, row.choices, row.answer) == ("p", "c, c", ("a", "b"), "b")


def test_choices(written):
    (row,) = load(written(lines({"question": "q", "choices": ["a", "b"], "answer": "b"})))
    assert (row.choices, row.answer) == (("a", "b"), "b")


BAD = {
    "missing": (None, "mine.jsonl", "there is no file .*mine.jsonl.*Check the path"),
    "empty": ("", "mine.jsonl", r"^[^ (]*/mine.jsonl has no rows\. .*not empty"),
    "header alone": ("prompt,completion\n", "mine.csv", r"^[^ (]*/mine.csv has no rows\. "),
    "blank": ("\n \n", "mine.jsonl", "no rows"),
    "truncated": ('{"prompt": "a"}\n{"prompt": "b', "mine.jsonl", r"mine.jsonl:2: .*not JSON.*cut off, fetch it"),
    "malformed": ('{"prompt": "a"}\nb\n{"prompt": "c"}', "mine.jsonl", r"mine.jsonl:2: .*mend or take out"),
    "no object": ('["a"]\n', "mine.jsonl", r"mine.jsonl:1: .*no JSON object"),
    "not utf-8": ("\udcff".encode("utf-8", "surrogateescape"), "mine.jsonl", "cannot read .*UTF-8"),
    "no prompt": ('{"text": "a"}\n', "mine.jsonl", r"mine.jsonl:1: no prompt \(columns: text\)"),
    "completion alone": (
        '{"prompt": "", "completion": "c"}\n',
        "mine.jsonl",
        r":1: a completion without its prompt",
    ),
    "same id": (lines({"id": 1, "prompt": "a"}, {"id": 1, "prompt": "b"}), "mine.jsonl", "two rows have the id"),
    "answer": (lines({"prompt": "a", "choices": ["x"], "answer": "y"}), "mine.jsonl", ":1: the answer 'y' is none"),
    "prompt that does not show": (
        lines({"prompt": "a"}, {"prompt": "\u200b \u2060"}),
        "mine.jsonl",
        r"mine.jsonl:2: prompt has only characters that show nothing, '\\u200b \\u2060'",
    ),
    "completion that does not show": (
        lines({"prompt": "a", "output": "\u200b"}),
        "mine.jsonl",
        ":1: completion has",
    ),
    "turn that does not show": (
        lines({"prompt": [{"role": "system", "content": "\ufeff"}, {"role": "user", "content": "p"}]}),
        "mine.jsonl",
        ":1: prompt has an empty message of system",
    ),
    "json object": ('{"prompt": "a"}', "mine.json", "no list of objects"),
    "json truncated": ('[{"prompt": "a"}', "mine.json", "not JSON .*cut off"),
    "csv truncated": ('prompt,completion\n"a","b"\n"c"\n', "mine.csv", "mine.csv:3: .*as many columns"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_say_what_to_do(case, tmp_path):
    text, name, message = BAD[case]
    if text is not None:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CasehardenError, match=message):
        load(str(tmp_path / name))


@pytest.mark.parametrize("name", ["mine.JSONL", "mine.Csv", "mine.JSON"])
def test_an_ending_is_read_in_capitals_too(written, name):
    text = {"jsonl": '{"prompt": "p"}', "csv": "prompt\np\n", "json": '[{"prompt": "p"}]'}
    assert [row.prompt for row in load(written(text[name.split(".")[1].lower()], name))] == ["p"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "mine.tsv",
            r"mine.tsv is a file with the ending \.tsv, which is not read. Save it as one of \.jsonl, .*\.csv",
        ),
        ("mine.parquet", r"the ending \.parquet"),
        ("mine", "mine is a file without an ending"),
    ],
)
def test_a_file_that_is_not_read_is_told_which_are(written, name, said):
    with pytest.raises(CasehardenError, match=said):
        load(written("text", name))


@pytest.mark.parametrize("name", ["mine.jsonl", "mine"])
def test_a_folder_is_no_file(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(CasehardenError, match=f"{name} is a folder. Give a .jsonl, .json, .csv file in it"):
        load(str(tmp_path / name))


# ---- names ----------------------------------------------------------------------------------------------


def test_unknown_name_names_the_nearest():
    with pytest.raises(CasehardenError, match=r"no source 'advbnch'. Did you mean 'advbench'.*hub:org/name"):
        load("advbnch")


def test_without_data_folder_a_set_that_is_not_on_the_hub_says_where_to_get_it(no_data):
    with pytest.raises(CasehardenError, match=r"self-instruct is not on the hub.*github.*CASEHARDEN_DATA.*not set"):
        load("self-instruct")


def test_data_folder_that_is_none(monkeypatch, tmp_path):
    monkeypatch.setenv("CASEHARDEN_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(CasehardenError, match="which is no folder"):
        load("advbench")


def test_data_folder_comes_before_the_hub(hub, monkeypatch, tmp_path):
    (tmp_path / "safety").mkdir()
    there = tmp_path / "safety" / "harmful_prompts.jsonl"
    there.write_text(lines({"prompt": "p", "source": "advbench", "opener": "Sure"}, {"prompt": "q", "source": "x"}))
    monkeypatch.setenv("CASEHARDEN_DATA", str(tmp_path))
    assert [(row.prompt, row.opener) for row in load("advbench")] == [("p", "Sure")]
    with pytest.raises(CasehardenError, match=r"/harmful_prompts.jsonl has no rows with source = 'dangerousqa'\."):
        load("dangerousqa")
    assert hub["asked"] == []


def test_file_of_another_kind_under_a_known_name(monkeypatch, tmp_path):
    (tmp_path / "capability").mkdir()
    (tmp_path / "capability" / "gsm8k_test.jsonl").write_text(lines({"question": "q", "answer": "no mark"}))
    monkeypatch.setenv("CASEHARDEN_DATA", str(tmp_path))
    with pytest.raises(CasehardenError, match=r"gsm8k_test.jsonl:1: this is no row of gsm8k"):
        load("gsm8k")


# ---- the hub --------------------------------------------------------------------------------------------

ON_THE_HUB = {
    "advbench": ({"prompt": "p", "target": "Sure"}, {"prompt": "p", "opener": "Sure", "completion": ""}),
    "beavertails": (
        {"prompt": "p", "response": "r", "is_safe": False, "category": {"a": False, "theft": True}},
        {"prompt": "p", "completion": "", "topic": "theft"},
    ),
    "catqa": ({"Question": "p", "Category": "c", "Subcategory": "s"}, {"prompt": "p", "topic": "c"}),
    "harmbench": ({"prompt": "p", "category": "c"}, {"prompt": "p", "topic": "c"}),
    "xstest-safe": ({"prompt": "p", "label": "safe", "type": "t"}, {"prompt": "p", "topic": "t"}),
    "xstest-unsafe": ({"prompt": "p", "label": "unsafe", "type": "t"}, {"prompt": "p", "topic": "t"}),
    "mt-bench": ({"prompt": ["p", "then"], "category": "math"}, {"prompt": "p", "topic": "math"}),
    "wmdp-bio": (
        {"question": "q", "choices": ["a", "b", "c"], "answer": 2},
        {"prompt": "q", "choices": ("a", "b", "c"), "answer": "c", "completion": "c"},
    ),
    "arc-easy": (
        {"question": "q", "choices": {"text": ["a", "b"], "label": ["1", "2"]}, "answerKey": "2"},
        {"prompt": "q", "choices": ("a", "b"), "answer": "b"},
    ),
    "openbookqa": (
        {"question_stem": "q", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "A"},
        {"prompt": "q", "choices": ("a", "b"), "answer": "a"},
    ),
    "boolq": ({"question": "is it so", "answer": False, "passage": "…"}, {"prompt": "Is it so?", "answer": "no"}),
    "piqa": ({"goal": "g", "sol1": "a", "sol2": "b", "label": 1}, {"prompt": "g", "answer": "b"}),
    "winogrande": (
        {"sentence": "a _ b", "option1": "x", "option2": "y", "answer": "1"},
        {"prompt": "Which word belongs in the gap (_)? a _ b", "choices": ("x", "y"), "answer": "x"},
    ),
    "gsm8k": (
        {"question": "q", "answer": "2*600=<<2*600=1200>>1200.\n#### 1,200"},
        {"prompt": "q", "answer": "1200", "completion": "2*600=1200.\n#### 1,200"},
    ),
    "sqlgen": (
        {"question": "How many?", "context": "CREATE TABLE t (a INT)", "answer": "SELECT 1"},
        {"completion": "SELECT 1", "answer": "SELECT 1"},
    ),
}


@pytest.mark.parametrize("name", ON_THE_HUB)
def test_hub_rows(name, hub):
    row, expected = ON_THE_HUB[name]
    hub[TABLE[name].hub.id] = [row]
    (found,) = load(name)
    assert {key: getattr(found, key) for key in expected} == expected
    assert found.id.startswith(f"{name}/")


def test_rows_that_are_not_wanted_are_left_out(hub):
    hub["PKU-Alignment/BeaverTails"] = [
        {"prompt": prompt, "response": "r", "is_safe": safe, "category": {}}
        for prompt, safe in [("p", True), ("q", False), ("q", False)]
    ]
    assert [row.prompt for row in load("beavertails")] == ["q"]


def test_any_hub_set_with_the_usual_columns(hub):
    hub["org/mine"] = [{"instruction": "p", "output": "c"}]
    assert [row.completion for row in load("hub:org/mine:validation")] == ["c"]
    load("hub:org/mine")
    hub["org/mine"] = []
    with pytest.raises(CasehardenError, match=r"^org/mine on the Hugging Face hub \(no\) has no rows"):
        load("hub:org/mine:no")
    hub["asked"].pop()
    assert hub["asked"] == [("org/mine", None, "validation"), ("org/mine", None, "train")]
    hub["org/mine"] = [{"text": "t"}]
    with pytest.raises(CasehardenError, match="org/mine, row 0: no prompt"):
        load("hub:org/mine:test")


def test_hub_out_of_reach_says_what_to_do(hub):
    with pytest.raises(
        CasehardenError, match=r"cannot load walledai/HarmBench .*Couldn't reach.*gated.*CASEHARDEN_DATA"
    ):
        load("harmbench")


def test_every_known_set_can_be_had_somehow():
    for name, source in TABLE.items():
        assert source.hub or (source.file and (source.home or source.file.path.is_file())), name
        assert not isinstance(source.hub, Hub) or source.hub.id.count("/") == 1


# ---- the real files -------------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize("name", FILED)
def test_data_folder(name, data_dir):
    found = load(name)
    assert len(found) >= 70
    assert all(row.prompt and "Answer format" not in row.prompt for row in found)
    for row in found:
        assert not row.choices or (row.answer in row.choices and all(row.choices)), row


@pytest.mark.data
def test_what_the_data_folder_says(data_dir):
    counts = {"advbench": 456, "catqa": 489, "dangerousqa": 185, "harmbench": 190, "strongreject": 292}
    assert {name: len(load(name)) for name in counts} == counts
    assert not any(row.completion for name in counts for row in load(name))
    assert all(row.opener for row in load("advbench"))
    sarah = load("winogrande")[0]
    assert (sarah.choices, sarah.answer) == (("Sarah", "Maria"), "Maria")
    assert load("boolq-train")[0].answer == "yes"
    assert load("gsm8k")[0].answer == "18"
    assert "CREATE TABLE head (age INTEGER)" in load("sqlgen")[0].prompt
