"""The command that audits a model, and the one that checks an audit's certificate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from caseharden import api
from caseharden.cli import show, studies, terminal
from caseharden.errors import CasehardenError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from caseharden.audit.assessment import Assessment


def audit(
    model: Annotated[str, typer.Argument(help="Model up for release: built-in name, folder or hub id.")],
    baseline: Annotated[str, typer.Option(help="The same model without the defense.")],
    domain: studies.DomainText = "almanac",
    suite: Annotated[str, typer.Option(help="quick, standard, thorough, or a file like theirs.")] = "quick",
    ceiling: Annotated[
        str | None, typer.Option(help="A model that never learned what is forbidden, if there is one.")
    ] = None,
    held_out: Annotated[
        str, typer.Option(help="Topics that the defense had no data of, with commas between.")
    ] = "",
    thinking: studies.Thinking = None,
    precision: studies.PrecisionText = "auto",
    checkpointing: studies.Checkpointing = False,
    offload: studies.Offload = False,
    store: Annotated[
        Path, typer.Option(help="Folder of the store; audits in one store share their controls.")
    ] = Path("out/audit"),
    json: Annotated[Path | None, typer.Option(help="Write the assessment as JSON.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write it as Markdown.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write it as one page that works offline.")] = None,
    reveal: Annotated[bool, typer.Option("--reveal", help="Include harmful answers in the HTML file.")] = False,
    figures: Annotated[
        Path | None, typer.Option(help="Write PNG and SVG figures of the attacks to this folder.")
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(help="Write a certificate, and FILE.md for a model card.")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="Sign the certificate with this private key.")] = None,
    base_public: Annotated[
        bool | None,
        typer.Option(
            "--base-public/--base-secret",
            help="Whether anybody can have the baseline's weights; by default, if it is named by a hub id.",
        ),
    ] = None,
    every_stage: Annotated[
        bool, typer.Option("--every-stage", help="Run further stages of attacks though the model has failed.")
    ] = False,
    threads: studies.Threads = None,
    jobs: studies.Jobs = None,
    on: studies.On = None,
) -> None:
    """Attack a model and its controls, and judge resistance, stability, generalization and trainability."""
    from dataclasses import asdict
    from functools import partial

    from caseharden.certificate.card import markdown as as_block
    from caseharden.certificate.certificate import as_text
    from caseharden.certificate.keys import load_key
    from caseharden.report import audit_html, export, scorecard
    from caseharden.report.document import document
    from caseharden.report.model_card import has_place, put_audit
    from caseharden.study.spec import read_yaml

    for option, needed, given in (("--key", "--certificate", certificate), ("--reveal", "--html", html)):
        if (key if option == "--key" else reveal) and not given:
            raise CasehardenError(f"{option} is of use only with {needed}. Give both.")
    if certificate and export.is_special(certificate):
        raise CasehardenError(f"--certificate {certificate}: its card is written beside it. Name a file.")
    signer = load_key(key) if key else None
    console = show.console_beside(json, markdown, html)
    domain = studies.written_in(domain)
    found = api.audit(
        model,
        baseline,
        domain=read_yaml(domain),
        suite=suite,
        ceiling=ceiling,
        held_out=[part.strip() for part in held_out.split(",") if part.strip()],
        reasoning={"thinking": thinking},
        precision=precision,
        memory={"checkpointing": checkpointing, "offload": offload},
        store=store,
        threads=threads,
        jobs=jobs,
        on=on,
        every_stage=every_stage,
        base_public=base_public,
        progress=partial(studies.watch, console=console),
    )
    doc = document(found)
    console.print(scorecard.scorecard(doc))
    if json:
        export.save(json, export.dumped(asdict(doc)))
    if markdown:
        export.save(markdown, scorecard.markdown(doc))
    if html:
        audit_html.write_audit_html(found, html, reveal)
    if figures:
        from caseharden.records.results import joined
        from caseharden.report.figures import write_figures

        write_figures(joined(found.evidence.attack_studies), figures)
    place = has_place(Path(model))
    if certificate or place:
        stated = _certified(found, (model, baseline), signer, (domain, suite))
        block = as_block(stated)
    if certificate:
        export.save(certificate, as_text(stated))
        export.save(certificate.with_name(f"{certificate.name}.md"), block)
    card = None
    if place:
        try:
            card = put_audit(Path(model), block)
        except CasehardenError as error:  # nobody has asked for it: the audit stands without
            console.print(f"[yellow]the model card stays as it is:[/] {escape(str(error))}", soft_wrap=True)
    for path in (json, markdown, html, figures, certificate, card):
        if path:
            show.say(f"wrote {path}", console)
    raise typer.Exit(0 if all(study.complete for study in found.evidence.studies) else 1)


def verify(
    certificate: Annotated[Path, typer.Argument(help="The certificate.")],
    model: Annotated[str, typer.Argument(help="The model that it is to speak of: name, folder or hub id.")],
    signer: Annotated[Path | None, typer.Option(help="Public key that must have signed it.")] = None,
    store: Annotated[Path | None, typer.Option(help="Store of the audit, to compare its records.")] = None,
    allow_unsigned: Annotated[bool, typer.Option("--allow-unsigned", help="Pass one that nobody signed.")] = False,
) -> None:
    """Check that a certificate speaks of these weights and was not altered; exit status 1 if not."""
    from caseharden.certificate import certificate as certificates
    from caseharden.certificate.keys import load_public_key
    from caseharden.certificate.statement import records
    from caseharden.lm import sources as models
    from caseharden.lm.facts import fingerprint
    from caseharden.suites.question import audited

    try:
        text = certificate.read_bytes()
    except OSError as error:
        raise CasehardenError(f"cannot read the certificate {certificate}: {error.strerror}.") from error
    mark = fingerprint(models.resolve(model))
    behind = None
    if store:
        digests = [
            certificates.digest(records(one)) for one in audited(studies.opened(store, create=False), mark).values()
        ]
        # The store may hold several audits of these weights: the one certified, or any to say that it is not there.
        behind = next((one for one in digests if one.encode() in text), digests[0] if digests else "none")
    key = load_public_key(signer) if signer else None
    found = certificates.verify(text, mark, records=behind, signer=key, allow_unsigned=allow_unsigned)
    words = {True: "[green]ok[/]", False: "[red]no[/]", None: "[yellow]--[/]"}
    for finding in found.findings:
        terminal.console().print(f"{words[finding.passed]} {escape(finding.text)}", soft_wrap=True, highlight=False)
    raise typer.Exit(0 if found.ok else 1)


def new_key(
    path: Annotated[Path, typer.Argument(help="File for the private key; the public one is PATH.pub.")],
) -> None:
    """Make a key to sign certificates with."""
    from caseharden.certificate import keys

    made = keys.new_key(path)
    show.say(f"private key in {path}, public key in {path}.pub")
    show.say(f"fingerprint {keys.key_fingerprint(made.public_key())}")


def _certified(
    found: Assessment, models: tuple[str, str], key: Ed25519PrivateKey | None, asked: tuple[str, str]
) -> dict[str, Any]:
    """The certificate, signed if there is a key."""
    from datetime import UTC, datetime

    from caseharden.certificate import certificate as certificates
    from caseharden.certificate.statement import statement
    from caseharden.lm import sources
    from caseharden.lm.facts import fingerprint

    subject, baseline = (fingerprint(sources.resolve(model)) for model in models)
    stated = statement(found, {"subject": subject, "baseline": baseline}, *asked, issued=datetime.now(UTC))
    return certificates.sign(stated, key) if key else certificates.certificate(stated)
