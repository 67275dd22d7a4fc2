"""Text as people bring it: whether it is whole, and what of it counts when two texts are compared."""

from __future__ import annotations


def is_text(text: str) -> bool:
    """Whether `text` can be written as UTF-8: no half of a character (a lone surrogate) is in it."""
    return not any("\ud800" <= c <= "\udfff" for c in text)
