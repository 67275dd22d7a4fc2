"""What tuners and measures read: examples, the pools of a domain, and the streams drawn from them."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from functools import lru_cache

from caseharden.data.example import Example
from caseharden.errors import CasehardenError


def derive_seed(seed: int, *names: object) -> int:
    """A 63-bit seed for one purpose, independent of every other purpose under the same `seed`."""
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class Stream:
    """An endless, shuffled mixture of pools; batch `n` is a pure function of the seed and `n`.

    Being pure, it needs no state to resume. Every batch has `batch_size` examples, each drawn from the
    pool that is furthest behind its weight's share. Each pool is gone through once, in a fresh order,
    before any of its examples comes again.
    """

    def __init__(
        self, pools: Mapping[str, Sequence[Example]], weights: Mapping[str, float], batch_size: int, seed: int
    ) -> None:
        if batch_size < 1 or not weights or any(weight <= 0 for weight in weights.values()):
            raise CasehardenError(
                f"a data mix needs positive weights and a batch size of at least 1, "
                f"not {dict(weights)} and {batch_size}."
            )
        total = sum(weights.values())
        self.pools = pools
        self.shares = {name: weight / total for name, weight in weights.items()}
        self.batch_size = batch_size
        self.seed = seed
        self._drawn: list[dict[str, int]] = [dict.fromkeys(weights, 0)]  # from each pool, before batch n
        self._order = lru_cache(maxsize=2 * len(weights))(self._shuffled)

    def __getitem__(self, n: int) -> list[Example]:
        """Batch `n` (from 0)."""
        while len(self._drawn) <= n + 1:
            drawn = dict(self._drawn[-1])
            for _ in range(self.batch_size):
                so_far = sum(drawn.values()) + 1
                behind = max(self.shares, key=lambda name: self.shares[name] * so_far - drawn[name])
                drawn[behind] += 1
            self._drawn.append(drawn)
        return [
            self._item(name, index)
            for name in self.shares
            for index in range(self._drawn[n][name], self._drawn[n + 1][name])
        ]

    def _item(self, name: str, index: int) -> Example:
        epoch, place = divmod(index, len(self.pools[name]))
        return self.pools[name][self._order(name, epoch)[place]]

    def _shuffled(self, name: str, epoch: int) -> list[int]:
        order = list(range(len(self.pools[name])))
        random.Random(derive_seed(self.seed, "stream", name, epoch)).shuffle(order)
        return order
