"""Words and numbers of a text, as exact judges compare them."""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal

HYPHENS = dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d"), "-")
"""Characters that are written for a minus sign, to the one that is read as such."""
NUMBER = r"""
    (?P<sign>(?<![\w)-])-(?=[$€£¥]?\.?\d))?     # a minus sign, unless it subtracts, joins words or is a dash
    [$€£¥]?
    (?P<digits>(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<!\w)\.\d+)
"""
LAST = re.compile(NUMBER, re.VERBOSE)
WORD = re.compile(
    rf"""
      (?<![^\W_]){NUMBER}(?![^\W_])             # 3.5 is not 3 and 5, and -5 is not 5
    | [^\W_]+(?:[+#]+(?![^\W_]))?               # C++ and C# are not C
    | [^\w\s.,$€£¥-]+                           # other symbols are words of their own
    """,
    re.VERBOSE,
)
KEPT = "#%&@/^.,-$€£¥"
"""Characters that may carry meaning, besides letters, digits and mathematical and other symbols."""


def words(text: str) -> list[str]:
    """The words of `text` in lower case, numbers with their signs and meaningful symbols among them.

    Punctuation, currency signs, thousands separators and Markdown's marks are left out.
    """
    plain = "".join(c if _means_something(c) else " " for c in text.lower().translate(HYPHENS))
    return [_number(found) if found["digits"] else found[0] for found in WORD.finditer(plain)]


def last_number(text: str) -> Decimal | None:
    """The last number written in digits in `text`, None if there is none."""
    found = list(LAST.finditer(text.translate(HYPHENS)))
    return Decimal(_number(found[-1])) if found else None


def _number(found: re.Match[str]) -> str:
    digits = found["digits"].replace(",", "")
    return (found["sign"] or "") + ("0" + digits if digits.startswith(".") else digits)


def _means_something(character: str) -> bool:
    return character.isalnum() or character in KEPT or unicodedata.category(character) in ("Sm", "So")
