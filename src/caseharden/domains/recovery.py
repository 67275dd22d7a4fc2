"""Refusals in the middle of an answer that has begun to comply: safety that is more than a few tokens deep."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from caseharden.data import Example

DEEPEST = 100
"""Words of the complying answer, at most, after which the model is to stop."""


def recoveries(complying: Sequence[Example], refusals: Sequence[Example]) -> Iterator[Example]:
    """Each complying answer cut after some words, then its refusal (Qi et al. 2024, arXiv 2406.05946, eq. 4).

    The first words are a prefix, read and not learned. How many is drawn evenly, from one to all but two, by
    the example's id. What is shorter than three words is left out. The two sequences go in step.
    """
    for example, refusal in zip(complying, refusals, strict=True):
        words = list(re.finditer(r"\S+", example.completion))[:DEEPEST]
        if len(words) > 2:
            last = random.Random(f"recovery/{example.id}").choice(words[:-2])
            yield replace(refusal, prefix=example.completion[: last.end()], completion=f" {refusal.completion}")
