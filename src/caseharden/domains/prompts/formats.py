"""From the text of a file to its rows, each with its place for messages."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from caseharden.data.text import is_text
from caseharden.errors import CasehardenError

Located = Iterator[tuple[str, Mapping[str, Any]]]
"""Rows as they are in a set, each with its place for messages."""


OTHER_SEPARATORS = {"\t": "tabs", ";": "semicolons", "|": "vertical bars"}


def read(path: Path) -> Located:
    """The rows of a ``.jsonl``, ``.json`` (a list of objects) or ``.csv`` file, in UTF-8, with or without its mark.

    Raises `CasehardenError` for what cannot be read whole, and says where.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CasehardenError(f"cannot read {path}: {error}. Give a text file in UTF-8.") from error
    return FORMATS[path.suffix.lower()](path, text)


def _jsonl(path: Path, text: str) -> Located:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            place = f"{path}:{number}"
            try:
                found = decoded(line, place)
            except CasehardenError as error:
                if _goes_on_over_lines(text):
                    raise CasehardenError(
                        f"{place}: what begins here goes on over several lines. Write one object on each line, or "
                        "give a list of objects the ending .json."
                    ) from error
                raise
            if not isinstance(found, dict):
                raise CasehardenError(
                    f'{place}: this is no JSON object. Write {{"prompt": …}} on each line, or give a list of '
                    "objects the ending .json."
                )
            yield place, found


def _goes_on_over_lines(text: str) -> bool:
    """Whether the first thing in `text` is JSON on several lines, as a file has it that people are to read."""
    text = text.strip()
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return False
    return "\n" in text[:end]


def _json(path: Path, text: str) -> Located:
    found = decoded(text, str(path), whole=True)
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise CasehardenError(f"{path} is no list of objects. Give one, or a .jsonl file with one object a line.")
    return ((f"{path}, row {number}", row) for number, row in enumerate(found))


def _csv(path: Path, text: str) -> Located:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    try:
        with _fields_of_any_length(text):
            header = reader.fieldnames or ()
            if len(header) == 1 and (other := next((c for c in OTHER_SEPARATORS if c in header[0]), "")):
                raise CasehardenError(
                    f"{path}:1: the columns are separated by {OTHER_SEPARATORS[other]}. Save the file with commas "
                    "between them, and texts that have commas in quotation marks."
                )
            if len({*header}) < len(header):
                raise CasehardenError(f"{path}:1: a column comes twice in the header. Rename or drop one of them.")
            found = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise CasehardenError(
            f"{path}:{reader.line_num + 1}: this is not CSV ({error}). Double the quotation marks inside a cell, "
            "and close it; if the file was cut off, fetch it again."
        ) from error
    for number, row in found:
        if None in row or None in row.values():
            raise CasehardenError(
                f"{path}:{number}: this row has not as many columns as the header. Quote commas in it, "
                "or fetch the file again if it was cut off."
            )
        yield f"{path}:{number}", row


FORMATS: Mapping[str, Callable[[Path, str], Located]] = {".jsonl": _jsonl, ".json": _json, ".csv": _csv}


@contextmanager
def _fields_of_any_length(text: str) -> Iterator[None]:
    """Lift the bound of the csv module, which is one for the whole process, as far as `text` may need."""
    before = csv.field_size_limit()
    csv.field_size_limit(max(before, len(text)))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def decoded(text: str, place: str, *, whole: bool = False) -> Any:
    """What a JSON text says, fractions as they are written. Raises `CasehardenError` for what cannot be kept so.

    `whole` says that it is all of a file, which may be meant as JSON lines.
    """
    try:
        found = json.loads(text, object_pairs_hook=_each_once, parse_float=str)
        if "\\u" in text and not is_text(json.dumps(found, ensure_ascii=False)):
            raise ValueError("half of a character, a lone surrogate, is in it")
        return found
    except json.JSONDecodeError as error:
        said = re.sub(r"( starting)? at$", "", error.msg)
        where = f"line {error.lineno}, column {error.colno}" if whole else f"column {error.colno}"
        lines = " One object on each line is read from a .jsonl file." if whole and said == "Extra data" else ""
        raise CasehardenError(
            f"{place}: this is not JSON ({said} at {where}).{lines} If the file was cut off, fetch it again; "
            "otherwise mend or take out what is there."
        ) from error
    except (ValueError, RecursionError) as error:
        raise CasehardenError(f"{place}: this cannot be read ({error}). Mend it or take it out.") from error


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key comes twice in one object")
    return found
