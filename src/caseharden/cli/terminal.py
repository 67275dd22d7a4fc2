"""Where commands print: terminals and pipes of any width and any encoding."""

from __future__ import annotations

import codecs
import os
import sys
import unicodedata

from rich.console import Console

PLAIN = {
    **dict.fromkeys("–—−─━", "-"),
    **dict.fromkeys("‘’", "'"),
    **dict.fromkeys("“”", '"'),
    "→": "->",
    "×": "x",
    "·": "|",
    "…": "...",
    "≤": "<=",
    "≥": ">=",
    "∞": "inf",
    "φ": "phi",
    "θ": "theta",
    "α": "alpha",
}
"""What is written where the terminal has no such sign."""
AS_IT_IS = 100_000
"""Columns of what is no terminal: more than any line has."""


def console(*, stderr: bool = False) -> Console:
    """As wide as the terminal; where there is none, as wide as ``COLUMNS`` says, or as any line needs."""
    made = Console(stderr=stderr, soft_wrap=False, emoji=False)
    if not made.file.isatty() and "COLUMNS" not in os.environ:
        made.width = AS_IT_IS
    return made


def write_anything() -> None:
    """Let standard output and errors write whatever they are given, in the signs that their encoding has."""
    codecs.register_error("caseharden", _in_plain_signs)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="caseharden")


def _in_plain_signs(error: UnicodeError) -> tuple[str, int]:
    """A sign that stands for it, its letter without accents, or its number: nothing is left out."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    sign = error.object[error.start]
    letters = unicodedata.normalize("NFKD", sign)
    plain = PLAIN.get(sign) or "".join(c for c in letters if not unicodedata.combining(c))
    return plain if plain.isascii() and plain else ascii(sign)[1:-1], error.start + 1
