"""Text as people bring it: whether it is whole, and what of it counts when two texts are compared."""

from __future__ import annotations

import re
import unicodedata
from functools import cache

NOTHING = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u2800\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8\U000e0000-\U000e0fff]"
)
"""Characters that show nothing, though their category does not say so: fillers, selectors, places kept for more."""


def is_text(text: str) -> bool:
    """Whether `text` can be written as UTF-8: no half of a character (a lone surrogate) is in it."""
    return not any("\ud800" <= c <= "\udfff" for c in text)


def shows(text: str) -> bool:
    """Whether anything of `text` can be seen: not only space, controls, joiners and their like are in it."""
    return any(not c.isspace() and unicodedata.category(c) not in ("Cc", "Cf") for c in NOTHING.sub("", text))


def normalized(text: str) -> str:
    """`text` in lower case, its words one space apart, nothing else; letters as what they look like.

    Texts that only look different come out the same: composed or not, in full width, with accents or without, with
    characters that show nothing (soft hyphens, joiners) or with letters of other alphabets among them.
    """
    if not text.isascii():
        parts = unicodedata.normalize("NFKD", NOTHING.sub("", text))
        kept = (c for c in parts if unicodedata.category(c) not in ("Mn", "Mc", "Me", "Cf"))
        text = unicodedata.normalize("NFKC", "".join(kept).casefold()).translate(_look_alikes())
    return " ".join(re.findall(r"\w+", text.lower()))


@cache
def _look_alikes() -> dict[int, str]:
    """What letters of other alphabets look like in ASCII, by themselves or as capitals, after Unicode's TR 39."""
    from confusable_homoglyphs.confusables import confusables_data  # large: read where it is needed

    plain = {
        letter: alike["c"].lower()
        for letter, likes in confusables_data.items()
        for alike in likes
        if len(letter) == 1 and not letter.isascii() and alike["c"].isascii()
    }
    small = {letter.lower(): alike for letter, alike in plain.items() if len(letter.lower()) == 1}
    return {ord(letter): alike for letter, alike in (small | plain).items()}
