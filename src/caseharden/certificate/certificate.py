"""Certificates: what an audit of certain weights found, who signs for it, and how anyone can check that."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.resources import files
from itertools import islice
from typing import Any, cast

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from jsonschema import Draft202012Validator

from caseharden.certificate.keys import clean, key_fingerprint
from caseharden.errors import CasehardenError

FORMAT = 1
"""The only format of a statement that this version writes and reads."""

CONDITIONS = ("resistance", "stability", "generalization", "trainability")
PREFIX = b"caseharden certificate v1\n"
"""Goes before what is signed, so that no signature made for another purpose counts as one of a certificate."""

LONGEST = 2**20
"""Characters of a certificate. What is longer is refused unread."""

UNSIGNED = "Nobody has signed this: anyone may have made it, and anything that it says may have been altered."

MALFORMED = (ValueError, TypeError, RecursionError, CasehardenError)
"""What reading somebody else's file may raise."""


@dataclass(frozen=True)
class Finding:
    """One thing that was checked, and what came of it in words; `passed` is None if it could not be checked."""

    check: str
    passed: bool | None
    text: str


@dataclass(frozen=True)
class Verification:
    """What came of checking a certificate. `signer` is the fingerprint of the key whose signature is valid."""

    findings: tuple[Finding, ...]
    signer: str | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing that was checked failed."""
        return all(finding.passed is not False for finding in self.findings)

    @property
    def signed(self) -> bool:
        """Whether a valid signature stands under the statement."""
        return self.signer is not None


def schema() -> dict[str, Any]:
    """The published JSON Schema of a certificate, draft 2020-12."""
    return dict(json.loads(files("caseharden.certificate").joinpath("certificate.schema.json").read_text("utf-8")))


def canonical(value: Any) -> bytes:
    """`value` as JSON that depends on nothing but its content: sorted keys, no whitespace, UTF-8.

    Raises `CasehardenError` for what JSON does not have: NaN, infinities, other types.
    """
    return _dumps(value, separators=(",", ":")).encode()


def digest(records: Iterable[Mapping[str, Any]]) -> str:
    """SHA-256 over all records, in whatever order they come: over their number and their own SHA-256s, sorted.

    Any altered, missing, additional or doubled record changes it. Raises `CasehardenError` as `canonical` does.
    """
    each = sorted(hashlib.sha256(canonical(dict(record))).hexdigest() for record in records)
    return hashlib.sha256("\n".join([f"caseharden records v1 {len(each)}", *each]).encode()).hexdigest()


def certificate(statement: Mapping[str, Any]) -> dict[str, Any]:
    """The certificate of `statement` that nobody has signed yet: its signature is None.

    Raises `CasehardenError` if the statement does not fit the schema, or contradicts itself.
    """
    return fitting({"statement": dict(statement), "signature": None})


def sign(statement: Mapping[str, Any], key: Ed25519PrivateKey) -> dict[str, Any]:
    """The certificate of `statement`, signed with `key`. Raises `CasehardenError` as `certificate` does."""
    document = certificate(statement)
    value = key.sign(PREFIX + canonical(document["statement"]))
    signature = {
        "algorithm": "ed25519",
        "public_key": base64.b64encode(key.public_key().public_bytes_raw()).decode(),
        "value": base64.b64encode(value).decode(),
    }
    return {**document, "signature": signature}


def as_text(document: Mapping[str, Any]) -> str:
    """A certificate as it stands in its file: this text and no other is one. Raises as `canonical` does."""
    return _dumps(document, indent=1) + "\n"


def verify(
    text: str | bytes,
    weights: str,
    *,
    records: str | None = None,
    signer: Ed25519PublicKey | None = None,
    allow_unsigned: bool = False,
) -> Verification:
    """Check the certificate in `text` against the fingerprint of the `weights` at hand; no content raises.

    `records` is the `digest` of the records at hand, `signer` the key that must have signed. Without a signature a
    certificate fails, unless `allow_unsigned`: then what it says was not protected from anybody.
    """
    try:
        text = text if isinstance(text, str) else text.decode()
        document = _read(text)
        wrong = _misfits(document)
        alike = not wrong and as_text(document) == text
    except MALFORMED as error:
        wrong = [clean(error)]
    if wrong:
        reason = f"This is no certificate of format {FORMAT}, so nothing else was checked: {'; '.join(wrong)}."
        return Verification((Finding("form", False, reason),))
    as_written = "The file has the form of a certificate, as Caseharden writes it."
    rewritten = "The file was changed after it was written, if only in its spacing or the order of its keys."
    statement, signature = document["statement"], document["signature"]
    signed, checked = check_signature(statement, signature, signer, allow_unsigned)
    findings = (
        Finding("form", alike, as_written if alike else rewritten),
        *checked,
        _compare("weights", statement["subject"]["weights"], str(weights)),
        _compare("records", statement["records"]["sha256"], records),
    )
    return Verification(findings, signed)


def _dumps(value: Any, **style: Any) -> str:
    try:
        text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, **style)
        text.encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise CasehardenError(
            f"this cannot be written as JSON: {clean(error)}. Use plain values, and null for what is not a number."
        ) from error
    return text


def _read(text: str) -> dict[str, Any]:
    """The JSON in `text`, each key only once. Raises what `MALFORMED` lists."""
    if len(text) > LONGEST:
        raise ValueError(f"it is longer than {LONGEST} characters")
    hooks: dict[str, Any] = {"object_pairs_hook": _each_once, "parse_float": _finite, "parse_constant": _finite}
    return cast(dict[str, Any], json.loads(text, **hooks))


def _each_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    twice = [key for key, n in Counter(key for key, _ in pairs).items() if n > 1]
    if twice:
        raise ValueError(f"it has the key {twice[0]!r} twice in one object")
    return dict(pairs)


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"it has {text}, which is not a finite number")
    return value


@cache
def _validator() -> Draft202012Validator:
    return Draft202012Validator(schema())


def _misfits(document: Any) -> list[str]:
    """Where `document` does not fit the schema or contradicts itself, in words; the first few."""
    errors = islice(_validator().iter_errors(document), 5)
    wrong = [f"at {clean(error.json_path)}: {clean(error.message)}" for error in errors]
    if wrong:
        return wrong
    statement = document["statement"]
    estimates = [(one["name"], one["low"], one["estimate"], one["high"]) for one in statement["conditions"]]
    readings = [(one["measure"], one[who]) for one in statement["usefulness"] for who in ("subject", "baseline")]
    if back := statement["recovered"]:
        estimates.append(("the share that came back", back["low"], back["share"], back["high"]))
        found = (back[who] for who in ("subject", "undefended", "never_learned"))
        readings += [("the most harm", one["most"]) for one in found if one]
    estimates += [(name, one["low"], one["value"], one["high"]) for name, one in readings]
    for name, *numbers in estimates:
        known = [number for number in numbers if number is not None]
        if known != sorted(known):
            wrong.append(f"the estimate of {clean(name)} lies outside its interval")
    try:
        datetime.fromisoformat(statement["issued"])
    except ValueError:
        wrong.append(f"{clean(statement['issued'])} is no date and time")
    return wrong


def fitting(document: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `document`, which fits the schema, or else a `CasehardenError`."""
    try:
        copy = _read(as_text(dict(document)))
        wrong = _misfits(copy)
    except (ValueError, TypeError, RecursionError) as error:
        wrong = [clean(error)]
    if wrong:
        raise CasehardenError(f"this cannot be certified: {'; '.join(wrong)}. Put it right in the statement.")
    return copy


