"""Certificates: what was altered is found, what is garbage is told so, and nothing breaks out of a model card."""

from __future__ import annotations

import base64
import copy
import json
import random
import re
import stat
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from caseharden.audit.card import markdown
from caseharden.audit.certificate import (
    CONDITIONS,
    FORMAT,
    Verification,
    as_text,
    canonical,
    certificate,
    digest,
    schema,
    sign,
    verify,
)
from caseharden.audit.keys import key_fingerprint, load_key, load_public_key, new_key
from caseharden.errors import CasehardenError

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
STRANGER = Ed25519PrivateKey.from_private_bytes(bytes(32))
WEIGHTS = "ab" * 32
RECORDS = [{"cell": f"c{i}", "budget": i % 5, "value": i / 7, "unscored": None} for i in range(20)]
ORDER_OF_THE_CURVE = 2**252 + 27742317777372353535851937790883648493


def statement(**changes: Any) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "subject": {"name": "almanac-victim, hardened", "weights": WEIGHTS},
        "baseline": {"name": "almanac-victim", "weights": "cd" * 32},
        "harness": {"caseharden": "0.2.0", "code": "ef" * 32, "packages": {"torch": "2.11.0"}},
        "threat_model": {
            "domain": "almanac",
            "data": "12" * 32,
            "phi": 0.5,
            "horizon": 100,
            "margin": 0.02,
            "slower": 1.5,
            "learned": 0.5,
            "capable": 0.8,
            "confidence": 0.95,
            "held_out": ["snare"],
            "attacks": [
                {"name": "sft", "fields": {"lr": 1e-4, "data": {"harmful": 1.0}}},
                {"name": "sft", "fields": {"lr": 3e-4}},
                {"name": "grpo", "fields": {}},
            ],
            "budgets": [0, 5, 100],
            "seeds": [0, 1],
            "suite": "standard",
        },
        "judges": [{"measure": "harm", "judge": "verifier", "version": "1"}],
        "conditions": [
            {
                "name": name,
                "verdict": "holds",
                "estimate": 0.25,
                "low": 0.125,
                "high": 1,
                "summary": "Harm, 2 seeds",
            }
            for name in CONDITIONS
        ],
        "controls": {"trusted": True, "findings": ["the never-learned twin gave nothing away"]},
        "flags": [{"name": "edge of the grid", "detail": "the worst learning rate is the largest"}],
        "records": {"count": len(RECORDS), "sha256": digest(RECORDS)},
        "issued": "2026-03-01T12:00:00Z",
        **changes,
    }


SIGNED = as_text(sign(statement(), KEY))


def check(text: str | bytes, weights: str = WEIGHTS, records: Any = RECORDS, **options: Any) -> Verification:
    options = {"signer": KEY.public_key(), **options}
    return verify(text, weights, records=digest(records), **options)


def failed(found: Verification) -> set[str]:
    return {finding.check for finding in found.findings if finding.passed is False}


def test_what_was_signed_is_verified():
    found = check(SIGNED)
    assert found.ok and found.signed and found.signer == key_fingerprint(KEY.public_key())
    assert [finding.passed for finding in found.findings] == [True] * 5
    assert check(SIGNED.encode()) == found


def test_without_records_and_signer_it_is_said_what_was_not_checked():
    found = verify(SIGNED, WEIGHTS)
    assert found.ok
    unchecked = {finding.check: finding.text for finding in found.findings if finding.passed is None}
    assert set(unchecked) == {"signer", "records"}
    assert key_fingerprint(KEY.public_key()) in unchecked["signer"]
    assert "anyone can sign with a key of their own" in unchecked["signer"]


def test_an_unsigned_one_does_not_pass_unless_that_is_allowed():
    text = as_text(certificate(statement()))
    assert failed(verify(text, WEIGHTS)) == {"signature"}
    allowed = verify(text, WEIGHTS, allow_unsigned=True)
    assert allowed.ok and not allowed.signed
    assert "anything that it says may have been altered" in allowed.findings[1].text
    assert failed(verify(text, "0" * 64, allow_unsigned=True)) == {"weights"}
    assert failed(check(text, allow_unsigned=True)) == {"signature"}, "somebody's signature was expected"


