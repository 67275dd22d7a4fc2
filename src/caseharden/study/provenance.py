"""What it takes to believe a number, or to get it again: code, packages, machine."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import os
import platform
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import caseharden
from caseharden.errors import CasehardenError
from caseharden.train.optim import EXTRAS, Descends

DECIDING = ("torch", "transformers", "peft", "tokenizers", "schedulefree", "jinja2")
"""Packages whose version is part of every cell's key.

Jinja writes prompts by the chat template. The packages of judges are in judges' versions, what was read of files in
the fingerprints of weights and data. NumPy and SciPy make intervals only, which stored answers give again.
"""
DECIDES_NOTHING = (
    "__init__.py",
    "__main__.py",
    "api.py",
    "audit",
    "certificate",
    "cli",
    "cost",
    "executors",
    "report",
    "search",
    "suites",
)
"""Rooms and files that only show what others found, or say what is run, or where: cells' own inputs hold that."""


def packages() -> dict[str, str]:
    """Versions of the packages that decide results."""
    return {name: version(name) for name in DECIDING}


def optimizers(methods: Iterable[Descends]) -> dict[str, str]:
    """Versions of the packages that these methods' optimizers come from, where those are extras."""
    return {name: version(name) for name in sorted({EXTRAS.get(one.optimizer, "") for one in methods} - {""})}


@cache
def code() -> str:
    """SHA-256 over the package's sources that decide results."""
    root = Path(caseharden.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if name.parts[0] not in DECIDES_NOTHING:
            digest.update(f"{name.as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def foreign_code(value: Any) -> dict[str, str]:
    """SHA-256 of the modules of every class in `value`, at any depth, that is not of this package.

    Raises `CasehardenError` if a class was not defined in a file.
    """
    if isinstance(value, Mapping | tuple):
        parts = value.values() if isinstance(value, Mapping) else value
        return {name: found for part in parts for name, found in foreign_code(part).items()}
    if not dataclasses.is_dataclass(value):
        return {}
    found = foreign_code(tuple(getattr(value, field.name) for field in dataclasses.fields(value)))
    module = inspect.getmodule(type(value))
    if module is not None and module.__name__.split(".")[0] != caseharden.__name__:
        try:
            source = inspect.getsource(module)
        except (OSError, TypeError):  # a notebook, or an interpreter's prompt
            raise CasehardenError(
                f"{type(value).__name__} is defined in {module.__name__!r}, which is no file, so nobody could tell "
                "its results from those of a later version. Put it into a module of its own and import it."
            ) from None
        found[module.__name__] = hashlib.sha256(source.encode()).hexdigest()
    return found


def host(device: torch.device, threads: int | None) -> dict[str, str | int]:
    """The machine, without names or paths, and how many threads PyTorch has on it; None is as many as it takes."""
    here = device.type == "cuda" and torch.cuda.is_available()  # it may be another machine's
    accelerator = torch.cuda.get_device_name(device) if here else "none"
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "cores": os.cpu_count() or 0,
        "threads": threads or torch.get_num_threads(),
        "accelerator": accelerator,
    }
