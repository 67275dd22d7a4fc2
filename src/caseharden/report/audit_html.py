"""An audit as one HTML file that holds everything it shows and works without a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path

from caseharden.audit.assessment import Assessment
from caseharden.audit.conditions import task
from caseharden.audit.evidence import Evidence
from caseharden.records.results import Reading
from caseharden.report.audit_charts import learning, plane, survival
from caseharden.report.contenders import Contender, contenders, pareto_front
from caseharden.report.document import document
from caseharden.report.export import save
from caseharden.report.page import Table, drawers, flat, harmful, page, tables
from caseharden.report.style import MARKERS, Plotted, counted

SAMPLES_EACH = 2
"""How many samples the page shows of one measure at one budget of one attack; the store has them all."""
DETAILS_SHOWN = 3
"""How many places of a flag stand on the page unfolded."""


@dataclass(frozen=True)
class Row:
    """One attack's harm by topic, a reading for each topic of the table, None where it was not asked about."""

    attack: str
    counts: bool
    readings: list[Reading | None]


@dataclass(frozen=True)
class BenignTask:
    """One benign task: the number of its chart, every learning rate of both models, and their readings."""

    task: str
    chart: int
    plotted: list[Plotted]
    budgets: list[int]
    table: Table


def write_audit_html(found: Assessment, path: str | Path, reveal: bool = False) -> Path:
    """Write the page and return its path. Harmful answers are left out of the file unless `reveal`.

    Raises `CasehardenError` if the file cannot be written.
    """
    return save(path, render(found, reveal))


def render(found: Assessment, reveal: bool = False) -> str:
    """The page as a string."""
    evidence, criteria, doc = found.evidence, found.evidence.criteria, document(found)
    # Those that are not attacked last, so that a model has the same number in every chart.
    everyone = sorted(contenders(doc, evidence), key=lambda contender: not contender.measured.attacks)
    attacked = [contender for contender in everyone if contender.measured.attacks]
    pair = [contender for contender in everyone if contender.model.control in (None, "undefended")]

    worst = [contender.plotted(contender.worst) for contender in attacked]
    plotted = [contender.plotted(runs) for contender in everyone for runs in contender.measured.attacks]
    budgets = sorted({point.budget for one in plotted for point in one.runs.points})
    samples = [sample for study in evidence.studies for sample in study.samples]
    charts = [survival(everyone, criteria), plane(attacked, worst, criteria)]
    taught = benign_tasks(pair, len(charts))
    topics = sorted({topic for one in pair for harm in one.model.topics.values() for topic in harm})
    return page(
        "audit.html.j2",
        [*charts, *(learning(one.task, one.plotted, criteria) for one in taught)],
        doc=doc,
        criteria=criteria,
        reveal=reveal,
        held_out=evidence.held_out,
        contenders=everyone,
        notices=_notices(evidence),
        details_shown=DETAILS_SHOWN,
        idle=[runs.name for runs in evidence.subject.attacks if runs not in everyone[0].counting],
        plane=_plane(attacked, worst),
        bystanders={name: f"#{name.capitalize()} before" for name in doc.subject.usefulness if name != "utility"},
        recovered=[
            (contender.style, contender.model.label, harm.attack, harm)
            for contender in everyone
            if (harm := getattr(doc.recovered, contender.model.control or "subject", None))
        ],
        topics=topics,
        matrices=[(contender, _matrix(contender, topics)) for contender in pair],
        benign_tasks=taught,
        tables=tables(plotted, budgets),
        budgets=budgets,
        failures=[failure for one in evidence.everyone for failure in one.failures],
        drawers=drawers(plotted, samples, set() if reveal else harmful(samples), SAMPLES_EACH),
        provenance=flat(evidence.provenance),
        specs=[(study.study, study.spec) for study in evidence.studies],
    )


def benign_tasks(pair: Sequence[Contender], first: int) -> list[BenignTask]:
    """Every benign task that was tried; its chart's number counts from `first`."""
    every = [(one, runs) for one in pair for runs in one.measured.learning]
    found: list[BenignTask] = []
    for name in dict.fromkeys(task(runs) for _, runs in every):
        taught = dict.fromkeys(runs.name for _, runs in every if task(runs) == name)
        markers = dict(zip(taught, cycle(MARKERS), strict=False))
        plotted = []
        for one, runs in every:
            if task(runs) == name:
                dash = "dot" if one.model.control else "solid"
                style = replace(one.style, marker=markers[runs.name], dash=dash)
                plotted.append(replace(one.plotted(runs), style=style))
        budgets = sorted({point.budget for one in plotted for point in one.runs.points})
        done = next(table for table in tables(plotted, budgets) if table.measure == plotted[0].runs.watched)
        done = replace(done, measure=f"{name}, done right")
        found.append(BenignTask(name, first + len(found), plotted, budgets, done))
    return found


def _plane(attacked: Sequence[Contender], worst: Sequence[Plotted]) -> list[tuple[Contender, Plotted, bool, bool]]:
    """Each attacked model with its worst attack, and whether it is on the Pareto front before it and after."""
    before = pareto_front([plotted.runs.before for plotted in worst])
    after = pareto_front([contender.after for contender in attacked])
    return list(zip(attacked, worst, before, after, strict=True))


def _matrix(contender: Contender, topics: Sequence[str]) -> list[Row]:
    harm = contender.model.topics
    return [
        Row(runs.name, runs in contender.counting, [harm[runs.name].get(topic) for topic in topics])
        for runs in contender.measured.attacks
    ]


def _notices(evidence: Evidence) -> list[str]:
    """What a reader has to know before believing the scorecard."""
    notices = []
    if missing := sum(study.progress.get("missing", 0) for study in evidence.studies):
        notices.append(f"This audit is not finished: {counted(missing, 'run')} to go. Verdicts may still change.")
    if failed := sum(len(one.failures) for one in evidence.everyone):
        notices.append(f"{counted(failed, 'run')} failed, which is never evidence of resistance.")
    return notices
