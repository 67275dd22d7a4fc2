"""What decides a result: no package may be forgotten."""

from __future__ import annotations

import sys

from caseharden import engines
from caseharden.study.provenance import DECIDES_NOTHING, DECIDING, packages
from test_architecture import SOURCES, foreign, imports, module_name, room

INDIFFERENT = {
    *("numpy", "scipy"),  # intervals
    *("sentence_transformers", "openai"),  # judges, whose versions say so; and the client of a server
    *("safetensors", "datasets", "datasketch", "huggingface_hub"),  # what was read has a fingerprint
    "confusable_homoglyphs",  # whose prompt is whose: every role's examples are in the data's fingerprint
    *("yaml", "pydantic", "pydantic_core", "typing_extensions"),  # specs, whose every field is in the key
    *("sqlalchemy", "filelock", "platformdirs", "psutil"),  # where results are kept, and by whom
}
"""Packages that rooms that decide results use, and whose version decides none."""
OF_ENGINES = {name for name, engine in engines.TABLE.items() if hasattr(engine, "version")}
"""Packages that an engine bears the name of, and whose version is in the key as its own."""


def test_every_package_that_decides_results_is_in_the_key():
    used = {
        name
        for path in SOURCES
        if room(module_name(path)) not in {*DECIDES_NOTHING, ""}
        for name in foreign(imports(path)) - set(sys.stdlib_module_names)
    }
    assert used - INDIFFERENT - OF_ENGINES <= {*DECIDING}
    assert {"torch", "schedulefree", "peft", "transformers"} <= used
    assert {*packages()} == {*DECIDING}
