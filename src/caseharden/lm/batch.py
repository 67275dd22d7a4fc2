"""Batch: tokenized examples, as they go through a model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Tokenized examples, padded on the left so that responses end together.

    `response_BT` is true on response tokens, end of sequence included: the tokens that losses count.
    """

    ids_BT: Tensor
    attention_BT: Tensor
    response_BT: Tensor

    @property
    def positions_BT(self) -> Tensor:
        """Position of each token within its own sequence."""
        return (self.attention_BT.cumsum(-1) - 1).clamp(min=0)

    @cached_property
    def response_length(self) -> int:
        """R: how many trailing positions hold every response token of the batch."""
        columns = self.response_BT.any(0).nonzero()
        return self.ids_BT.shape[1] - int(columns[0]) if len(columns) else 0

    def rows(self, start: int, stop: int) -> Batch:
        """Some of the examples, without the columns in which these are all padding; all of them as they are."""
        if start == 0 and stop >= len(self.ids_BT):
            return self
        first = int(self.attention_BT[start:stop].any(0).nonzero()[0])
        return Batch(*(whole[start:stop, first:] for whole in (self.ids_BT, self.attention_BT, self.response_BT)))

    @property
    def targets_BR(self) -> Tensor:
        """The last R tokens: every response, and what stands before the shorter ones."""
        return self.ids_BT[:, self.ids_BT.shape[1] - self.response_length :]

    @property
    def mask_BR(self) -> Tensor:
        """Which of `targets_BR` belong to a response."""
        return self.response_BT[:, self.ids_BT.shape[1] - self.response_length :]
