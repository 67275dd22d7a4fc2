"""Charts as Plotly's JSON, for the page to draw; text is escaped, since Plotly reads markup."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby
from typing import Any

from caseharden.report.traces import Axis, Band, Chart, Ends, Line, Rule, Trace

SIZES = {"": 0, "full": 9, "open": 9}
RIMS = {"": 0, "full": 0, "open": 2}
"""Of marks, in pixels."""


def as_plotly(chart: Chart) -> dict[str, Any]:
    """A chart's title, layout and views, each with its traces as `data`; what is not a number is NaN still."""
    return {
        "title": chart.title,
        "layout": {
            "xaxis": _axis(chart.x),
            "yaxis": _axis(chart.y),
            "shapes": [_dashes(rule) for rule in chart.rules],
            "annotations": [_text(rule) for rule in chart.rules],
        },
        "views": [
            {"data": [drawn for trace in view.traces for drawn in as_traces(trace)], "note": view.note}
            for view in chart.views
        ],
    }


def as_traces(trace: Trace) -> Iterator[dict[str, Any]]:
    """Plotly's traces for one of ours; `meta` is the number of its series, by which the legend hides it."""
    meta = {} if trace.series is None else {"meta": trace.series}
    for drawn in _band(trace) if isinstance(trace, Band) else _line(trace):
        yield drawn | meta


def _line(line: Line) -> Iterator[dict[str, Any]]:
    style = line.style
    common = {
        "x": line.x,
        "y": line.y,
        "line": {"color": style.color, "dash": style.dash, "width": line.width, "shape": line.shape},
        "opacity": line.opacity,
    }
    if line.arrow:
        moved = (line.x[0], line.y[0]) != (line.x[-1], line.y[-1])
        head = {"symbol": "arrow", "size": [0, 12 if moved else 0], "angleref": "previous", "standoff": 7}
        yield common | {
            "mode": "lines+markers",
            "marker": {"color": style.color, "opacity": 1, "line": {"width": 0}, **head},
            "hoverinfo": "skip",
        }
    elif not line.marks:
        yield common | {"mode": "lines", "hoverinfo": "skip"}
    if line.marks:
        shape = style.marker.plotly
        yield common | {
            "mode": "markers" if line.arrow else "lines+markers",
            "name": escape(line.name),
            "text": ["<br>".join([f"<b>{escape(first)}</b>", *map(escape, rest)]) for first, *rest in line.hover],
            "hovertemplate": "%{text}<extra></extra>",
            "marker": {
                "color": style.color,
                "symbol": [f"{shape}-open" if mark == "open" else shape for mark in line.marks],
                "size": [SIZES[mark] for mark in line.marks],
                "opacity": 1,
                "line": {"width": [RIMS[mark] for mark in line.marks]},
            },
            **({"error_x": _bars(line.x, line.x_ends, style.color)} if line.x_ends else {}),
            **({"error_y": _bars(line.y, line.y_ends, style.color)} if line.y_ends else {}),
        }


def _band(band: Band) -> Iterator[dict[str, Any]]:
    """One closed shape for each stretch without a gap."""
    corners = zip(band.x, band.low, band.high, strict=True)
    for gap, stretch in groupby(corners, key=lambda corner: math.isnan(corner[1])):
        if not gap:
            x, low, high = (list(side) for side in zip(*stretch, strict=True))
            if band.shape == "hv":
                x = [x[0], *(edge for at in x[1:] for edge in (at, at))]
                low, high = ([*(e for y in side[:-1] for e in (y, y)), side[-1]] for side in (low, high))
            yield {
                "mode": "lines",
                "x": x + x[::-1],
                "y": high + low[::-1],
                "fill": "toself",
                "fillcolor": band.style.translucent,
                "line": {"width": 0},
                "hoverinfo": "skip",
            }


def _bars(values: Sequence[float], ends: Ends, color: str) -> dict[str, Any]:
    up = [high - value for value, (_, high) in zip(values, ends, strict=True)]
    down = [value - low for value, (low, _) in zip(values, ends, strict=True)]
    look = {"type": "data", "symmetric": False, "color": color, "thickness": 1, "width": 0}
    return {"array": up, "arrayminus": down, **look}


def _axis(axis: Axis) -> dict[str, Any]:
    ticks = {"tickvals": [*axis.ticks], "ticktext": [*axis.ticks.values()], "tickangle": 0}
    return {
        "title": {"text": axis.title},
        **(ticks if axis.ticks else {"tickformat": ".2~f"}),
        **({"range": axis.span} if axis.span else {}),
    }


def _dashes(rule: Rule) -> dict[str, Any]:
    along, across = ("y", "x") if rule.upright else ("x", "y")
    ends = {f"{along}0": 0, f"{along}1": 1, f"{across}0": rule.at, f"{across}1": rule.at}
    return {"type": "line", f"{along}ref": "paper", **ends, "line": {"dash": "4px,4px"}}


def _text(rule: Rule) -> dict[str, Any]:
    text = {"text": escape(rule.text), "showarrow": False}
    if rule.upright:
        return text | {"x": rule.at, "y": 1, "yref": "paper", "xanchor": "right"}
    return text | {"x": 0, "y": rule.at, "xref": "paper", "xanchor": "left", "yanchor": "bottom"}
