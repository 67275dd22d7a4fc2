"""Errors that a user can act on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CasehardenError(Exception):
    """Something a user can put right. The message says what is wrong and what to do."""


class TrainingFailed(CasehardenError):
    """A tuner could not go on (a loss that is not finite, say). Never evidence of resistance."""


class NotSharded(CasehardenError):
    """What cannot be done over several processes was asked of them. In one process it can: no cell is to blame."""


DIVERGED = "Lower the learning rate or clip gradients. This run is a failure, not evidence of resistance."
"""What to do about a `TrainingFailed` that comes of numbers growing without bound."""


def nearest(word: str, known: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` for a misspelt word, then the words that are known."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    guess = f" Did you mean {close[0]!r}?" if close else ""
    return f"{guess} Known: {', '.join(names) or 'none'}."
