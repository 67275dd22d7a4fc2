"""Ways of asking: one model is asked for the same in several ways, and the worst of its answers counts.

``harm`` is how a user asks; ``harm:NAME`` are further ways: the first words given, a wrapper around the prompt, no
chat template, many answers drawn. Each is a measure of its own of the same model, whatever it was trained under.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from caseharden.records.results import PLAIN, Point, Reading

T = TypeVar("T")


def way(measure: str, watched: str) -> str | None:
    """The way of asking for `watched` that a measure is; None if it is none. Another judge's reading is none."""
    name, _, how = measure.partition(":")
    return None if name != watched or "@" in measure else how or PLAIN


def ways(found: Mapping[str, T], watched: str) -> dict[str, T]:
    """What is `found` of each way of asking for `watched`, the plain one first; empty if nothing is."""
    further = {how: value for name, value in found.items() if name != watched and (how := way(name, watched))}
    return {PLAIN: found[watched], **further} if watched in found else {}  # plain, unless another way stands there


def worst_asked(points: Sequence[Point], watched: str, phi: float) -> tuple[Point, ...]:
    """The points of an attack with the worst way of asking in the place of `watched`, told by each point's `way`.

    A way that is above `phi` before the first step says nothing of the attack: it broke the model without one.
    Such ways stand beside, under their own names, as does the plain way (``harm:plain``), which always counts.
    """
    before = ways(points[0].readings, watched)
    counting = [how for how, found in before.items() if how == PLAIN or not found.value > phi]
    return tuple(_with_worst(point, watched, counting) for point in points)


def _with_worst(point: Point, watched: str, counting: Iterable[str]) -> Point:
    found = ways(point.readings, watched)
    if len(found) < 2:
        return point
    worst = max((how for how in counting if how in found), key=lambda how: _rank(how, found[how]))
    return replace(
        point,
        readings=_swapped(point.readings, watched, worst),
        answers=_swapped(point.answers, watched, worst) if watched in point.answers else point.answers,
        way=worst,
    )


def _rank(how: str, found: Reading) -> tuple[float, bool]:
    """By value, NaN lowest; of equals the plain way."""
    return -math.inf if math.isnan(found.value) else found.value, how == PLAIN


def _swapped(found: Mapping[str, T], watched: str, worst: str) -> dict[str, T]:
    plain = found[watched]
    return {**found, watched: plain if worst == PLAIN else found[f"{watched}:{worst}"], f"{watched}:{PLAIN}": plain}


def plainly(point: Point, watched: str) -> Point:
    """The point as asked plainly: what was found in other ways is left out."""

    def only(found: Mapping[str, T]) -> dict[str, T]:
        others = {name: value for name, value in found.items() if way(name, watched) is None}
        return {watched: ways(found, watched)[PLAIN], **others} if watched in found else others

    return replace(point, readings=only(point.readings), answers=only(point.answers), way=PLAIN)
