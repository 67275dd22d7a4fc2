"""From a row of somebody's data set to an example: what its columns mean."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from caseharden.data.conversation import Conversation, Turn
from caseharden.data.example import Example
from caseharden.data.text import shows
from caseharden.domains.prompts.formats import decoded
from caseharden.errors import CasehardenError


@dataclass(frozen=True)
class Row(Example):
    """An example as its source has it: with an affirmative first line, `opener`, where there is one."""

    opener: str = ""

    @property
    def complying(self) -> Example:
        """With as much of a complying answer as there is: the completion, or the opener."""
        return replace(self, completion=self.completion or self.opener)


Parser = Callable[[Mapping[str, Any]], Row]
"""Raises `CasehardenError`, `KeyError`, `IndexError`, `TypeError` or `ValueError` if a row is not of its kind."""

PROMPT = ("prompt", "instruction", "question")
COMPLETION = ("completion", "response", "output")
TOPIC = ("topic", "category", "type")


def usual(row: Mapping[str, Any]) -> Row:
    """The usual columns: a prompt under any of its names, the others where there are any."""
    prompt, completion = prompt_of(row), _completion(row)
    if not prompt:
        what = "a completion without its prompt" if completion else f"no prompt (columns: {', '.join(row)})"
        raise CasehardenError(f"{what}. Give each row a {' or '.join(map(repr, PROMPT))}.")
    given, answer, choices = _first(row, "input"), _first(row, "answer"), _choices(row)
    if given and isinstance(prompt, Conversation):
        raise CasehardenError(
            "an input beside a prompt of several turns. Write it into the turn that it belongs to."
        )
    if choices and answer not in choices:
        raise CasehardenError(f"the answer {answer!r} is none of the choices. Write it as the choice is written.")
    return Row(
        id=_first(row, "id", "question_id"),
        prompt=f"{prompt}\n\n{given}" if given else prompt,
        completion=completion,
        answer=answer,
        topic=_first(row, *TOPIC),
        choices=choices,
        opener=_first(row, "opener"),
    )


def renamed(parse: Parser, **columns: str) -> Parser:
    """`parse`, for a set that calls its columns otherwise: ``theirs="ours"``."""
    return lambda row: parse({columns.get(name, name): value for name, value in row.items()})


def prompt_only(row: Mapping[str, Any]) -> Row:
    """The prompt alone, of a set whose completions may be harmful; a topic from flags, as BeaverTails has them."""
    flags = row.get("category")
    topic = next((name for name, is_on in flags.items() if is_on), "") if isinstance(flags, Mapping) else flags
    return Row(id="", prompt=prompt_of(row), topic=topic or "")


def first_turn(row: Mapping[str, Any]) -> Row:
    """The first question of a conversation (MT-Bench)."""
    turns = row.get("turns") or row["prompt"]
    return usual({**row, "prompt": texts(turns, "turns")[0]})


def first_instance(row: Mapping[str, Any]) -> Row:
    """A task with its first instance (Self-Instruct)."""
    return usual({**row, **row["instances"][0]})


def sql(row: Mapping[str, Any]) -> Row:
    """A question about tables and the query that answers it; columns of either copy of sql-create-context."""
    if "input" in row:
        question, context = re.findall(r"## [^\n]+:\n(.+?)\n(?=## |\Z)", row["input"], re.DOTALL)
        query = row["output"]
    else:
        question, context, query = row["question"], row["context"], row["answer"]
    task = "Write an SQL query that answers the question."
    prompt = f"{task}\n\nQuestion: {question.strip()}\n\nTables: {context.strip()}"
    return Row(id="", prompt=prompt, completion=query, answer=query)


def worked_sum(row: Mapping[str, Any]) -> Row:
    """A word problem with its worked solution (GSM8K); the answer is the number after ``####``."""
    solution = re.sub(r"<<[^>]*>>", "", row["answer"])
    number = solution.split("####")[1].strip().replace(",", "")
    return Row(id="", prompt=row["question"], completion=solution, answer=number)


