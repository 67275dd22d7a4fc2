"""A certificate as a block for a model card."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from caseharden.certificate.certificate import CONDITIONS, UNSIGNED, check_signature, fitting
from caseharden.certificate.keys import clean
from caseharden.errors import CasehardenError
from caseharden.report.document import PUBLIC, SECRET


def markdown(document: Mapping[str, Any]) -> str:
    """A block for a model card. Whatever a name or a summary holds, it is shown as text.

    Raises `CasehardenError` if `document` does not fit the schema or its signature is not valid.
    """
    document = fitting(document)
    statement = document["statement"]
    signed, findings = check_signature(statement, document["signature"], None, allow_unsigned=True)
    if document["signature"] is not None and signed is None:
        raise CasehardenError(f"{findings[0].text} Ask whoever made the certificate for the original.")
    threat, controls, subject = statement["threat_model"], statement["controls"], statement["subject"]
    conditions = {condition["name"]: condition for condition in statement["conditions"]}
    tried = ", ".join(f"{_escape(name)} ×{n}" for name, n in Counter(a["name"] for a in threat["attacks"]).items())
    disordered = "**The controls did not order as they must: no verdict above is to be trusted.**"
    by = f"Signed by the key with fingerprint `{signed}`, on {statement['issued']} by its owner's clock."
    lines = [
        "## Caseharden certificate",
        "",
        f"**{_escape(subject['name'])}**, compared with **{_escape(statement['baseline']['name'])}**.",
        "",
        f"| Condition | Verdict | Estimate | {threat['confidence']:.4g} interval | |",
        "|---|---|---|---|---|",
        *(_row(conditions[name]) for name in CONDITIONS),
        "",
        f"Usefulness before any attack: {'; '.join(map(_useful, statement['usefulness']))}.",
        "",
        *_came_back(statement["recovered"]),
        f"Threat model: {_attacks(threat)} on the domain {_escape(threat['domain'])} "
        f"({tried}), with seeds {', '.join(map(str, threat['seeds']))}, measured up to step "
        f"{max(threat['budgets'])} and judged within {threat['horizon']} steps; harm above φ = "
        f"{_number(threat['phi'])} counts as broken. Stable: at most {_number(threat['margin'])} worse. "
        f"Trainable: at most {_number(threat['slower'])} times the steps.",
        "",
        PUBLIC if threat["base_public"] else SECRET,
        "",
        "**This speaks of the attacks that were tried, not of the attacks that are possible.**",
        "",
        "The controls ordered as they must." if controls["trusted"] else disordered,
        *(f"- {_escape(finding)}" for finding in controls["findings"]),
        "",
        "Flags:" if statement["flags"] else "No flags.",
        *(f"- **{_escape(flag['name'])}**: {_escape(flag['detail'])}" for flag in statement["flags"]),
        "",
        f"Weights: `{subject['weights']}`",
        "",
        f"{by} Compare it with the one that its owner gives." if signed else f"**{UNSIGNED}**",
    ]
    return "\n".join(lines) + "\n"


def _attacks(threat: Mapping[str, Any]) -> str:
    suite = f"the suite {_escape(threat['suite'])}"
    return f"{_escape(threat['ensemble'])}, {suite}," if threat["ensemble"] else f"attacks of {suite}"


def _row(condition: Mapping[str, Any]) -> str:
    interval = _interval(condition["low"], condition["high"])
    cells = (condition["name"], condition["verdict"], _number(condition["estimate"]), interval)
    return f"| {' | '.join(cells)} | {_escape(condition['summary'])} |"


def _interval(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f"{_number(low)} to {_number(high)}"
    if low is not None:
        return f"at least {_number(low)}"
    return "–" if high is None else f"at most {_number(high)}"


def _useful(found: Mapping[str, Any]) -> str:
    """A measure of the subject and of the baseline."""
    ours, theirs = (_number(found[who]["value"]) for who in ("subject", "baseline"))
    return f"{_escape(found['measure'])} {ours}, baseline {theirs}"


def _came_back(found: Mapping[str, Any] | None) -> Iterator[str]:
    """How much harm the worst attack brought back, and beside whom."""
    if found is None:
        return
    ours = found["subject"]
    when = {True: "not by", False: "at"}
    levels = [
        f"{_number(level['harm'])} {when[level['steps']['censored']]} step {level['steps']['budget']}"
        for level in ours["levels"]
    ]
    most = [
        f"{name} {'at least ' if one['stopped'] else ''}{_number(one['most']['value'])}"
        for name, one in (("", ours), ("baseline", found["undefended"]), ("never learned", found["never_learned"]))
        if one
    ]
    yield f"How much came back, under {_escape(ours['attack'])}: harm above {', '.join(levels)}; most harm"
    yield f"{', '.join(most).strip()}; share {_number(found['share'])} ({_interval(found['low'], found['high'])})."
    yield ""


def _number(value: float | None) -> str:
    return "–" if value is None else str(value) if isinstance(value, int) else f"{value:.4g}"


def _escape(text: str) -> str:
    """`text` on one line, as text: nothing in it is Markdown or HTML, and nothing turns into a link."""
    line = re.sub(r"(?i)://|www(?=\.)|@", lambda found: f"{found[0]}\u200b", clean(text, len(text)))
    line = re.sub(r"[^\w\s.,;:?/%–\u200b-]|_|^-", lambda found: f"&#{ord(found[0])};", line)
    return re.sub(r"^(\d+)\.", r"\1&#46;", line)
