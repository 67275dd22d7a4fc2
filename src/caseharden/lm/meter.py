"""Meter: how many tokens went through a model, with gradient and without."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from caseharden.lm.placement import ALONE, Placement

T = TypeVar("T")


@dataclass(frozen=True)
class Tokens:
    """Real tokens, padding left out: `trained` with gradient (forward and backward), `read` without."""

    trained: int
    read: int

    def __sub__(self, other: Tokens) -> Tokens:
        return Tokens(self.trained - other.trained, self.read - other.read)


class Meter:
    """Counts the tokens of forward passes that go through it.

    A token counts as often as it is computed: a prompt that several answers share, once; an answer that is
    written and then scored, twice. Sums stay on the device until they are asked for, so that counting waits
    for nothing. Of a sharded run they are the processes' means, so that what they share out counts once: see
    `Placement`.
    """

    def __init__(self, placement: Placement = ALONE) -> None:
        self.placement = placement
        self.weight = 1
        self._trained: Tensor | int = 0
        self._read: Tensor | int = 0

    def through(self, model: Callable[..., Any], **inputs: Any) -> Any:
        """What `model` makes of its inputs, `input_ids` and `attention_mask` among them, tokens counted.

        A mask wider than the ids has the cache before them, which is not computed again.
        """
        out = model(**inputs)
        count = inputs["attention_mask"][:, -inputs["input_ids"].shape[1] :].sum() * self.weight
        if out[0].requires_grad:
            self._trained = self._trained + count
        else:
            self._read = self._read + count
        return out

    def parts(self, parts: Iterable[T]) -> Iterator[tuple[T, int]]:
        """Those of a batch's parts that this process is to take, each with how often it counts: see `Placement`.

        A part is to be gone through before the next is asked for: its tokens are counted as often as it is.
        """
        try:
            for part, weight in self.placement.mine(parts):
                self.weight = weight
                yield part, weight
        finally:
            self.weight = 1

    def read(self, tokens: int) -> None:
        """Count tokens that went through a model out of its sight, without gradient."""
        self._read = self._read + tokens

    @property
    def tokens(self) -> Tokens:
        """All that were counted so far."""
        trained, read = self.placement.mean([int(self._trained), int(self._read)])
        return Tokens(round(trained), round(read))