def test_the_order_of_keys_and_records_decides_nothing():
    backwards = dict(reversed(statement().items()))
    assert as_text(sign(backwards, KEY)) == SIGNED
    assert digest(reversed(RECORDS)) == digest(RECORDS)
    assert canonical({"b": [1, None], "a": "é"}) == '{"a":"é","b":[1,null]}'.encode()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, "\ud800", {"a": object()}])
def test_what_json_does_not_have_is_refused(value):
    with pytest.raises(CasehardenError, match="null for what is not a number"):
        canonical(value)
    with pytest.raises(CasehardenError):
        certificate(statement(flags=value))
    with pytest.raises(CasehardenError):
        digest([{"value": value}])


def walk(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value inside `value`."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from walk(item, (*path, key))


def at(document: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        document = document[key]
    return document


def other(value: Any, rng: random.Random) -> Any:
    """A value that is not `value`, of the same type where there is one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return rng.choice([value + 1, -value - 1, value + 1e-9, None, str(value)])
    if isinstance(value, str) and value:
        i = rng.randrange(len(value))
        return value[:i] + chr((ord(value[i]) - 32) % 94 + 33) + value[i + 1 :]
    return rng.choice([0, "x", [value], {"x": value}, False])


def test_the_schema_is_one_and_describes_every_key():
    Draft202012Validator.check_schema(schema())
    document = json.loads(SIGNED)
    assert Draft202012Validator(schema()).is_valid(document)
    for path in walk(schema()):
        if len(path) > 2 and path[-2] == "properties" and isinstance(path[-1], str) and "allOf" not in path:
            assert at(schema(), path).get("description"), path
            assert at(schema(), path).keys() & {"type", "$ref", "const", "enum"}, path


FREE = ("fields", "packages")
"""What they hold is not for the schema to say."""
PLACES = [path for path in walk(json.loads(SIGNED)) if not {*FREE} & {*path[:-1]}]


@pytest.mark.parametrize("path", [p for p in PLACES if isinstance(p[-1], str)], ids=str)
def test_the_schema_misses_every_key(path):
    document = json.loads(SIGNED)
    del at(document, path[:-1])[path[-1]]
    assert failed(check(as_text(document))) == {"form"}


@pytest.mark.parametrize(
    "path",
    [
        p
        for p in [(), *PLACES]
        if isinstance(at(json.loads(SIGNED), p), dict) and p[-1:] not in [(f,) for f in FREE]
    ],
    ids=str,
)
def test_the_schema_knows_no_other_key(path):
    document = json.loads(SIGNED)
    at(document, path)["more"] = "x"
    assert failed(check(as_text(document))) == {"form"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", 2),
        ("format", True),
        ("subject", {"name": "m", "weights": "AB" * 32}),
        ("subject", {"name": "m", "weights": WEIGHTS + "\n"}),
        ("subject", {"name": "  ", "weights": WEIGHTS}),
        ("conditions", statement()["conditions"][:3]),
        ("conditions", [statement()["conditions"][0]] * 4),
        ("conditions", [{**c, "low": 0.5} for c in statement()["conditions"]]),
        ("conditions", [{**c, "verdict": "probably"} for c in statement()["conditions"]]),
        ("conditions", [{**c, "estimate": 10**400, "high": None} for c in statement()["conditions"]]),
        ("controls", {"trusted": "yes", "findings": []}),
        ("threat_model", {**statement()["threat_model"], "attacks": []}),
        ("threat_model", {**statement()["threat_model"], "phi": 1.0}),
        ("records", {"count": -1, "sha256": digest([])}),
        ("issued", "2026-02-30T12:00:00Z"),
        ("issued", "2026-03-01T12:00:00Z\n"),
        ("issued", "2026-03-01T12:00:00+02:00"),
    ],
)
def test_a_statement_that_makes_no_sense_is_not_certified(key, value):
    with pytest.raises(CasehardenError, match="cannot be certified"):
        sign(statement(**{key: value}), KEY)


def flipped(rng: random.Random) -> Verification:
    data = bytearray(SIGNED.encode())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return check(bytes(data))


def cut_or_doubled(rng: random.Random) -> Verification:
    start, end = sorted(rng.sample(range(len(SIGNED)), 2))
    return check(rng.choice([SIGNED[:start] + SIGNED[end:], SIGNED[:end] + SIGNED[start:], SIGNED[:start]]))


def changed(rng: random.Random) -> Verification:
    document = json.loads(SIGNED)
    *path, last = rng.choice(list(walk(document)))
    at(document, tuple(path))[last] = other(at(document, (*path, last)), rng)
    return check(as_text(document))


def removed(rng: random.Random) -> Verification:
    document = json.loads(SIGNED)
    *path, last = rng.choice(list(walk(document)))
    del at(document, tuple(path))[last]
    return check(as_text(document))


def added(rng: random.Random) -> Verification:
    document = json.loads(SIGNED)
    inside = [p for p in [(), *walk(document)] if isinstance(at(document, p), dict | list)]
    box = at(document, rng.choice(inside))
    box.update(more=1) if isinstance(box, dict) else box.append(copy.deepcopy(rng.choice(box)))
    return check(as_text(document))


def other_weights(rng: random.Random) -> Verification:
    i = rng.randrange(64)
    return check(SIGNED, weights=WEIGHTS[:i] + "0" + WEIGHTS[i + 1 :])


def other_records(rng: random.Random) -> Verification:
    records = copy.deepcopy(RECORDS)
    i = rng.randrange(len(records))
    how = rng.choice(["altered", "missing", "doubled", "moved"])
    if how == "altered":
        key = rng.choice(list(records[i]))
        records[i][key] = other(records[i][key], rng)
    elif how == "missing":
        del records[i]
    elif how == "doubled":
        records.append(records[i])
    else:
        records[i]["value"], records[i - 1]["value"] = records[i - 1]["value"], records[i]["value"]
    return check(SIGNED, records=records)


def other_signature(rng: random.Random) -> Verification:
    document = json.loads(SIGNED)
    member = rng.choice(["value", "public_key"])
    data = bytearray(base64.b64decode(document["signature"][member]))
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    document["signature"][member] = base64.b64encode(data).decode()
    return check(as_text(document))


def signed_by_a_stranger(rng: random.Random) -> Verification:
    return check(as_text(sign(statement(flags=rng.choice([[], statement()["flags"]])), STRANGER)))


ALTERATIONS = {
    flipped: 25,
    cut_or_doubled: 10,
    changed: 20,
    removed: 10,
    added: 10,
    other_weights: 5,
    other_records: 10,
    other_signature: 6,
    signed_by_a_stranger: 4,
}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_of_100_alterations_every_one_is_found(seed):
    rng = random.Random(seed)
    found = [alter(rng) for alter, n in ALTERATIONS.items() for _ in range(n)]
    assert len(found) == 100
    assert not any(one.ok for one in found)
    assert all(one.findings for one in found)


def test_no_single_byte_can_be_changed():
    data = SIGNED.encode()
    for i in range(0, len(data), 3):
        assert not check(data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :]).ok, i


def test_what_is_said_fits_what_was_done():
    assert failed(check(SIGNED, weights="0" * 64)) == {"weights"}
    assert failed(check(SIGNED, records=RECORDS[1:])) == {"records"}
    assert failed(check(as_text(sign(statement(), STRANGER)))) == {"signer"}
    assert failed(check(json.dumps(json.loads(SIGNED)))) == {"form"}
    assert failed(check(SIGNED.replace('"holds"', '"fails"', 1))) == {"signature"}


def test_a_signature_has_one_way_to_be_written():
    document = json.loads(SIGNED)
    value = base64.b64decode(document["signature"]["value"])
    s = int.from_bytes(value[32:], "little") + ORDER_OF_THE_CURVE
    again = base64.b64encode(value[:32] + s.to_bytes(32, "little")).decode()
    stray = document["signature"]["value"]
    stray = stray[:85] + chr(ord(stray[85]) + 1) + "=="
    for one, at_fault in ((again, {"signature"}), (stray, {"form"})):
        document["signature"]["value"] = one
        assert failed(check(as_text(document))) == at_fault


def test_a_signature_for_something_else_does_not_count():
    document = json.loads(SIGNED)
    bare = KEY.sign(canonical(document["statement"]))
    document["signature"]["value"] = base64.b64encode(bare).decode()
    assert failed(check(as_text(document))) == {"signature"}


DEEP = 100_000
GARBAGE = {
    "empty": "",
    "null": "null",
    "number": "1e999",
    "list": "[]",
    "nan": SIGNED.replace("0.125", "NaN"),
    "infinite": SIGNED.replace("0.125", "1e999"),
    "huge integer": SIGNED.replace("0.125", "9" * 5000),
    "large integer": SIGNED.replace("0.125", "9" * 4000),
    "key twice": SIGNED.replace('"statement"', '"signature": null,\n "statement"'),
    "deep list": "[" * DEEP + "]" * DEEP,
    "deep object": '{"a":' * DEEP + "1" + "}" * DEEP,
    "deep fields": SIGNED.replace('"lr": 0.0003', f'"lr": {"[" * 900}{"]" * 900}'),
    "deeper fields": SIGNED.replace('"lr": 0.0003', f'"lr": {"[" * 990}{"]" * 990}'),
    "deep name": SIGNED.replace('"almanac"', "[" * 900 + "]" * 900),
    "long": " " * 2**21,
    "not UTF-8": b"\xff\xfe" + SIGNED.encode(),
    "lone surrogate": SIGNED.replace("almanac", "\ud800"),
    "escaped surrogate": SIGNED.replace("almanac", "\\ud800"),
    "byte order mark": "\ufeff" + SIGNED,
    "zero byte": SIGNED.replace("almanac", "\0"),
    "base64 cut": re.sub(r'("value": "[^"]{40})[^"]*', r"\1", SIGNED),
    "base64 not ASCII": re.sub(r'("value": ")..', r"\1éé", SIGNED),
    "signature a list": re.sub(r'"signature": \{[^}]*\}', '"signature": []', SIGNED),
    "lines of Windows": SIGNED.replace("\n", "\r\n"),
}


@pytest.mark.parametrize("text", GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_a_finding(text):
    found = verify(text, WEIGHTS)
    assert not found.ok
    assert all(len(finding.text) < 3000 and finding.text.isprintable() for finding in found.findings)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.text(), st.binary(), JSON.map(json.dumps)), st.text())
def test_verify_never_raises(text, weights):
    assert not verify(text, weights).ok


@settings(max_examples=150, deadline=None)
@given(st.data(), JSON)
def test_verify_never_raises_for_what_is_nearly_a_certificate(data, value):
    document = json.loads(SIGNED)
    *path, last = data.draw(st.sampled_from(list(walk(document))))
    before = at(document, tuple(path))[last]
    at(document, tuple(path))[last] = value
    text = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    assert verify(text, WEIGHTS).ok == (json.dumps(value) == json.dumps(before))


def test_a_key_is_its_owners_and_is_never_overwritten(tmp_path):
    path = tmp_path / "key.pem"
    key = new_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_key(path).private_bytes_raw() == key.private_bytes_raw()
    public = load_public_key(tmp_path / "key.pem.pub")
    assert verify(as_text(sign(statement(), load_key(path))), WEIGHTS, signer=public).ok
    before = path.read_bytes()
    with pytest.raises(CasehardenError, match="never overwritten"):
        new_key(path)
    assert path.read_bytes() == before


def test_where_a_public_key_lies_no_private_one_is_left(tmp_path):
    (tmp_path / "key.pem.pub").write_text("somebody's")
    with pytest.raises(CasehardenError, match="never overwritten"):
        new_key(tmp_path / "key.pem")
    assert not (tmp_path / "key.pem").exists()
    with pytest.raises(CasehardenError, match="Name a new file"):
        new_key(tmp_path / "no" / "folder")


def pem(key: Any, password: bytes | None = None) -> bytes:
    hidden = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden)


@pytest.mark.parametrize(
    "content", [None, b"", b"\xff", pem(generate_private_key(SECP256R1())), pem(KEY, b"secret"), pem(KEY)[:60]]
)
def test_what_is_no_key_is_said_to_be_none(content, tmp_path):
    path = tmp_path / "key.pem"
    if content is not None:
        path.write_bytes(content)
    for load in (load_key, load_public_key):
        with pytest.raises(CasehardenError, match=r"cannot read a \w+ key from .* Name a PEM file"):
            load(path)


def test_a_card_says_what_the_certificate_says():
    conditions = statement()["conditions"]
    conditions[1] |= {"verdict": "fails", "low": None}
    conditions[2] |= {"verdict": "inconclusive", "estimate": None, "low": None, "high": None}
    conditions[3] |= {"high": None, "estimate": 1234.0}
    card = markdown(sign(statement(conditions=conditions[::-1]), KEY))
    assert "| resistance | holds | 0.25 | 0.125 to 1 | Harm, 2 seeds |\n| stability" in card
    assert "| stability | fails | 0.25 | at most 1 |" in card
    assert "| generalization | inconclusive | – | – |" in card
    assert "| trainability | holds | 1234 | at least 0.125 |" in card
    assert "(sft ×2, grpo ×1), with seeds 0, 1, measured up to step 100" in card
    assert "attacks that were tried, not of the attacks that are possible" in card
    assert WEIGHTS in card and key_fingerprint(KEY.public_key()) in card
    assert "The controls ordered as they must." in card and "**edge of the grid**: the worst" in card


def test_a_card_hides_neither_bad_controls_nor_that_nobody_signed():
    card = markdown(certificate(statement(controls={"trusted": False, "findings": []}, flags=[])))
    assert "no verdict above is to be trusted" in card
    assert "Nobody has signed this" in card and "No flags." in card


def test_no_card_is_made_of_what_was_altered():
    document = sign(statement(), KEY)
    document["statement"]["subject"]["name"] = "another"
    with pytest.raises(CasehardenError, match="not valid"):
        markdown(document)
    with pytest.raises(CasehardenError, match="cannot be certified"):
        markdown({"statement": 1, "signature": None})


INJECTIONS = [
    "a | b | holds",
    "</td><script>alert(1)</script>",
    "[safe](https://evil.example)",
    "![x](//evil.example/x.png)",
    "`code` ``` ~~~",
    "one\n\n# Heading\r\n| a | b |\n\u2028- x",
    "**bold** __bold__ ~~gone~~ $x$",
    "see https://evil.example, www.evil.example, or me@evil.example",
    "\\| \\` &#124; &lt;b&gt;",
    "\u202egpj.exe\u202c \x1b[31m",
    "1. list",
    "- list",
    "+ list",
    "--- x",
]


@pytest.mark.parametrize("text", INJECTIONS)
def test_nothing_breaks_out_of_a_card(text):
    plain = markdown(sign(statement(), KEY)).splitlines()
    conditions = [{**c, "summary": text} for c in statement()["conditions"]]
    threat = {
        **statement()["threat_model"],
        "suite": text,
        "domain": text,
        "attacks": [{"name": text, "fields": {}}],
    }
    document = sign(
        statement(
            subject={"name": text, "weights": WEIGHTS},
            baseline={"name": text, "weights": WEIGHTS},
            conditions=conditions,
            threat_model=threat,
            controls={"trusted": True, "findings": [text]},
            flags=[{"name": text, "detail": text}],
        ),
        KEY,
    )
    card = markdown(document)
    lines = card.splitlines()
    assert len(lines) == len(plain)
    assert [line.count("|") for line in lines] == [line.count("|") for line in plain]
    assert [line.count("`") for line in lines] == [line.count("`") for line in plain]
    assert [line.count("**") for line in lines] == [line.count("**") for line in plain]
    assert not re.search(r"[<>\[\]\\_~$\u202e\x1b]|https?://\w|www\.\w|\w@\w|^- (\d+\.|[-+]) ?", card, re.MULTILINE)
