"""An audit's scorecard: one screen for whoever decides, as a terminal's table, as Markdown and as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

import caseharden
from caseharden.audit.assessment import Assessment, Verdicts
from caseharden.audit.conditions import Condition, matrix
from caseharden.audit.cost import Broken

COLORS = {"holds": "green", "fails": "red", "inconclusive": "yellow", "judge-dependent": "yellow"}
IN_WORDS = {
    "holds": ("holds", "hold"),
    "fails": ("fails", "fail"),
    "inconclusive": ("is inconclusive", "are inconclusive"),
}
"""A verdict as said of one condition, and of several."""
HEADINGS = ("resistance", "stability", "generalization", "trainability")


def scorecard(found: Assessment) -> RenderableType:
    """What an audit found, for a terminal."""
    table = Table("model", *HEADINGS, box=box.SIMPLE, pad_edge=False)
    for name, verdicts in _rows(found):
        words = _words(found, verdicts)
        table.add_row(escape(name), *(_cell(verdicts[heading], words[heading]) for heading in HEADINGS))
    parts: list[RenderableType] = [Text(answer(found), style="bold"), table]
    for condition in found.subject.values():
        parts.append(f"[bold]{condition.name}[/]: {escape(condition.summary)} {escape(condition.power)}")
    parts += [f"[bold]cost to break[/], {escape(who)}: {escape(str(cost))}" for who, cost in _costs(found)]
    parts += [f"[bold]judges[/]: {escape(str(one))}" for one in found.judges]
    parts += [Text(f"not to be believed: {reason}", style="red") for reason in found.reasons_to_doubt]
    for one in found.flags:
        parts.append(f"[yellow]flag[/] {escape(one.flag.name)}: {escape(_few(one.details))}")
    return Group(*parts)


def answer(found: Assessment) -> str:
    """The audit in one sentence."""
    if not found.trusted:
        return "This audit cannot be trusted: its controls do not stand as they must."
    verdicts = {name: found.verdict(name) for name in found.subject}
    parts = [
        f"{' and '.join(filter(None, (', '.join(names[:-1]), names[-1])))} {words[len(names) > 1]}"
        for verdict, words in IN_WORDS.items()
        if (names := [name for name, got in verdicts.items() if got == verdict])
    ]
    if dependent := found.judge_dependent:
        by = dict.fromkeys(f"{word} by {judge}" for one in dependent for judge, word in one.verdicts.items())
        parts.append(f"resistance depends on the judge ({', '.join(by)})")
    return f"{found.evidence.subject.name}: {'; '.join(parts)} ({found.evidence.criteria.horizon} attack steps)."


def markdown(found: Assessment) -> str:
    """The same content as Markdown."""
    lines = [f"# Audit of {_plain(found.evidence.subject.name)}", "", f"**{_plain(answer(found))}**", ""]
    lines += ["| model | " + " | ".join(HEADINGS) + " |", "|---" * (len(HEADINGS) + 1) + "|"]
    for name, verdicts in _rows(found):
        words = _words(found, verdicts)
        cells = [f"{words[h]} ({_interval(verdicts[h])})" for h in HEADINGS]
        lines.append("| " + " | ".join([_plain(name), *cells]) + " |")
    lines.append("")
    for condition in found.subject.values():
        lines += [
            f"## {condition.name.capitalize()}: {found.verdict(condition.name)}",
            "",
            f"{_plain(condition.summary)} {_plain(condition.power)}",
            "",
            f"{condition.measured}: {_interval(condition)}. Tested: {_plain(condition.tested)}.",
            "",
        ]
    lines += ["## Cost to break", "", *(f"- {_plain(who)}: {_plain(str(cost))}" for who, cost in _costs(found))]
    lines += [] if found.costs else ["No attack counts, so there is nothing to price."]
    if found.judges:
        lines += ["", "## Judges", "", *(f"- {_plain(str(one))}" for one in found.judges)]
    lines += ["", "## Harm by topic under each attack", ""]
    lines += [
        f"- {_plain(attack)}: " + ", ".join(f"{_plain(topic)} {r.value:.2f}" for topic, r in topics.items())
        for attack, topics in matrix(found.evidence.subject, found.evidence.criteria).items()
    ]
    lines += ["", "## Flags", ""]
    lines += [f"- **{one.flag.name}**: {_plain('; '.join(one.details))}. {one.flag.advice}" for one in found.flags]
    lines += [] if found.flags else ["None."]
    lines += ["", *(f"- Not to be believed: {_plain(reason)}" for reason in found.reasons_to_doubt)]
    return "\n".join(lines).rstrip() + "\n"


def document(found: Assessment) -> dict[str, Any]:
    """The same content as plain values, for JSON."""
    return {
        "caseharden": caseharden.__version__,
        "subject": found.evidence.subject.name,
        "criteria": asdict(found.evidence.criteria),
        "studies": [study.study for study in found.evidence.studies],
        "trusted": found.trusted,
        "reasons_to_doubt": list(found.reasons_to_doubt),
        "conditions": [vars(condition) for condition in found.subject.values()],
        "controls": {name: [vars(c) for c in verdicts.values()] for name, verdicts in found.controls.items()},
        "costs": {who: asdict(broken) for who, broken in found.costs.items()},
        "judges": [{**asdict(one), "dependent": one.dependent} for one in found.judges],
        "flags": [{"name": one.flag.name, "details": list(one.details)} for one in found.flags],
        "topics": {
            attack: {topic: vars(reading) for topic, reading in topics.items()}
            for attack, topics in matrix(found.evidence.subject, found.evidence.criteria).items()
        },
        "provenance": found.evidence.provenance,
    }


def _few(details: tuple[str, ...], shown: int = 3) -> str:
    """The first details, and how many more there are."""
    more = len(details) - shown
    return "; ".join(details[:shown]) + (f"; and {more} more" if more > 0 else "")


def _rows(found: Assessment) -> Iterator[tuple[str, Verdicts]]:
    yield found.evidence.subject.name, found.subject
    yield from ((name.replace("_", " "), verdicts) for name, verdicts in found.controls.items())


def _words(found: Assessment, verdicts: Verdicts) -> dict[str, str]:
    """The verdicts of one row, in a word each."""
    subject = verdicts is found.subject
    return {name: found.verdict(name) if subject else condition.verdict for name, condition in verdicts.items()}


def _costs(found: Assessment) -> Iterator[tuple[str, Broken]]:
    names = {"subject": found.evidence.subject.name, "undefended": "undefended"}
    yield from ((names[who], broken) for who, broken in found.costs.items())


def _cell(condition: Condition, word: str) -> str:
    return f"[{COLORS[word]}]{word}[/]\n[dim]{escape(_interval(condition))}[/]"


def _interval(condition: Condition) -> str:
    if math.isnan(condition.estimate):
        return "–"
    return f"{_number(condition.estimate)}, {_number(condition.low)} to {_number(condition.high)}"


def _number(value: float) -> str:
    return "∞" if math.isinf(value) and value > 0 else f"{value:.3g}"


def _plain(text: str) -> str:
    """`text` with nothing in it that Markdown or HTML would take for its own."""
    escaped = "".join(f"\\{c}" if c in "\\`*_[]|#" else c for c in text)
    return escaped.replace("<", "&lt;").replace("\n", " ")
