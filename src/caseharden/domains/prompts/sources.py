"""Sources of examples, by name: a file in the data folder, or the same set on the Hugging Face hub.

The data folder is named by the environment variable ``CASEHARDEN_DATA`` (``--data-dir`` sets it).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from caseharden.data.text import shows
from caseharden.domains.prompts import formats, rows
from caseharden.domains.prompts.formats import FORMATS, Located
from caseharden.domains.prompts.rows import Parser, Row
from caseharden.errors import CasehardenError, nearest

DATA = "CASEHARDEN_DATA"
RESOURCES = Path(__file__).parent / "resources"


class Origin(Hashable, Protocol):
    """Somewhere to read rows from. A frozen dataclass, which as a text is what people call it."""

    @property
    def parse(self) -> Parser: ...

    @property
    def only(self) -> tuple[str, object] | None:
        """Take only rows whose column (the first) has this value (the second)."""
        ...

    @property
    def stamp(self) -> Hashable:
        """Changes whenever the rows do, as far as can be told without reading them."""
        ...

    def read(self) -> Located: ...


@dataclass(frozen=True)
class File:
    """A ``.jsonl``, ``.json`` (a list of objects) or ``.csv`` file."""

    path: Path
    parse: Parser = rows.usual
    only: tuple[str, object] | None = None

    @property
    def stamp(self) -> Hashable:
        status = self.path.stat()
        return status.st_mtime_ns, status.st_size

    def __str__(self) -> str:
        return str(self.path)

    def read(self) -> Located:
        return formats.read(self.path)


@dataclass(frozen=True)
class Hub:
    """A data set of the Hugging Face hub, by id; no remote code is run."""

    id: str
    config: str | None = None
    split: str = "train"
    parse: Parser = rows.usual
    only: tuple[str, object] | None = None
    stamp: Hashable = None

    def __str__(self) -> str:
        return f"{self.id} on the Hugging Face hub ({self.split})"

    def read(self) -> Located:
        import datasets

        try:
            found = datasets.load_dataset(self.id, self.config, split=self.split)
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            raise CasehardenError(
                f"cannot load {self.id} from the Hugging Face hub: {str(error).strip()} Check the connection and "
                "the name; if the set is gated, accept its terms on its page and run `hf auth login`; or set "
                f"{DATA} to a folder that has the file."
            ) from error
        return ((f"{self.id}, row {number}", row) for number, row in enumerate(found))


@dataclass(frozen=True)
class Source:
    """A known set: its file's path in the data folder, and where it is to be had otherwise."""

    file: File | None = None
    hub: Hub | None = None
    home: str = ""
    """Where to fetch the file, for a set that is not on the hub."""


def load(name: str) -> list[Row]:
    """Every example of the source `name`: one of `TABLE`, ``path/to/file.jsonl``, or ``hub:org/name[:split]``.

    A prompt that comes twice is taken once. Harmful sources carry no completions, only (AdvBench) openers.
    Raises `CasehardenError` for an unknown name, a file that is missing, empty or malformed (naming the
    line), a completion without its prompt, or a hub that cannot be reached.
    """
    origin = _locate(name)
    return list(_load(name, origin, origin.stamp))


def _locate(name: str) -> Origin:
    if name in TABLE:
        return _known(name, TABLE[name])
    if name.startswith("hub:"):
        identity, _, split = name.removeprefix("hub:").partition(":")
        return Hub(identity, split=split or "train")
    path = Path(name)
    is_read = path.suffix.lower() in FORMATS
    if os.path.isdir(name):  # which, like the others, says so of a name that is too long for a path as well
        raise CasehardenError(f"{name} is a folder. Give a {', '.join(FORMATS)} file in it.")
    if is_read and os.path.isfile(name):
        return File(path)
    if is_read:
        raise CasehardenError(f"there is no file {name}. Check the path; it is taken from {Path.cwd()}.")
    if os.path.exists(name):
        ending = f"with the ending {path.suffix}" if path.suffix else "without an ending"
        raise CasehardenError(
            f"{name} is a file {ending}, which is not read. Save it as one of {', '.join(FORMATS)}."
        )
    raise CasehardenError(
        f"there is no source {name!r}.{nearest(name, TABLE)} Or give a path to a {', '.join(FORMATS)} file, "
        "or hub:org/name[:split]."
    )


