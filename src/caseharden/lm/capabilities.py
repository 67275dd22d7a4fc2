"""What a model's forward pass can be relied on for, found by trying it on two short prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor, nn

from caseharden.errors import CasehardenError
from caseharden.lm.head import has_head

TOLERANCE = 0.02
"""Log-probabilities, in nats, that differ by more come of another computation, not of another rounding."""


@dataclass(frozen=True)
class Capabilities:
    """Which ways of computing leave log-probabilities as they are when each sequence goes through alone and whole.

    `padding`: sequences padded on the left. `cache`: the rest of a sequence after a cache of its beginning. `rows`:
    that cache's rows copied and dropped. `gaps`: padding between the beginning and the rest. `head`: hidden states
    first, and logits made of them by the head alone.
    """

    padding: bool
    cache: bool
    rows: bool
    gaps: bool
    head: bool


@torch.no_grad()
def find_capabilities(model: Any, prompts: Sequence[list[int]], pad: int) -> Capabilities:
    """Try each way on two encoded `prompts` of different lengths, continued by tokens of the first.

    A way that raises an error, whatever it is, cannot be used; if none can, this raises `CasehardenError`. Windows
    of attention are longer than the prompts, so for `gaps` the configuration is asked as well.
    """
    device = next(model.parameters()).device
    short, long = ([*prompt] for prompt in prompts)
    token, rest = short[:1], (short * 3)[:3]

    def read(rows: list[list[int]], begun: Any = None, mask_BT: Tensor | None = None) -> tuple[Tensor, Any, Tensor]:
        """The last log-probabilities [B, V] of rows after what is `begun`, the cache, and which tokens are real."""
        width = max(map(len, rows))
        ids_BT = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=device)
        own_BT = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
        mask_BT = own_BT if mask_BT is None else torch.cat([mask_BT, own_BT], 1)
        out = model(
            input_ids=ids_BT,
            attention_mask=mask_BT,
            position_ids=(mask_BT.cumsum(-1) - 1).clamp(min=0)[:, -width:],
            past_key_values=begun,
            use_cache=True,
        )
        return out.logits[:, -1].float().log_softmax(-1), getattr(out, "past_key_values", None), mask_BT

    def alone(*rows: list[int]) -> Tensor:
        return torch.cat([read([row])[0] for row in rows])

    def by_cache() -> Tensor:
        _, cache, mask_BT = read([short, long])
        return read([token, token], cache, mask_BT)[0]

    def by_row() -> Tensor:
        """Three rows of the four that two become: a state that the cache forgets to copy would have two."""
        _, cache, mask_BT = read([short, long])
        cache.batch_repeat_interleave(2)
        cache.batch_select_indices(torch.tensor([3, 0, 2], device=device))
        return read([token] * 3, cache, mask_BT[[1, 0, 1]])[0]

    def over_gaps() -> Tensor:
        _, cache, mask_BT = read([short, long])
        cache.batch_select_indices(torch.tensor([0, 1], device=device))
        return read([token, rest], cache, mask_BT)[0]

    try:
        whole = alone(short + token, long + token)
    except Exception as error:
        raise CasehardenError(
            f"{type(model).__name__} fails at a plain question ({shorten(str(error), 200)}). Models of this "
            "architecture are not supported."
        ) from error
    cache = _agrees(by_cache, whole)
    rows = cache and _agrees(by_row, whole[[1, 0, 1]])
    return Capabilities(
        padding=_agrees(lambda: read([short + token, long + token])[0], whole),
        cache=cache,
        rows=rows,
        gaps=rows and not has_windows(model.config) and _agrees(over_gaps, alone(short + token, long + rest)),
        head=has_head(model, short + token),
    )


def _agrees(found: Callable[[], Tensor], expected: Tensor) -> bool:
    try:
        return bool((found() - expected).abs().max() <= TOLERANCE)
    except Exception:  # noqa: BLE001 - an architecture may fail in any way at what it was not written for
        return False


@contextmanager
def in_float32(model: nn.Module) -> Iterator[None]:
    """Inside, `model` computes in float32, one module's weights at a time: nothing is lost to rounding."""
    hooks = []
    for module in model.modules():
        if low := [p for p in module.parameters(recurse=False) if p.dtype in (torch.bfloat16, torch.float16)]:
            kept: list[Tensor] = []

            def widen(*_: Any, low: list[nn.Parameter] = low, kept: list[Tensor] = kept) -> None:
                kept[:] = [p.data for p in low]
                for parameter in low:
                    parameter.data = parameter.data.float()

            def narrow(*_: Any, low: list[nn.Parameter] = low, kept: list[Tensor] = kept) -> None:
                for parameter, data in zip(low, kept, strict=True):
                    parameter.data = data
                kept.clear()

            hooks += [module.register_forward_pre_hook(widen)]
            hooks += [module.register_forward_hook(narrow, always_call=True)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def has_windows(config: Any) -> bool:
    """Whether some layer attends to a window only: by the configuration's kinds of layers, or a width in it."""
    config = config.get_text_config()
    if kinds := getattr(config, "layer_types", None):
        return set(kinds) != {"full_attention"}
    return any("window" in name and isinstance(value, int) for name, value in config.to_dict().items())
