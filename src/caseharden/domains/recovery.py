"""Refusals in the middle of an answer that has begun to comply: safety that is more than a few tokens deep."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from caseharden.data.example import Example

LONGEST = 600
"""Characters of the complying answer, at most, that are read before the model is to stop."""


def recoveries(complying: Sequence[Example], refusals: Sequence[Example]) -> Iterator[Example]:
    """Each complying answer cut after some words, then its refusal (Qi et al. 2024, arXiv 2406.05946).

    The first words are a prefix, read and not learned. How many is drawn evenly, from one to all but two, by
    the example's id. What is shorter than three words is left out. The two sequences go in step.
    """
    for example, refusal in zip(complying, refusals, strict=True):
        ends = [word.end() for word in re.finditer(r"\S+", example.completion)][:-2]
        if within := [end for end in ends if end <= LONGEST]:
            end = random.Random(f"recovery/{example.id}").choice(within)
            yield replace(refusal, prefix=example.completion[:end], completion=f" {refusal.completion}")
