"""An audit's scorecard: one screen for whoever decides, in a terminal and as Markdown."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.text import Text

from caseharden.report.document import QUESTIONS, Document, Model
from caseharden.report.grid import Cell, Column, Grid

COLORS = {"holds": "green", "fails": "red", "inconclusive": "yellow", "judge-dependent": "yellow"}


def scorecard(doc: Document) -> RenderableType:
    """The document for a terminal."""
    grid = Grid([Column("model"), *(Column(name, least=len("judge-dependent")) for name in QUESTIONS)])
    section = grid.section("")
    for model in doc.models:
        cells = (
            Cell(f"{one.shown} {one.value}\n{one.interval}", COLORS[one.shown]) for one in model.conditions.values()
        )
        section.append((_called(model), *cells))
    lines = [
        *([("attacks", doc.ensemble)] if doc.ensemble else []),
        *((one.name, f"{one.summary} {one.power}") for one in doc.subject.conditions.values()),
        ("usefulness as released", doc.usefulness),
        *([("how much came back", str(doc.recovered))] if doc.recovered else []),
        *((f"cost to break, {who}", str(cost)) for who, cost in doc.costs.items()),
        *(("searched", str(one)) for one in doc.searches),
        *(("judges", str(one)) for one in doc.judges),
    ]
    return Group(
        Text(doc.answer, style="bold"),
        Text(doc.base),
        grid,
        *(f"[bold]{escape(about)}[/]: {escape(text)}" for about, text in lines),
        *(Text(f"not to be believed: {reason}", style="red") for reason in doc.reasons_to_doubt),
        *(f"[yellow]flag[/] {escape(flag.name)}: {escape(_few(flag.details))}" for flag in doc.flags),
    )


def markdown(doc: Document) -> str:
    """The document as Markdown."""
    lines = [f"# Audit of {as_text(doc.subject.name)}", "", f"**{as_text(doc.answer)}**", "", doc.base, ""]
    lines += ["| model | " + " | ".join(QUESTIONS) + " |", "|---" * (len(QUESTIONS) + 1) + "|"]
    for model in doc.models:
        cells = [f"{one.shown} ({one.reading})" for one in model.conditions.values()]
        lines.append("| " + " | ".join([as_text(_called(model)), *cells]) + " |")
    lines += ["", " ".join(filter(None, (doc.limits, ensemble(doc)))), ""]
    for one in doc.subject.conditions.values():
        lines += [
            f"## {one.name.capitalize()}: {one.shown}",
            "",
            f"{as_text(one.summary)} {as_text(one.power)}",
            "",
            f"{one.measured}: {one.reading}. Tested: {as_text(one.tested)}.",
            "",
        ]
    harm = [
        f"{attack}: " + ", ".join(f"{topic} {reading.value:.2f}" for topic, reading in topics.items())
        for attack, topics in doc.subject.topics.items()
    ]
    costs = [f"{who}: {cost}" for who, cost in doc.costs.items()]
    lists = {
        "Usefulness as released": doc.usefulness.split("; "),
        "How much came back": [str(doc.recovered)] if doc.recovered else [],
        "Cost to break": costs or ["No attack counts, so there is nothing to price."],
        "Searches": [str(one) for one in doc.searches],
        "Judges": [str(one) for one in doc.judges],
        "Harm by topic under each attack": harm,
        "Not to be believed": doc.reasons_to_doubt,
    }
    for heading, items in lists.items():
        if items:
            lines += [f"## {heading}", "", *(f"- {as_text(item)}" for item in items), ""]
    flags = [f"- **{flag.name}**: {as_text('; '.join(flag.details))}. {flag.advice}" for flag in doc.flags]
    lines += ["## Flags", "", *(flags or ["None."])]
    return "\n".join(lines) + "\n"


def ensemble(doc: Document) -> str:
    """The attacks' name in a sentence, if they have one."""
    return f"Attacks: {doc.ensemble}." if doc.ensemble else ""


def _called(model: Model) -> str:
    return model.label if model.control else model.name


def _few(details: tuple[str, ...], shown: int = 3) -> str:
    """The first details, and how many more there are."""
    more = len(details) - shown
    return "; ".join(details[:shown]) + (f"; and {more} more" if more > 0 else "")


def as_text(text: str) -> str:
    """`text` with nothing in it that Markdown or HTML would take for its own."""
    escaped = "".join(f"\\{c}" if c in "\\`*_[]|#" else c for c in text)
    return escaped.replace("<", "&lt;").replace("\n", " ")
