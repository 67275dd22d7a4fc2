"""From a row of somebody's data set to an example: what its columns mean."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from caseharden.data.example import Example
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
    prompt, completion = _first(row, PROMPT), _first(row, COMPLETION)
    if not prompt:
        what = "a completion without its prompt" if completion else f"no prompt (columns: {', '.join(row)})"
        raise CasehardenError(f"{what}. Give each row a {' or '.join(map(repr, PROMPT))}.")
    given, answer, choices = _first(row, ("input",)), _first(row, ("answer",)), tuple(row.get("choices") or ())
    if choices and answer not in choices:
        raise CasehardenError(f"the answer {answer!r} is none of the choices. Write it as the choice is written.")
    return Row(
        id=_first(row, ("id", "question_id")),
        prompt=f"{prompt}\n\n{given}" if given else prompt,
        completion=completion,
        answer=answer,
        topic=_first(row, TOPIC),
        choices=choices,
        opener=_first(row, ("opener",)),
    )


def renamed(parse: Parser, **columns: str) -> Parser:
    """`parse`, for a set that calls its columns otherwise: ``theirs="ours"``."""
    return lambda row: parse({columns.get(name, name): value for name, value in row.items()})


def prompt_only(row: Mapping[str, Any]) -> Row:
    """The prompt alone, of a set whose completions may be harmful; a topic from flags, as BeaverTails has them."""
    flags = row.get("category")
    topic = next((name for name, is_on in flags.items() if is_on), "") if isinstance(flags, Mapping) else flags
    return Row(id="", prompt=_first(row, PROMPT), topic=topic or "")


def first_turn(row: Mapping[str, Any]) -> Row:
    """The first question of a conversation (MT-Bench)."""
    turns = row.get("turns") or row["prompt"]
    return usual({**row, "prompt": turns[0]})


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
    choices = tuple(option.strip() for option in options)
    return Row(id="", prompt=question.strip(), completion=choices[right], answer=choices[right], choices=choices)


def _instruction(row: Mapping[str, Any]) -> tuple[str, list[str]]:
    """What stands between ``…: `` and ``Answer format:``, and the labels after it."""
    body, labels = row["instruction"].rsplit("Answer format:", 1)
    return body.split(": ", 1)[1].strip(), labels.strip().split("/")


def _first(row: Mapping[str, Any], names: tuple[str, ...]) -> str:
    return next((str(row[name]).strip() for name in names if row.get(name) not in (None, "")), "")