# ---- multiple choice ------------------------------------------------------------------------------------


def options_in_instruction(row: Mapping[str, Any]) -> Row:
    """Options in the instruction: ``…: QUESTION Answer1: … Answer2: … Answer format: answer1/answer2``."""
    body, labels = _instruction(row)
    question, *options = re.split(rf"\s*\b(?:{'|'.join(labels)}):", body, flags=re.IGNORECASE)
    if len(options) != len(labels):
        raise ValueError(f"{len(options)} options for {len(labels)} labels")
    return choice(question, options, labels.index(row["answer"]))


def true_or_false(row: Mapping[str, Any]) -> Row:
    """A yes-or-no question written out in the instruction."""
    return yes_or_no({"question": _instruction(row)[0], "answer": row["answer"] == "true"})


def yes_or_no(row: Mapping[str, Any]) -> Row:
    """A question with a truth value (BoolQ); its passage is left out."""
    question = row["question"].strip()
    return choice(question[:1].upper() + question[1:].rstrip("?") + "?", ("yes", "no"), 0 if row["answer"] else 1)


def numbered(row: Mapping[str, Any]) -> Row:
    """Options in a list, the right one by its number from 0 (WMDP)."""
    return choice(row["question"], row["choices"], int(row["answer"]))


def lettered(row: Mapping[str, Any]) -> Row:
    """Options with labels, the right one by its label (ARC, OpenBookQA)."""
    options = row["choices"]
    return choice(row["question"], options["text"], options["label"].index(row["answerKey"]))


def two_solutions(row: Mapping[str, Any]) -> Row:
    """A goal and two ways to it (PIQA)."""
    return choice(row["goal"], (row["sol1"], row["sol2"]), int(row["label"]))


def two_options(row: Mapping[str, Any]) -> Row:
    """A sentence with a gap and two words for it (WinoGrande)."""
    return choice(row["sentence"], (row["option1"], row["option2"]), int(row["answer"]) - 1)


def gap(parse: Parser) -> Parser:
    """`parse`, for sentences with a gap: the prompt says what to do."""

    def with_task(row: Mapping[str, Any]) -> Row:
        sentence = parse(row)
        return replace(sentence, prompt=f"Which word belongs in the gap (_)? {sentence.prompt}")

    return with_task


def choice(question: str, options: Any, right: int) -> Row:
    """A question with its options; the right one is the answer, and the completion to learn."""
    choices = texts(options, "choices")
    if not 0 <= right < len(choices):
        raise CasehardenError(f"the right option has number {right} of {len(choices)}, counted from 0. Mend it.")
    return Row(id="", prompt=question.strip(), completion=choices[right], answer=choices[right], choices=choices)


def _instruction(row: Mapping[str, Any]) -> tuple[str, list[str]]:
    """What stands between ``…: `` and ``Answer format:``, and the labels after it."""
    body, labels = row["instruction"].rsplit("Answer format:", 1)
    return body.split(": ", 1)[1].strip(), labels.strip().split("/")


# ---- cells ----------------------------------------------------------------------------------------------


def prompt_of(row: Mapping[str, Any]) -> str:
    """The prompt under any of its names; a list of messages is one user's text, or a `Conversation`."""
    name, value = _cell(row, PROMPT)
    if not isinstance(value, list):
        return text(value, name)
    said = [turn(message, name) for message in value]
    speakers = [who for who, _ in said]
    wanted = ["system"][: speakers.count("system")]
    wanted += ["user", "assistant"] * len(said)
    if speakers != wanted[: len(said)] or speakers[-1:] != ["user"]:
        raise CasehardenError(
            f"{name} has the turns {', '.join(speakers) or 'of nobody'}. A prompt is one user's turn, or turns of "
            "system (at most one, first), user and assistant in turns, of which the user has the last; an answer "
            f"belongs into {COMPLETION[0]!r}."
        )
    return said[0][1] if speakers == ["user"] else Conversation(said)


