"""Edges: where the best of a search lies at the end of a range, and how far the range can be widened there."""

from __future__ import annotations

import math
from dataclasses import replace

from caseharden.errors import CasehardenError
from caseharden.search.space import Choice, Range, Space, Values

EDGE = 0.05
"""The share of a range at either end that is its edge."""
DECADE, HALF = math.log(10), 0.5
"""By how much a range is widened: one by logarithm by a factor of ten, an even one by half its width."""
LEAST = 0.01
"""Of a step that widens a range, so much has to be possible: else the range ends where the field does."""


def wider(space: Space, values: Values) -> dict[str, Range]:
    """The ranges at whose edge `values` lie and which can be widened there, so widened, by place.

    Of whole numbers none is. A range can be widened as far as there are such attacks, its other values as they are.
    """
    found: dict[str, Range] = {}
    for place, one in space.met(values).items():
        if isinstance(one, Range) and one.continuous:
            share = one.share(values[place])
            if min(share, 1 - share) < EDGE and (new := _widened(space, values, one, high=share > 0.5)):
                found[place] = new
    return found


def middle_of_the_new(old: Range | Choice, new: Range) -> float:
    """The value in the middle of what was added to a range."""
    assert isinstance(old, Range)
    added = (0.0, new.share(old.low)) if new.low < old.low else (new.share(old.high), 1.0)
    return new.rounded(new.at(sum(added) / 2))


def _widened(space: Space, values: Values, one: Range, *, high: bool) -> Range | None:
    """The range, wider at one end, as far as the field takes it; None if that is hardly any further."""
    step = DECADE / math.log(one.high / one.low) if one.scale == "log_uniform" else HALF

    def end(part: float) -> float:
        return one.at(1 + part * step) if high else one.at(-part * step)

    accepted, refused = (1.0, 1.0) if _takes(space, values, one, end(1.0)) else (0.0, 1.0)
    while refused - accepted > LEAST / 2:
        middle = (accepted + refused) / 2
        accepted, refused = (middle, refused) if _takes(space, values, one, end(middle)) else (accepted, middle)
    if accepted < LEAST:
        return None
    return replace(one, high=end(accepted)) if high else replace(one, low=end(accepted))


def _takes(space: Space, values: Values, one: Range, value: float) -> bool:
    try:
        space.attack({**values, one.place: value})
    except CasehardenError:
        return False
    return True
