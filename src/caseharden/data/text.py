"""Text as people bring it: whether it is whole, and what of it counts when two texts are compared."""

from __future__ import annotations

import re
import unicodedata
from functools import cache

NOTHING = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u2800\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8\U000e0000-\U000e0fff]"
)
"""Characters that show nothing, though their category does not say so: fillers, selectors, places kept for more."""

ACCENTS = re.compile(
    "[\u0300-\u036f\u0483-\u0489\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed\u0711\u0730-\u074a"
    "\u08ca-\u08ff\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ua66f-\ua67d\ua69e\ua69f\ufb1e\ufe20-\ufe2f]"
)
"""Ranges of marks that a text may do without: of Latin, Greek and Cyrillic, and points of Semitic scripts.

The marks of other scripts, of India and Thailand among them, are vowels or sounds of their own.
"""


def is_text(text: str) -> bool:
    """Whether `text` can be written as UTF-8: no half of a character (a lone surrogate) is in it."""
    return not any("\ud800" <= c <= "\udfff" for c in text)


def shows(text: str) -> bool:
    """Whether anything of `text` can be seen: not only space, controls, joiners and their like are in it."""
    return any(not c.isspace() and unicodedata.category(c) not in ("Cc", "Cf") for c in NOTHING.sub("", text))


def normalized(text: str) -> str:
    """`text` in lower case, its words one space apart, nothing else; letters as what they look like.

    Texts that only look different come out the same: composed or not, in full width, with accents or without, with
    characters that show nothing (soft hyphens, joiners) or with letters of other alphabets among them. A text
    without words is what else it has: symbols, punctuation.
    """
    if not text.isascii():
        parts = unicodedata.normalize("NFKD", NOTHING.sub("", text))
        kept = (c for c in parts if unicodedata.category(c) != "Cf" and not (_is_mark(c) and ACCENTS.match(c)))
        text = unicodedata.normalize("NFKC", "".join(kept).casefold()).translate(_look_alikes())
    words = "".join(c if c.isalnum() or c == "_" or _is_mark(c) else " " for c in text.lower()).split()
    return " ".join(words or text.lower().split())


def _is_mark(character: str) -> bool:
    return unicodedata.category(character)[0] == "M"


@cache
def _look_alikes() -> dict[int, str]:
    """What letters of other alphabets look like in ASCII, by themselves or as capitals, after Unicode's TR 39."""
    from confusable_homoglyphs.confusables import confusables_data  # large: read where it is needed

    plain = {
        letter: alike["c"].lower()
        for letter, likes in confusables_data.items()
        for alike in likes
        if len(letter) == 1 and not letter.isascii() and alike["c"].isascii() and not _is_mark(letter)
        if alike["c"].isalnum() or unicodedata.category(letter) not in ("Lo", "Nd")  # no letter becomes a dot
    }
    small = {letter.lower(): alike for letter, alike in plain.items() if len(letter.lower()) == 1}
    return {ord(letter): alike for letter, alike in (small | plain).items()}