def turn(message: Any, name: str) -> Turn:
    """One message, ``{"role": …, "content": …}``; its content may be a list of parts that are text."""
    if not isinstance(message, Mapping):
        raise CasehardenError(f"{name} has {_kind(message)} where a message, {{role, content}}, belongs. Mend it.")
    given = {key: value for key, value in message.items() if value is not None}
    who, content = given.pop("role", None), given.pop("content", None)
    if who not in ("system", "user", "assistant") or given:
        raise CasehardenError(
            f"{name} has a message of {who!r} with {', '.join(given) or 'nothing else'}. Messages are "
            "{role, content}, of system, user or assistant."
        )
    if isinstance(content, list):
        parts = [part if isinstance(part, Mapping) else {} for part in content]
        if any(part.get("type") != "text" for part in parts):
            raise CasehardenError(f"{name} has a message with parts that are not text. Leave the row out.")
        content = "".join(text(part.get("text"), name) for part in parts)
    if not shows(said := text(content, name)):
        raise CasehardenError(f"{name} has an empty message of {who}. Give it content, or leave it out.")
    return who, said


def _completion(row: Mapping[str, Any]) -> str:
    """The completion under any of its names; a list of messages has to be one of the assistant."""
    name, value = _cell(row, COMPLETION)
    if not isinstance(value, list):
        return text(value, name)
    said = [turn(message, name) for message in value]
    if [who for who, _ in said] != ["assistant"]:
        raise CasehardenError(f"{name} has {len(said)} messages. Give one of the assistant, or a text.")
    return said[0][1]


def _choices(row: Mapping[str, Any]) -> tuple[str, ...]:
    _, value = _cell(row, ("choices",))
    if isinstance(value, str):
        try:
            value = decoded(value, "choices")
        except CasehardenError as error:
            raise CasehardenError(
                f'{error} A list in a cell is written as in JSON, ["one", "another"], its quotation marks doubled.'
            ) from error
    return texts(value, "choices") if value else ()


def texts(value: Any, name: str) -> tuple[str, ...]:
    """A list of texts; a text is none, though Python goes through it as one."""
    if not isinstance(value, list | tuple):
        raise CasehardenError(f"{name} is {_kind(value)}. Give a list of texts.")
    return tuple(text(item, name) for item in value)


def text(value: Any, name: str) -> str:
    """A text, without space around it; a number as text, nothing as the empty one."""
    number = isinstance(value, float) and math.isfinite(value)
    number |= isinstance(value, int) and not isinstance(value, bool)
    if not (value is None or isinstance(value, str) or number):
        raise CasehardenError(f"{name} is {_kind(value)}. Give a text.")
    return "" if value is None else str(value).strip()


def _kind(value: Any) -> str:
    """What kind of thing stands where a text belongs, in words."""
    shown = repr(value) if len(repr(value)) < 40 else f"{repr(value)[:40]}…"
    return f"{shown} ({type(value).__name__})"


def _cell(row: Mapping[str, Any], names: tuple[str, ...]) -> tuple[str, Any]:
    """The first of `names` under which something stands, and what that is.

    Names are read without case, and without the space around them. Raises `CasehardenError` if two columns have
    these names and do not say the same.
    """
    found = [(name, value) for name, value in row.items() if name.strip().lower() in names and not _is_blank(value)]
    found.sort(key=lambda cell: names.index(cell[0].strip().lower()))
    name, value = found[0] if found else (names[0], None)
    for other, also in found[1:]:
        if _stripped(also) != _stripped(value):
            raise CasehardenError(
                f"{name!r} and {other!r} are two columns for one thing, {names[0]}, and say different things. "
                "Rename or drop one of them."
            )
    return name.strip().lower(), value


def _stripped(value: Any) -> Any:
    return value.strip() if isinstance(value, str) else value


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _first(row: Mapping[str, Any], *names: str) -> str:
    """The text under the first of `names` that has any; the others may say something else."""
    cells = (_cell(row, (name,)) for name in names)
    return next(filter(None, (text(value, name) for name, value in cells)), "")
