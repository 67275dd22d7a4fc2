"""Near duplicates between two sets of prompts, found by MinHash (Broder 1997) and checked exactly."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from datasketch import MinHash, MinHashLSH

from caseharden.data.conversation import asked
from caseharden.data.pools import ROLES, Pools
from caseharden.data.text import normalized

SHINGLE = 5
"""Characters in a shingle."""
EMPTY = MinHash(num_perm=128, hashfunc=zlib.crc32)
"""The signature of nothing; copied, since drawing its permutations costs more than filling it."""
SLACK = 0.7
"""The index is asked for this much of the threshold: it may raise false alarms, since each is checked."""


class Pair(NamedTuple):
    """Two prompts, by their places in the two sets, and the Jaccard similarity of their shingles."""

    left: int
    right: int
    similarity: float


def near_duplicates(left: Sequence[str], right: Sequence[str], threshold: float = 0.8) -> list[Pair]:
    """Every pair of a `left` and a `right` prompt at least `threshold` alike, best first for each `left` one.

    Prompts are compared as `normalized` has them. A pair just at the
    usual threshold is missed about twice in a thousand times, a closer one less often.
    """
    index = MinHashLSH(threshold=SLACK * threshold, num_perm=len(EMPTY))
    for j, text in enumerate(right):
        index.insert(j, _signature(normalized(text)))
    found = []
    for i, text in enumerate(left):
        words = normalized(text)
        pairs = [Pair(i, j, _jaccard(words, normalized(right[j]))) for j in index.query(_signature(words))]
        found += sorted((pair for pair in pairs if pair.similarity >= threshold), key=lambda p: (-p[2], p[1]))
    return found


@lru_cache(maxsize=2**14)
def _signature(words: str) -> MinHash:
    signature = EMPTY.copy()
    signature.update_batch([shingle.encode() for shingle in _shingles(words)])
    return signature


def _shingles(words: str) -> set[str]:
    return {words[i : i + SHINGLE] for i in range(max(1, len(words) - SHINGLE + 1))}


def _jaccard(left: str, right: str) -> float:
    a, b = _shingles(left), _shingles(right)
    return len(a & b) / len(a | b)


def overlaps(pools: Pools) -> int:
    """How many harmful examples, by what they speak of, are in the hands of more than one role."""
    held = [
        {normalized(e.group or asked(e.prompt)) for e in pools.pools(role).get("harmful", ())} for role in ROLES
    ]
    return len((held[0] & held[1]) | (held[0] & held[2]) | (held[1] & held[2]))
