"""The report as data: one JSON file with every curve, and how any report file gets to the disk."""

from __future__ import annotations

import errno
import json
import math
import os
import secrets
import stat
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import caseharden
from caseharden.errors import CasehardenError
from caseharden.records.results import Curve, Failure, Point, Results

FORMAT = 1
"""Counts up whenever a key of the JSON file changes its meaning or goes; new keys may come without."""

MAIN = ("harm", "utility")
"""The measures that stand by themselves at each point; the others are under ``readings``."""


def write_json(results: Results, path: str | Path) -> Path:
    """Write every curve, failure and the provenance; what is not a number is null. Returns the path.

    No prompt and no answer is in it. Raises `CasehardenError` if the file cannot be written.
    """
    document = {
        "format": FORMAT,
        "caseharden": caseharden.__version__,
        "study": results.study,
        "phi": results.phi,
        "progress": results.progress,
        "curves": [_curve(curve) for curve in results.curves],
        "failures": [{**vars(failure), **_names(failure)} for failure in results.failures],
        "provenance": results.provenance,
        "spec": results.spec,
    }
    return save(path, dumped(document))


def dumped(document: Mapping[str, Any]) -> str:
    """A document as the text of a JSON file; what is not a number is null."""
    return json.dumps(plain(document), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def plain(value: Any) -> Any:
    """The same value in what JSON has; NaN and infinities become None, unknown types their text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    return str(value)


def save(path: str | Path, content: str | bytes) -> Path:
    """Write a file whole or not at all, making the folder if need be; text as UTF-8.

    What stands at `path` stays what it is: a link is written through, a file keeps its mode, and what is no
    regular file (a pipe, a device) is written into. ``-`` is standard output. Raises `CasehardenError` if it
    cannot be written.
    """
    path = Path(path)
    data = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    try:
        if stream := standard_stream(path):
            stream.buffer.write(data)
            stream.flush()
        elif is_special(path):
            path.write_bytes(data)
        else:
            _replace(Path(os.path.realpath(path)), data)
    except OSError as error:
        raise CasehardenError(
            f"cannot write {path}: {error.strerror or error}. "
            "Name a file in a folder that you may write to, on a disk with room."
        ) from error
    return path


def standard_stream(path: Path) -> TextIO | None:
    """Standard output or error, if that is what `path` names: as ``-``, or as whatever it is connected to."""
    if str(path) == "-":
        return sys.stdout
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nothing is there, or the stream has no descriptor
            if os.path.samestat(os.stat(path), os.fstat(stream.fileno())):
                return stream
    return None


def is_special(path: Path) -> bool:
    """Whether what stands at `path` is neither a file nor a folder: a pipe, a device, standard output."""
    usual = os.path.isfile(path) or os.path.isdir(path)
    return standard_stream(path) is not None or (os.path.exists(path) and not usual)


def _replace(path: Path, data: bytes) -> None:
    """Put a file with `data` at `path`, which is no link, with mode and owner of the one that was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    old = path.lstat() if os.path.lexists(path) else None
    if old and stat.S_ISLNK(old.st_mode):  # only of links that lead to each other something is left to follow
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    mode = stat.S_IMODE(old.st_mode) if old else 0o666
    draft = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with open(draft, "xb", opener=lambda name, flags: os.open(name, flags, mode & 0o666)) as file:
            if old:
                with suppress(PermissionError):  # the owner of a file that is not ours we cannot keep
                    os.fchown(file.fileno(), old.st_uid, old.st_gid)
                os.fchmod(file.fileno(), mode)
            file.write(data)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _curve(curve: Curve) -> dict[str, Any]:
    return {
        "model": curve.model,
        "defense": curve.defense,
        "defense_fields": curve.defense_fields,
        "attack": curve.attack,
        "fields": curve.fields,
        **_names(curve),
        "seed": curve.seed,
        "cell": curve.cell,
        "watched": curve.watched,
        "t_phi": curve.t_phi,
        "censored_at": curve.censored_at,
        "points": [_point(point) for point in curve.points],
    }


def _names(run: Curve | Failure) -> dict[str, Any]:
    return {"names": {"defense": run.defense_name, "attack": run.attack_name}}


def _point(point: Point) -> dict[str, Any]:
    others = {name: vars(r) for name, r in point.readings.items() if name not in MAIN}
    return {
        "budget": point.budget,
        **{name: vars(point.readings[name]) for name in MAIN if name in point.readings},
        "readings": others,
    }
