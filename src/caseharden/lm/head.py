"""Head: what makes logits of a model's last hidden states, kept apart where all logits at once would not fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

TOKENS = 256
"""So many tokens' logits exist at a time, where memory is spared."""
LARGE = 1e6
"""So many times as large, logits are beyond any bound that a model puts on them."""


@dataclass(frozen=True)
class Logits:
    """Logits of response tokens, [B, R, V]: `given_BRX` itself, or what `head` makes of these hidden states.

    With a head, logits of `TOKENS` tokens exist at a time, and are computed again for their gradient.
    """

    given_BRX: Tensor
    head: Callable[[Tensor], Tensor] | None = None

    def whole(self) -> Tensor:
        """All of them, [B, R, V]."""
        return self.given_BRX if self.head is None else self.head(self.given_BRX)

    def each(self, value: Callable[..., Tensor], *others: Tensor | Logits) -> Tensor:
        """[B, R]: at each token the `value` of its logits and of the `others`, which are [B, R], or logits as well.

        `value` takes tensors [1, N, V] and [1, N], and gives one of [1, N].
        """
        given = [self, *others]
        if not any(isinstance(one, Logits) and one.head for one in given):
            return value(*(one.whole() if isinstance(one, Logits) else one for one in given))
        B, R = self.given_BRX.shape[:2]
        rows = [(one.given_BRX if isinstance(one, Logits) else one).flatten(0, 1)[None] for one in given]
        heads = [one.head if isinstance(one, Logits) else None for one in given]

        def valued(*some: Tensor) -> Tensor:
            return value(*(one if head is None else head(one) for one, head in zip(some, heads, strict=True)))

        parts = zip(*(torch.split(row, TOKENS, 1) for row in rows), strict=True)
        found = [checkpoint(valued, *some, use_reentrant=False) for some in parts]
        return torch.cat(found, 1).view(B, R)


@contextmanager
def headless(
    model: Any, how: Callable[[], AbstractContextManager[Any]] = nullcontext
) -> Iterator[Callable[[Tensor], Tensor]]:
    """Inside, `model` gives hidden states in the place of logits, and here is what makes logits of them.

    That works in the context `how`, and without gradient where there is none now.
    """
    head: nn.Module = model.get_output_embeddings()
    trained = torch.is_grad_enabled()

    def logits(states: Tensor) -> Any:
        with how(), torch.set_grad_enabled(trained and torch.is_grad_enabled()):
            return head(states)

    head.forward = lambda states: states
    try:
        yield logits
    finally:
        del head.forward


@torch.no_grad()
def has_head(model: Any, row: list[int]) -> bool:
    """Whether logits of a row of tokens are what the head makes of hidden states, and nothing bounds them after it.

    A bound is seen where all is `LARGE` times as large. A model that fails at either has no head of that kind.
    """
    head = getattr(model, "get_output_embeddings", lambda: None)()
    if head is None:
        return False
    ids_BT = torch.tensor([row], device=next(model.parameters()).device)

    def read() -> Tensor:
        return model(input_ids=ids_BT, use_cache=False).logits.float()  # type: ignore[no-any-return]

    try:
        with headless(model) as made:
            given_BTX = model(input_ids=ids_BT, use_cache=False).logits
        expected_BTV, found_BTV = read(), made(given_BTX).float()
        own = head.forward
        head.forward = lambda states: LARGE * own(states)
        try:
            large_BTV = read()
        finally:
            del head.forward
    except Exception:  # noqa: BLE001 - an architecture may fail in any way at what it was not written for
        return False
    return all(
        one.shape == expected_BTV.shape and torch.allclose(one, expected_BTV, rtol=1e-3, atol=1e-4)
        for one in (found_BTV, large_BTV / LARGE)
    )
