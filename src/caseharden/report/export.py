"""The report as data: one JSON file with every curve, and how any report file gets to the disk."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

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
    """Write a file whole or not at all, making the folder if need be; text as UTF-8."""
    path = Path(path)
    draft = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(draft, path)
    except OSError as error:
        with suppress(OSError):
            draft.unlink()
        raise CasehardenError(
            f"cannot write {path}: {error.strerror or error}. "
            "Name a file in a folder that you may write to, on a disk with room."
        ) from error
    return path


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
