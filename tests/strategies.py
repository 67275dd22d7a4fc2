"""What Hypothesis tries where people bring files: how many examples, and values of every kind that files have.

``CASEHARDEN_EXAMPLES`` says how many examples each test takes.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

many = settings(
    max_examples=int(os.environ.get("CASEHARDEN_EXAMPLES", "25")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
"""For tests of what strangers' files can do."""

ODD = [
    "",
    " ",
    "\ufeff",
    "\0",
    "[/red]",
    "[b]",
    "..",
    "-",
    "a" * 300,
    "\ud83d",
    "é",
    "e\u0301",
    "\u202e",
    "\x1b[31m",
    "~",
]
texts = st.one_of(st.sampled_from(ODD), st.text(max_size=12), st.text(st.characters(codec=None), max_size=4))
numbers = st.one_of(st.integers(-3, 100), st.sampled_from([10**400, -(2**63)]), st.floats(), st.booleans())
values = st.recursive(
    st.none() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
"""Whatever JSON has, and text that UTF-8 has not."""
