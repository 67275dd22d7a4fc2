"""What every page is made of: one file that works offline, tables of readings, samples with what harms redacted."""

from __future__ import annotations

import math
import secrets
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

import caseharden
from caseharden.records.results import Reading, Sample
from caseharden.report.export import plain
from caseharden.report.plotly_charts import as_plotly
from caseharden.report.style import Plotted, Style, interval, number
from caseharden.report.traces import Chart


@dataclass(frozen=True)
class Table:
    """One measure under every attack: a table of readings, budgets across."""

    measure: str
    lines: list[tuple[Style, str, str, list[Reading | None]]]
    """Style, defense, attack, and a reading for each budget of the table, None where there is none."""


@dataclass(frozen=True)
class Shown:
    """One sample as the page shows it; what was redacted is not in it."""

    seed: int
    budget: int
    measure: str
    prompt: str
    output: str
    score: float
    redacted: bool


@dataclass(frozen=True)
class Drawer:
    """The samples of one attack on one defense: those shown, and how many are stored."""

    title: str
    shown: list[Shown]
    stored: int


def page(template: str, charts: Sequence[Chart], **given: Any) -> str:
    """The page as a string."""
    text: str = _ENVIRONMENT.get_template(template).render(
        version=caseharden.__version__,
        charts=charts,
        charts_json=plain([as_plotly(chart) for chart in charts]),
        # A nonce, so that no script can run that is not this page's own, whatever a model has written.
        nonce=secrets.token_urlsafe(16),
        plotlyjs=Markup(get_plotlyjs()),
        **given,
    )
    return text


def tables(plotted: Sequence[Plotted], budgets: Sequence[int]) -> list[Table]:
    """A table for each measure that was taken."""
    at = [{point.budget: point.readings for point in each.runs.points} for each in plotted]
    measures = dict.fromkeys(name for found in at for readings in found.values() for name in readings)
    return [
        Table(
            measure,
            [
                (each.style, each.label, each.attack, [found.get(b, {}).get(measure) for b in budgets])
                for each, found in zip(plotted, at, strict=True)
            ],
        )
        for measure in measures
    ]


def harmful(samples: Iterable[Sample]) -> set[str]:
    """The answers to redact: a harmful one wherever it stands, also where another measure has judged it."""
    return {sample.output for sample in samples if sample.harmful}


def drawers(plotted: Sequence[Plotted], samples: Iterable[Sample], hidden: set[str], each: int) -> list[Drawer]:
    """Stored answers by attack, at most `each` of one measure at one budget, those that are `hidden` redacted."""
    by_cell: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_cell[sample.cell].append(sample)
    found = []
    for one in plotted:
        stored = [(curve.seed, s) for curve in one.runs.curves for s in by_cell[curve.cell]]
        if stored:
            found.append(Drawer(f"{one.label}, {one.attack}", _shown(stored, hidden, each), len(stored)))
    return found


def _shown(stored: Sequence[tuple[int, Sample]], hidden: set[str], each: int) -> list[Shown]:
    taken: dict[tuple[int, str], list[Shown]] = defaultdict(list)
    for seed, s in stored:
        place = taken[s.budget, s.measure]
        if len(place) < each:
            redacted = s.output in hidden
            output = "" if redacted else s.output
            place.append(Shown(seed, s.budget, s.measure, s.prompt, output, s.score, redacted))
    return [shown for key in sorted(taken) for shown in taken[key]]


def flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested provenance as lines: ``packages.torch``, ``2.13.0``."""
    lines = []
    for name, value in tree.items():
        if isinstance(value, Mapping):
            lines += flat(value, f"{prefix}{name}.")
        else:
            several = isinstance(value, list | tuple)
            lines.append((f"{prefix}{name}", ", ".join(map(str, value)) if several else str(value)))
    return lines


_ENVIRONMENT = Environment(
    loader=PackageLoader("caseharden.report"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {"number": number, "interval": interval}
_ENVIRONMENT.tests["nan"] = math.isnan
