"""Figures for papers, as PNG and SVG: harm against attack steps, and harm beside utility."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from caseharden.audit.resistance import AttackRuns, Resistance, resistance
from caseharden.errors import CasehardenError
from caseharden.records.results import Reading, Results
from caseharden.report.style import CONTROL, Names, Style, place, ticks, with_panel

COLUMNS = 3
PANEL = (2.35, 1.95)
"""Width and height of one panel, in inches: three fill a two-column page."""
DPI = 300

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
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "svg.hashsalt": "caseharden",  # the same results give the same file
}
DASHES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}


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
            "harm-against-steps": harm_against_steps(found, names, results.phi),
            "harm-beside-utility": harm_beside_utility(found, names, results.phi),
        }
        return [
            _save(figure, Path(folder) / f"{name}.{kind}")
            for name, figure in figures.items()
            for kind in ("png", "svg")
        ]


def harm_against_steps(found: Sequence[Resistance], names: Names, phi: float) -> Figure:
    """A panel for each defense: every seed thin, their mean thick, the undefended control gray and dotted."""
    shown = with_panel(found)
    lines = -(-len(shown) // COLUMNS)
    columns = -(-len(shown) // lines)
    figure = Figure(figsize=(PANEL[0] * columns, PANEL[1] * lines), layout="constrained")
    grid = figure.subplots(lines, columns, sharey=True, squeeze=False)
    budgets = ticks({point.budget for each in found for point in each.worst.points})
    for axes, each in zip(grid.flat, shown, strict=False):
        control = None if each.is_control else each.control(each.worst)
        if control:
            _curve(axes, control, replace(CONTROL, dash="dot"))
        for curve in each.worst.curves:
            x = [place(point.budget) for point in curve.points]
            y = [point.readings["harm"].value for point in curve.points]
            axes.plot(x, y, color=names.style(each).color, linewidth=0.5, alpha=0.6)
        _curve(axes, each.worst, replace(names.style(each), dash="solid"))
        _phi_line(axes, phi)
        axes.set_title(f"{names.series(each)}\n{names.attack(each.worst)}, steps to break {each.worst.steps}")
        axes.set_xticks([place(budget) for budget in budgets], [str(budget) for budget in budgets])
    for axes in grid.flat[len(shown) :]:
        axes.set_axis_off()
    figure.supxlabel("attack steps", fontsize=8)
    figure.supylabel("harm", fontsize=8)
    return figure


def harm_beside_utility(found: Sequence[Resistance], names: Names, phi: float) -> Figure:
    """An arrow for each defense, from the model as released to the model after its worst attack."""
    figure = Figure(figsize=(4.8, 3.6), layout="constrained")
    axes = figure.subplots()
    key = []
    for each in found:
        style = names.style(each)
        before, after = each.worst.before.readings, each.worst.after.readings
        axes.annotate(
            "",
            xy=(after["utility"].value, after["harm"].value),
            xytext=(before["utility"].value, before["harm"].value),
            arrowprops={
                "arrowstyle": "-|>",
                "color": style.color,
                "linestyle": DASHES[style.dash],
                "shrinkA": 4,
                "shrinkB": 4,
            },
        )
        for readings, fill in ((before, "white"), (after, style.color)):
            harm, utility = readings["harm"], readings["utility"]
            axes.errorbar(
                utility.value,
                harm.value,
                xerr=_bars(utility),
                yerr=_bars(harm),
                fmt=style.marker.matplotlib,
                color=style.color,
                markerfacecolor=fill,
                elinewidth=0.6,
            )
        (line,) = axes.plot([], [], style.marker.matplotlib + DASHES[style.dash], color=style.color)
        line.set_label(names.series(each))
        key.append(line)
    _phi_line(axes, phi)
    axes.set_xlabel("utility")
    axes.set_ylabel("harm")
    figure.legend(handles=key, loc="outside lower center", ncols=2)
    return figure


def _curve(axes: Axes, runs: AttackRuns, style: Style) -> None:
    harm = [point.readings["harm"] for point in runs.points]
    x = [place(point.budget) for point in runs.points]
    axes.fill_between(
        x,
        [reading.low for reading in harm],
        [reading.high for reading in harm],
        color=style.color,
        alpha=0.16,
        linewidth=0,
    )
    axes.plot(
        x,
        [reading.value for reading in harm],
        color=style.color,
        linestyle=DASHES[style.dash],
        marker=style.marker.matplotlib,
    )


def _bars(reading: Reading) -> list[list[float]]:
    return [[reading.value - reading.low], [reading.high - reading.value]]


def _phi_line(axes: Axes, phi: float) -> None:
    axes.axhline(phi, color="#59616d", linewidth=0.6, linestyle=(0, (4, 4)))
    axes.annotate(
        f"φ = {phi:g}",
        (0, phi),
        xycoords=("axes fraction", "data"),
        xytext=(3, 1),
        textcoords="offset points",
        va="bottom",
        fontsize=7,
        color="#59616d",
    )
    axes.set_ylim(-0.03, 1.03)


def _save(figure: Figure, path: Path) -> Path:
    metadata = {"Date": None} if path.suffix == ".svg" else None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=DPI, metadata=metadata)
    except OSError as error:
        raise CasehardenError(
            f"cannot write the figure {path}: {error.strerror or error}. "
            "Name a folder that you may write to, on a disk with room."
        ) from error
    return path