def check_signature(
    statement: Mapping[str, Any],
    signature: Mapping[str, str] | None,
    expected: Ed25519PublicKey | None,
    allow_unsigned: bool,
) -> tuple[str | None, list[Finding]]:
    """The fingerprint of who has signed, if the signature is valid, and what was found."""
    if signature is None:
        text = f"{UNSIGNED} Only the digests below were compared."
        return None, [Finding("signature", None if allow_unsigned and expected is None else False, text)]
    try:
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(signature["public_key"]))
        key.verify(base64.b64decode(signature["value"]), PREFIX + canonical(statement))
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        text = "The signature is not valid: the statement or the signature was altered after signing."
        return None, [Finding("signature", False, text)]
    mark = key_fingerprint(key)
    valid = Finding("signature", True, "The signature is valid: the statement is as its signer made it.")
    if expected is None:
        text = (
            f"Signed by the key with fingerprint {mark}. Only the owner of that key stands behind this, and anyone "
            "can sign with a key of their own: compare the fingerprint with one that you have from the signer."
        )
        return mark, [valid, Finding("signer", None, text)]
    same = key.public_bytes_raw() == expected.public_bytes_raw()
    text = f"Signed by the key with fingerprint {mark}, "
    text += "as expected." if same else f"and not by the expected one, {key_fingerprint(expected)}."
    return mark, [valid, Finding("signer", same, text)]


def _compare(what: str, certified: str, here: str | None) -> Finding:
    if here is None:
        return Finding(what, None, f"No {what} were given, so they were not compared.")
    same = f"The {what} at hand are those of the certificate."
    different = f"The {what} at hand ({clean(here)}) are not those of the certificate ({certified})."
    return Finding(what, here == certified, same if here == certified else different)