def _known(name: str, source: Source) -> Origin:
    folder = os.environ.get(DATA)
    if folder and not Path(folder).is_dir():
        raise CasehardenError(f"{DATA} is {folder}, which is no folder. Name the folder that holds the data.")
    if source.file:
        path = Path(folder or RESOURCES) / source.file.path
        if path.is_file():
            return replace(source.file, path=path)
        if not source.hub:
            raise CasehardenError(
                f"{name} is not on the hub. Fetch it from {source.home}, put it into a folder as "
                f"{source.file.path}, and set {DATA} to that folder (it is {folder or 'not set'})."
            )
    assert source.hub
    return source.hub


@lru_cache(maxsize=64)
def _load(name: str, origin: Origin, stamp: Hashable) -> tuple[Row, ...]:
    """`stamp` keeps the cache honest when a file changes."""
    found: dict[tuple[object, ...], Row] = {}
    for place, row in origin.read():
        if origin.only and row.get(origin.only[0]) != origin.only[1]:
            continue
        try:
            parsed = origin.parse(row)
        except CasehardenError as error:
            raise CasehardenError(f"{place}: {error}") from error
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise CasehardenError(
                f"{place}: this is no row of {name} ({type(error).__name__}: {error}). Fetch the set again."
            ) from error
        _check(parsed, place)
        content = (parsed.prompt, parsed.completion, parsed.choices)
        digest = hashlib.sha256(repr(content).encode()).hexdigest()[:12]
        found.setdefault(content, replace(parsed, id=f"{name}/{parsed.id or digest}"))
    if not found:
        which = f" with {origin.only[0]} = {origin.only[1]!r}" if origin.only else ""
        raise CasehardenError(f"{origin} has no rows{which}. Give a source that is not empty.")
    _refuse_repeated_ids(found.values())
    return tuple(found.values())


def _check(row: Row, place: str) -> None:
    """Raise `CasehardenError` if anything of a row is no text or shows nothing, or its prompt is empty."""
    for field in fields(row):
        value = getattr(row, field.name)
        parts = value if field.name == "choices" else [value]
        if not all(isinstance(part, str) for part in parts):
            raise CasehardenError(f"{place}: {field.name} is no text, but {value!r}. Mend it or take it out.")
        if any(part.strip() and not shows(part) for part in parts):
            raise CasehardenError(
                f"{place}: {field.name} has only characters that show nothing, {value!a}. Mend it or take it out."
            )
    if not row.prompt.strip():
        raise CasehardenError(f"{place}: the prompt is empty. Mend it or take it out.")


def _refuse_repeated_ids(examples: Iterable[Row]) -> None:
    seen: set[str] = set()
    for example in examples:
        if example.id in seen:
            raise CasehardenError(f"two rows have the id {example.id!r}. Make ids unique, or leave them out.")
        seen.add(example.id)


# ---- the known sets -------------------------------------------------------------------------------------


def _harmful(source: str) -> File:
    return File(Path("safety/harmful_prompts.jsonl"), only=("source", source))


def _xstest(label: str) -> Source:
    file = File(Path("safety/xstest_prompts.csv"), only=("label", label))
    return Source(file, Hub("walledai/XSTest", split="test", only=("label", label)))


def _choices(file: str, hub: Hub, parse: Parser = rows.options_in_instruction) -> Source:
    return Source(File(Path("capability") / file, parse), hub)


def _arc(config: str, split: str) -> Source:
    return _choices(f"{config}_{split}.json", Hub("allenai/ai2_arc", config, split, rows.lettered))


def _boolq(file: str, split: str) -> Source:
    return _choices(file, Hub("google/boolq", None, split, rows.yes_or_no), rows.true_or_false)


