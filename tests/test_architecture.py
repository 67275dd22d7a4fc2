"""The picture of docs/architecture.md, held against the source: who may import whom, and who is in a table."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from typing_extensions import get_protocol_members

import caseharden
from caseharden import attacks, defenses, domains, engines, judges, measures
from caseharden.domains.domain import Domain
from caseharden.engines.engine import Engine
from caseharden.judges.judge import Judge
from caseharden.measures.measure import Measure
from caseharden.train.tuner import Tuner

ROOT = Path(caseharden.__file__).parent
LONGEST = 400
"""Lines of a source file."""

ARROWS: dict[str, set[str]] = {
    # what everything rests on
    "errors": set(),
    "endpoints": {"errors"},
    "data": {"errors"},
    "records": {"errors"},
    "lm": {"data", "errors"},
    # what is asked, written and scored
    "engines": {"lm", "data", "endpoints", "errors"},
    "judges": {"endpoints", "errors"},
    "measures": {"judges", "records", "engines", "lm", "data", "errors"},
    "domains": {"measures", "judges", "engines", "lm", "data", "errors"},
    # what changes weights
    "train": {"engines", "lm", "data", "errors"},
    "rl": {"train", "judges", "engines", "lm", "data", "errors"},
    "bilevel": {"train", "measures", "judges", "lm", "errors"},
    "attacks": {"rl", "train", "lm", "data", "errors"},
    "defenses": {"attacks", "bilevel", "rl", "train", "judges", "engines", "lm", "data", "errors"},
    # what is kept, and what is run, and where
    "executors": {"errors"},
    "store": {"train", "records", "judges", "lm", "errors"},
    "study": {
        *("executors", "store", "domains", "attacks", "defenses", "rl", "train", "measures", "judges"),
        *("records", "engines", "lm", "data", "errors"),
    },
    # what is made of it
    "audit": {"records", "errors"},
    "certificate": {"report", "audit", "records", "errors"},
    "report": {"audit", "records", "errors"},
    "search": {
        *("study", "store", "executors", "domains", "train", "measures", "records", "lm", "data", "errors"),
    },
    "suites": {
        *("search", "study", "store", "executors", "audit", "domains", "train", "measures", "records"),
        *("lm", "data", "errors"),
    },
    "cost": {
        *(
            "study",
            "domains",
            "bilevel",
            "train",
            "measures",
            "judges",
            "records",
            "engines",
            "lm",
            "data",
            "errors",
        ),
    },
    "api": {
        *("suites", "search", "cost", "study", "store", "domains", "train", "report", "audit", "records", "lm"),
        "errors",
    },
    "": {"api", "audit", "cost"},
    "__main__": {"cli"},
    "cli": {
        *("api", "suites", "cost", "study", "executors", "store", "report", "certificate", "audit", "records"),
        *("attacks", "defenses", "domains", "engines", "judges", "measures", "train", "lm", "errors"),
    },
}
"""Each room, and the rooms that it may import. A module is in the room with the longest name that fits its own."""

READERS = ("audit", "certificate", "report")
HEAVY = {"torch", "transformers", "peft", "accelerate", "sqlalchemy"}

KINDS = {
    attacks: Tuner,
    defenses: Tuner,
    domains: Domain,
    engines: Engine,
    judges: Judge,
    measures: Measure,
}
SOURCES = sorted(ROOT.rglob("*.py"))
ACROSS = {
    *("audit/test_simulated.py", "bilevel/test_sharded.py", "cli/test_cli.py", "report/test_browser.py"),
    "rl/test_parity.py",
}
"""Tests of a whole room, beside those of its modules."""


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(module: str) -> str:
    """The room that `module` is in; the empty name for the package's own ``__init__``."""
    inside = module.removeprefix("caseharden").removeprefix(".")
    rooms = [name for name in ARROWS if inside == name or inside.startswith(f"{name}.")]
    return max(rooms, key=len, default=inside.split(".")[0])


@cache
def imports(path: Path) -> frozenset[str]:
    """Modules that a file imports, at once or inside functions; those that only type checkers read left out."""
    return frozenset(_imported(ast.parse(path.read_text(encoding="utf-8"))))


def _imported(node: ast.AST) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        elif not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield from _imported(child)


def own(names: frozenset[str]) -> set[str]:
    """The rooms that imported names of this package lie in."""
    return {room(name) for name in names if name.startswith("caseharden.")} - {"__version__"}


def foreign(names: frozenset[str]) -> set[str]:
    """The other packages among imported names."""
    return {name.split(".")[0] for name in names} - {"caseharden"}


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_go_along_the_arrows(path):
    here = room(module_name(path))
    assert here in {"", *ARROWS}, f"there is no room {here!r}: put it into ARROWS and docs/architecture.md"
    allowed = {here} | ARROWS.get(here, set())
    assert own(imports(path)) <= allowed, f"{here} may import {sorted(allowed)} only"


def test_arrows_point_one_way():
    list(TopologicalSorter(ARROWS).static_order())  # raises CycleError otherwise


def test_what_reads_results_needs_no_model_and_no_database():
    rooms = set(READERS).union(*(ARROWS[reader] for reader in READERS))
    for path in SOURCES:
        if room(module_name(path)) in rooms:
            assert not foreign(imports(path)) & HEAVY, f"{path.name} only reads results"


@pytest.mark.parametrize("module", ["caseharden", "caseharden.cli"])
def test_neither_the_package_nor_help_waits_for_heavy_imports(module):
    code = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {*found} & (HEAVY | {"numpy", "scipy", "pydantic", "plotly", "matplotlib", "huggingface_hub"})


def test_tests_mirror_the_source():
    tests = Path(__file__).parent
    sources = {path.relative_to(ROOT).with_suffix("").as_posix() for path in ROOT.rglob("*")}
    sources |= {f"tools/{path.stem}" for path in (tests.parent / "tools").glob("*.py")}
    found = {path.relative_to(tests).as_posix() for path in tests.rglob("*/test_*.py")}
    assert {one for one in found if one.replace("test_", "").removesuffix(".py") not in sources} == ACROSS


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_a_source_file_can_be_read_at_one_sitting(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST


@pytest.mark.parametrize(("package", "protocol"), KINDS.items(), ids=lambda kind: kind.__name__.split(".")[-1])
def test_whoever_keeps_to_the_protocol_is_in_the_table(package, protocol):
    found = set()
    for path in Path(package.__file__).parent.rglob("*.py"):
        name = module_name(path)
        found |= {cls for cls in vars(importlib.import_module(name)).values() if meets(cls, protocol, name)}
    assert found == set(package.TABLE.values())


def meets(thing: object, protocol: type, module: str) -> bool:
    """Whether `thing` is a public dataclass, defined in `module`, that has all of the protocol's members."""
    if not (inspect.isclass(thing) and dataclasses.is_dataclass(thing) and thing.__module__ == module):
        return False
    members = get_protocol_members(protocol)
    return not thing.__name__.startswith("_") and members <= {*dir(thing), *thing.__dataclass_fields__}
