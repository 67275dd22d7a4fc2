"""The report as one HTML file that holds everything it shows and works without a network."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from caseharden.audit.resistance import Resistance, resistance
from caseharden.records.results import Results
from caseharden.report.charts import attacks, kept, overview, panels, plane, plotted
from caseharden.report.export import save
from caseharden.report.page import drawers, flat, harmful, page, tables
from caseharden.report.style import Names, counted
from caseharden.report.table import rows

SAMPLES_EACH = 3
"""How many samples a report shows of one measure at one budget of one attack; the store has them all."""


def write_html(results: Results, path: str | Path, reveal: bool = False) -> Path:
    """Write the report and return its path. Harmful answers are left out of the file unless `reveal`.

    Raises `CasehardenError` if the file cannot be written.
    """
    return save(path, render(results, reveal))


def render(results: Results, reveal: bool = False) -> str:
    """The page as a string."""
    found = resistance(results)
    names = Names(found)
    lines = rows(results)
    budgets = sorted({point.budget for curve in results.curves for point in curve.points})
    beside_bystander = kept(found, names)
    charts = [
        overview(found, names, results.phi),
        plane(found, names, results.phi),
        *panels(found, names, results.phi, attacks(found, names)),
        *([beside_bystander] if beside_bystander else []),
    ]
    every = [plotted(each, runs, names) for each in found for runs in each.attacks]
    hidden = set() if reveal else harmful(results.samples)
    return page(
        "report.html.j2",
        charts if lines else [],
        results=results,
        reveal=reveal,
        rows=lines,
        by_model=[(model, list(group)) for model, group in groupby(lines, key=lambda row: row.model)],
        notices=_notices(results, found, names),
        attacks=attacks(found, names),
        series=[(names.style(each), names.series(each)) for each in found],
        levels_reached=[
            (row.style, names.series(each), row.attack, row.reached) for row, each in zip(lines, found, strict=True)
        ],
        bystanders=beside_bystander is not None,
        budgets=budgets,
        tables=tables(every, budgets),
        drawers=drawers(every, results.samples, hidden, SAMPLES_EACH),
        provenance=flat(results.provenance),
    )


def _notices(results: Results, found: Sequence[Resistance], names: Names) -> list[str]:
    """What a reader has to know before believing the scoreboard."""
    notices = []
    if missing := results.progress.get("missing", 0):
        notices.append(
            f"This study is not finished: {counted(missing, 'run')} to go. Its figures may still change."
        )
    if results.failures:
        notices.append(
            f"{counted(len(results.failures), 'run')} failed; no figure here counts it as anything. "
            "A failed attack is never evidence of resistance: what it would have done is unknown."
        )
    for each in found:
        if each.is_control and each.worst.steps.censored and each.worst.after.budget > 0:
            notices.append(
                f"No attack broke {names.series(each)} within {each.worst.steps.budget} steps. Unless this model "
                "has nothing to give away, the attacks are too weak to say anything of a defense."
            )
    without = dict.fromkeys(each.model for each in found if not each.undefended)
    notices += [f"{model} was not attacked undefended: nothing shows what a defense adds." for model in without]
    unscored = sum(each.worst.after.readings["harm"].unscored for each in found)
    if unscored:
        notices.append(
            f"{unscored} answers behind the scoreboard got no score from the judge and count as nothing."
        )
    return notices
