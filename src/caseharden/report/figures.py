"""Figures for papers, as PNG and SVG: harm against attack steps, beside utility, and beside the bystander."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from caseharden.audit.resistance import resistance
from caseharden.records.results import Results
from caseharden.report.charts import WORST, kept, panels, plane
from caseharden.report.export import save
from caseharden.report.style import Names
from caseharden.report.traces import Band, Chart, Ends, Line, Trace

COLUMNS = 3
PANEL = (2.35, 1.95)
"""Width and height of one panel, in inches: three fill a two-column page."""
DPI = 300
TITLE = 34
"""Characters of a line of a panel's title, and of a name in a key."""
LINE = 0.15
"""The height of a line of the key, in inches."""
THINNER = 0.6
"""Of a line's width on the page, in points for its pixels."""

LOOK: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "grid.color": "#e6e8ec",
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "lines.markersize": 4,
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "svg.hashsalt": "caseharden",  # the same results give the same file
}
DASHES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}
MUTED = "#59616d"


def write_figures(results: Results, folder: str | Path) -> list[Path]:
    """Draw every defense under its worst attack; return the files written, none if no run has finished.

    Bands and error bars cover the seeds' own 95% intervals (see `caseharden.audit.resistance.pooled`):
    say so in the caption. Raises `CasehardenError` if a file cannot be written.
    """
    found = resistance(results)
    if not found:
        return []
    names = Names(found)
    with matplotlib.rc_context(LOOK):
        figures = {
            "harm-against-steps": against_steps(panels(found, names, results.phi, [WORST])),
            "harm-beside-utility": with_key(plane(found, names, results.phi)),
        }
        if beside_bystander := kept(found, names):
            figures["harm-beside-bystander"] = with_key(beside_bystander)
        return [
            save(Path(folder) / f"{name}.{kind}", _bytes(figure, kind))
            for name, figure in figures.items()
            for kind in ("png", "svg")
        ]


def against_steps(charts: Sequence[Chart]) -> Figure:
    """The first view of each chart in a panel of its own."""
    lines = -(-len(charts) // COLUMNS)
    columns = -(-len(charts) // lines)
    figure = Figure(figsize=(PANEL[0] * columns, PANEL[1] * lines), layout="constrained")
    grid = figure.subplots(lines, columns, sharey=True, squeeze=False)
    for axes, chart in zip(grid.flat, charts, strict=False):
        _draw(axes, chart)
        titles = (fill(text, TITLE, break_on_hyphens=False) for text in (chart.title, chart.views[0].notes[0]))
        axes.set_title("\n".join(titles))
    for axes in grid.flat[len(charts) :]:
        axes.set_axis_off()
    figure.supxlabel(charts[0].x.title, fontsize=8)
    figure.supylabel(charts[0].y.title, fontsize=8)
    return figure


def with_key(chart: Chart) -> Figure:
    """The chart, with a key below it: names in two columns, folded where they are long."""
    lines = [trace for trace in chart.views[0].traces if isinstance(trace, Line) and trace.name]
    names = [fill(line.name, TITLE, break_on_hyphens=False) for line in lines]
    half = -(-len(names) // 2)
    rows = max(sum(name.count("\n") + 1 for name in column) for column in (names[:half], names[half:]))
    figure = Figure(figsize=(4.8, 3.0 + LINE * rows), layout="constrained")
    axes = figure.subplots()
    _draw(axes, chart)
    axes.set_xlabel(chart.x.title)
    axes.set_ylabel(chart.y.title)
    key = [Line2D([], [], color=line.style.color, marker=line.style.marker.matplotlib) for line in lines]
    for drawn, line, name in zip(key, lines, names, strict=True):
        drawn.set(label=name, linestyle=DASHES[line.style.dash])
    figure.legend(handles=key, loc="outside lower center", ncols=2, fontsize=7)
    return figure


def _draw(axes: Axes, chart: Chart) -> None:
    for trace in chart.views[0].traces:
        _trace(axes, trace)
    for rule in chart.rules:
        axes.axhline(rule.at, color=MUTED, linewidth=0.6, linestyle=(0, (4, 4)))
        axes.annotate(
            rule.text,
            (0, rule.at),
            xycoords=("axes fraction", "data"),
            xytext=(3, 1),
            textcoords="offset points",
            va="bottom",
            fontsize=7,
            color=MUTED,
        )
    for which, axis in (("x", chart.x), ("y", chart.y)):
        if axis.ticks:
            axes.set(**{f"{which}ticks": [*axis.ticks], f"{which}ticklabels": [*axis.ticks.values()]})
        if axis.span:
            axes.set(**{f"{which}lim": axis.span})


def _trace(axes: Axes, trace: Trace) -> None:
    color = trace.style.color
    if isinstance(trace, Band):
        axes.fill_between(trace.x, trace.low, trace.high, color=color, alpha=0.16, linewidth=0)
        return
    dash, width = DASHES[trace.style.dash], THINNER * trace.width
    if trace.arrow:
        arrow = {"arrowstyle": "-|>", "color": color, "linestyle": dash, "shrinkA": 4, "shrinkB": 4}
        axes.annotate("", xy=(trace.x[-1], trace.y[-1]), xytext=(trace.x[0], trace.y[0]), arrowprops=arrow)
    else:
        axes.plot(trace.x, trace.y, color=color, linestyle=dash, linewidth=width, alpha=trace.opacity)
    for i, mark in enumerate(trace.marks):
        axes.errorbar(
            trace.x[i],
            trace.y[i],
            xerr=_bars(trace.x[i], trace.x_ends[i : i + 1]),
            yerr=_bars(trace.y[i], trace.y_ends[i : i + 1]),
            fmt=trace.style.marker.matplotlib,
            color=color,
            markerfacecolor="white" if mark == "open" else color,
            elinewidth=0.6,
        )


def _bars(value: float, ends: Ends) -> list[list[float]] | None:
    """How far an error bar goes down and up from the value; None where there is none."""
    return next(([[value - low], [high - value]] for low, high in ends), None)


def _bytes(figure: Figure, kind: str) -> bytes:
    drawn = BytesIO()
    figure.savefig(drawn, format=kind, dpi=DPI, metadata={"Date": None} if kind == "svg" else None)
    return drawn.getvalue()
