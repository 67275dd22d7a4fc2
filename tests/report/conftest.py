"""Results for reports to show."""

from __future__ import annotations

import pytest

from caseharden.records.results import Failure, Results, Traits
from kiln import PHI, kiln


@pytest.fixture(scope="session")
def results() -> Results:
    """A study with everything in it (see `kiln`)."""
    return kiln()


@pytest.fixture
def empty() -> Results:
    """A study whose every cell failed."""
    failure = Failure("m", "tar", "sft", {"lr": 1.0}, 0, "out of memory", traits=Traits({}))
    return Results("nothing yet", PHI, "", {}, (), (failure,), (), {"done": 0, "failed": 1, "missing": 0})
