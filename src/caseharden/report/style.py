"""How series are named and plotted, the same in the page's charts, in figures for papers and in the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from caseharden.audit.resistance import AttackRuns, Resistance
from caseharden.records.names import model_name
from caseharden.records.results import Reading

COLORS = ("#0072b2", "#d55e00", "#008f68", "#b5529b", "#96700a", "#7667cf")
"""Color-blind readers can tell these apart, and at least 3:1 against both of the page's backgrounds."""
DASHES = ("solid", "dash", "dot", "dashdot")


@dataclass(frozen=True)
class Marker:
    """One marker shape: its name in Plotly, in Matplotlib, and its outline in a 10 by 10 box."""

    plotly: str
    matplotlib: str
    outline: str


MARKERS = (
    Marker("circle", "o", "M5 1a4 4 0 1 0 .01 0z"),
    Marker("square", "s", "M1.5 1.5h7v7h-7z"),
    Marker("diamond", "D", "M5 0l5 5-5 5-5-5z"),
    Marker("triangle-up", "^", "M5 .5l4.5 8.5h-9z"),
    Marker("triangle-down", "v", "M5 9.5l4.5-8.5h-9z"),
    Marker("cross", "P", "M3.5 1h3v2.5h2.5v3h-2.5v2.5h-3v-2.5h-2.5v-3h2.5z"),
    Marker("hexagon", "h", "M5 .5l4 2.2v4.6l-4 2.2-4-2.2v-4.6z"),
)


@dataclass(frozen=True)
class Style:
    """Color and marker tell the defense, the dash tells the model: never color alone."""

    color: str
    marker: Marker
    dash: str

    @property
    def translucent(self) -> str:
        red, green, blue = (int(self.color[i : i + 2], 16) for i in (1, 3, 5))
        return f"rgba({red},{green},{blue},0.16)"


CONTROL = Style("#7d828c", Marker("x", "X", "M2 1l3 3 3-3 1 1-3 3 3 3-1 1-3-3-3 3-1-1 3-3-3-3z"), dash="solid")
"""The undefended model, always gray."""


class Names:
    """How the series of a study are called and plotted."""

    def __init__(self, found: Sequence[Resistance]) -> None:
        self._models = list(dict.fromkeys(each.model for each in found))
        self._defended = list(dict.fromkeys(each.key for each in found if not each.is_control))

    def attack(self, runs: AttackRuns) -> str:
        return runs.name or "no attack"

    def series(self, each: Resistance) -> str:
        """The defense, with the model in front if the study has several."""
        return f"{model_name(each.model)} · {each.name}" if len(self._models) > 1 else each.name

    def style(self, each: Resistance) -> Style:
        dash = DASHES[self._models.index(each.model) % len(DASHES)]
        if each.is_control:
            return replace(CONTROL, dash=dash)
        index = self._defended.index(each.key)
        return Style(COLORS[index % len(COLORS)], MARKERS[index % len(MARKERS)], dash)


@dataclass(frozen=True)
class Plotted:
    """One attack on one model with its names and how it is plotted."""

    runs: AttackRuns
    style: Style
    label: str
    attack: str


def with_panel(found: Sequence[Resistance]) -> list[Resistance]:
    """What gets a panel: every defense, and a control whose model has no defense to be plotted beside."""
    defended = {each.model for each in found if not each.is_control}
    return [each for each in found if not (each.is_control and each.model in defended)]


def number(value: float) -> str:
    """A score to three decimals; a dash where nothing was scored."""
    return "–" if math.isnan(value) else f"{value:.3f}"


def interval(reading: Reading) -> str:
    """The two ends of the reading's interval."""
    return "not scored" if reading.n == 0 else f"{number(reading.low)} to {number(reading.high)}"


def counted(n: int, noun: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def place(budget: float) -> float:
    """Where a budget stands on the axis: logarithmic, with room for 0."""
    return math.log1p(budget)


def ticks(budgets: Iterable[int]) -> list[int]:
    """The budgets to label: all that are tested, less those whose labels would run into one another."""
    ordered = sorted(set(budgets))
    if not ordered:
        return []
    room = place(ordered[-1]) / 11
    kept = [ordered[-1]]  # the last budget is where a censored run ends: always labeled
    for budget in reversed(ordered[:-1]):
        if place(kept[-1]) - place(budget) >= room:
            kept.append(budget)
    return kept[::-1]