def _gsm8k(split: str) -> Source:
    file = File(Path(f"capability/gsm8k_{split}.jsonl"), rows.worked_sum)
    return Source(file, Hub("openai/gsm8k", "main", split, rows.worked_sum))


def _wmdp(field: str) -> Source:
    return Source(hub=Hub("cais/wmdp", f"wmdp-{field}", "test", rows.numbered))


def _benign(file: str, home: str, parse: Parser = rows.usual) -> Source:
    return Source(File(Path("benign") / file, parse), home=f"https://github.com/{home}")


TABLE: Mapping[str, Source] = {
    # harmful prompts, without completions
    "advbench": Source(
        _harmful("advbench"),
        Hub("walledai/AdvBench", parse=rows.renamed(rows.usual, target="opener")),
    ),
    "beavertails": Source(
        hub=Hub("PKU-Alignment/BeaverTails", split="30k_train", parse=rows.prompt_only, only=("is_safe", False))
    ),
    "catqa": Source(
        _harmful("catqa_en"),
        Hub(
            "declare-lab/CategoricalHarmfulQA",
            split="en",
            parse=rows.renamed(rows.usual, Question="prompt", Category="category"),
        ),
    ),
    "dangerousqa": Source(_harmful("dangerousqa"), home="https://github.com/SALT-NLP/chain-of-thought-bias"),
    "harmbench": Source(_harmful("harmbench_std"), Hub("walledai/HarmBench", "standard")),
    "strongreject": Source(_harmful("strongreject"), Hub("walledai/StrongREJECT")),
    "xstest-unsafe": _xstest("unsafe"),
    "wmdp-bio": _wmdp("bio"),
    "wmdp-chem": _wmdp("chem"),
    "wmdp-cyber": _wmdp("cyber"),
    # benign prompts
    "conversations": Source(File(RESOURCES / "conversations.jsonl")),
    "everyday": Source(File(RESOURCES / "everyday.jsonl")),
    "lookalikes": Source(File(RESOURCES / "lookalikes.jsonl")),
    "xstest-safe": _xstest("safe"),
    "gpteacher-codegen": _benign("gpteacher_codegen.json", "teknium1/GPTeacher"),
    "gpteacher-roleplay": _benign("gpteacher_roleplay.json", "teknium1/GPTeacher"),
    "mt-bench": Source(
        File(Path("benign/mt_bench_question.jsonl"), rows.first_turn),
        Hub("HuggingFaceH4/mt_bench_prompts", parse=rows.first_turn),
    ),
    "self-instruct": _benign("self_instruct_seed_tasks.jsonl", "yizhongw/self-instruct", rows.first_instance),
    "user-oriented": _benign("user_oriented_instructions.jsonl", "yizhongw/self-instruct", rows.first_instance),
    "sqlgen": Source(
        File(Path("benign/sqlgen_train.json"), rows.sql),
        Hub("b-mc2/sql-create-context", parse=rows.sql),
    ),
    # capability: the usual test split under the bare name
    "arc-challenge": _arc("ARC-Challenge", "test"),
    "arc-easy": _arc("ARC-Easy", "test"),
    "arc-easy-train": _arc("ARC-Easy", "train"),
    "boolq": _boolq("boolq_test.json", "validation"),
    "boolq-train": _boolq("boolq_train.json", "train"),
    "gsm8k": _gsm8k("test"),
    "gsm8k-train": _gsm8k("train"),
    "openbookqa": _choices(
        "openbookqa_test.json",
        Hub("allenai/openbookqa", "main", "test", rows.renamed(rows.lettered, question_stem="question")),
    ),
    "piqa": _choices("piqa_test.json", Hub("baber/piqa", None, "validation", rows.two_solutions)),
    "winogrande": _choices(
        "winogrande_test.json",
        Hub("allenai/winogrande", "winogrande_xl", "validation", rows.gap(rows.two_options)),
        rows.gap(rows.options_in_instruction),
    ),
}
