"""Space: a family of attacks, written as one attack with ranges in the place of values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from caseharden.errors import CasehardenError
from caseharden.study.build import variants, within
from caseharden.train.tuner import Tuner

Scale = Literal["uniform", "log_uniform", "whole"]
Values = Mapping[str, float]
"""What was chosen, by place: a number of each range, the position of an option of each choice."""

DIGITS = 3
"""Digits of a value that is drawn, so that people can read it, and write it again."""


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both among them: evenly, evenly by their logarithm, or whole ones evenly."""

    place: str
    scale: Scale
    low: float
    high: float

    @property
    def continuous(self) -> bool:
        return self.scale != "whole"

    def share(self, value: float) -> float:
        """Where `value` lies between the ends, on the range's own scale: 0 at the lower, 1 at the higher."""
        low, high, at = (self._scaled(number) for number in (self.low, self.high, value))
        return (at - low) / (high - low)

    def at(self, share: float) -> float:
        """The value at that share of the way; below 0 or above 1 it lies outside."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        found = low + share * (high - low)
        return math.exp(found) if self.scale == "log_uniform" else found

    def rounded(self, value: float) -> float:
        """`value` with few digits, kept within the range; a whole number stays as it is."""
        if not self.continuous:
            return value
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)

    def _scaled(self, value: float) -> float:
        return math.log(value) if self.scale == "log_uniform" else value


@dataclass(frozen=True)
class Choice:
    """One of several options, each written as a value or with ranges of its own."""

    place: str
    options: tuple[Any, ...]


Ask = Callable[[Range | Choice], float]
"""Chooses a value of a range, or the position of an option of a choice."""


@dataclass(frozen=True)
class Space:
    """A family of attacks: the `tree` is one as a study writes it, with a `Range` or `Choice` for some values."""

    tree: Any
    words: ClassVar[tuple[str, ...]] = ("uniform", "log_uniform", "whole", "choice")

    @classmethod
    def parse(cls, written: Any, place: str = "attack") -> Space:
        """The family that is `written` so; every range's ends and every option have to make an attack.

        Raises `CasehardenError` that names the place of what is wrong.
        """
        space = cls(_parsed(written, "", place))
        if not any(isinstance(one, Range) or len(one.options) > 1 for one in space.choices()):
            raise CasehardenError(
                f"{place}: there is nothing to search. Write {{uniform: [low, high]}}, log_uniform, whole or "
                "{choice: [value, …]} in the place of a value."
            )
        for one in space.choices():
            ends = (one.low, one.high) if isinstance(one, Range) else range(len(one.options))
            for end in ends:
                space.attack(space.through(one.place, end), place)
        return space

    def choices(self) -> Iterator[Range | Choice]:
        """All ranges and choices, those within options as well."""
        yield from _inside(self.tree)

    def fill(self, ask: Ask) -> Any:
        """The attack, as a study writes it, that comes of asking for values, within chosen options only."""
        return _filled(self.tree, ask)

    def met(self, values: Values) -> dict[str, Range | Choice]:
        """The ranges and choices that `values` were chosen of, by place."""
        found: dict[str, Range | Choice] = {}

        def ask(one: Range | Choice) -> float:
            found[one.place] = one
            return values[one.place]

        self.fill(ask)
        return found

    def attack(self, values: Values, place: str = "attack") -> Tuner:
        """The attack with these values. Raises `CasehardenError` if there can be no such attack."""
        found: list[Tuner] = variants(self.fill(lambda one: values[one.place]), Tuner, place)
        if len(found) != 1:
            raise CasehardenError(f"{place}: a list makes a grid of {len(found)}. Write {{choice: […]}}.")
        return found[0]

    def through(self, place: str, value: float) -> Values:
        """Values with this one at that place: of other ranges the lower end, and the options that lead there."""
        found: dict[str, float] = {}
        for one in self.choices():
            first = one.low if isinstance(one, Range) else _leading(one, place)
            found[one.place] = value if one.place == place else first
        return found

    def with_range(self, new: Range) -> Space:
        """The same space with another range at its place."""
        return Space(_mapped(self.tree, new))


def _parsed(value: Any, place: str, root: str) -> Any:
    """`place` is within the attack and names what is chosen; errors name it after the `root`."""
    if isinstance(value, Mapping) and len(value) == 1 and next(iter(value)) in Space.words:
        ((word, given),) = value.items()
        where = f"{_joined(root, place)}.{word}"
        if word != "choice":
            return _range(place, word, given, where)
        if not isinstance(given, list) or not given:
            raise CasehardenError(f"{where}: expected a list of values to choose from, not {given!r}.")
        return Choice(place, tuple(_parsed(one, f"{place}[{i}]", root) for i, one in enumerate(given)))
    if isinstance(value, Mapping):
        if wrong := [key for key in value if key in Space.words]:
            raise CasehardenError(
                f"{_joined(root, place)}: {wrong[0]} stands beside other keys. It takes the place of one value."
            )
        return {key: _parsed(one, within(place, key), root) for key, one in value.items()}
    if isinstance(value, list):
        return [_parsed(one, f"{place}[{i}]", root) for i, one in enumerate(value)]
    return value


def _joined(root: str, place: str) -> str:
    return f"{root}.{place}" if place and not place.startswith("[") else f"{root}{place}"


def _range(place: str, scale: Any, given: Any, where: str) -> Range:
    kinds = int if scale == "whole" else int | float
    numbers = isinstance(given, list | tuple) and len(given) == 2
    if not numbers or any(isinstance(end, bool) or not isinstance(end, kinds) for end in given):
        what = "whole numbers" if scale == "whole" else "numbers"
        raise CasehardenError(f"{where}: expected two {what}, [low, high], not {given!r}.")
    low, high = given
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise CasehardenError(f"{where}: the lower end comes first, and both are finite, not {given!r}.")
    if scale == "log_uniform" and low <= 0:
        raise CasehardenError(f"{where}: only numbers above 0 have a logarithm, not {low!r}. Raise it.")
    return Range(place, scale, low, high) if scale == "whole" else Range(place, scale, float(low), float(high))


def _inside(tree: Any) -> Iterator[Range | Choice]:
    if isinstance(tree, Range | Choice):
        yield tree
    inner = tree.options if isinstance(tree, Choice) else tree.values() if isinstance(tree, dict) else tree
    if isinstance(tree, Choice | dict | list):
        for one in inner:
            yield from _inside(one)


def _filled(tree: Any, ask: Ask) -> Any:
    if isinstance(tree, Range):
        return ask(tree)
    if isinstance(tree, Choice):
        return _filled(tree.options[int(ask(tree))], ask)
    if isinstance(tree, dict):
        return {key: _filled(one, ask) for key, one in tree.items()}
    return [_filled(one, ask) for one in tree] if isinstance(tree, list) else tree


def _leading(choice: Choice, place: str) -> int:
    """The position of the option in which `place` is; the first if it is in none."""
    inside = [any(one.place == place for one in _inside(option)) for option in choice.options]
    return inside.index(True) if True in inside else 0


def _mapped(tree: Any, new: Range) -> Any:
    if isinstance(tree, Range):
        return new if tree.place == new.place else tree
    if isinstance(tree, Choice):
        return replace(tree, options=tuple(_mapped(one, new) for one in tree.options))
    if isinstance(tree, dict):
        return {key: _mapped(one, new) for key, one in tree.items()}
    return [_mapped(one, new) for one in tree] if isinstance(tree, list) else tree
