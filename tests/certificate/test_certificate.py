"""Certificates: what was altered is found, and what is garbage is told so."""

from __future__ import annotations

import base64
import copy
import json
import random
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from caseharden.certificate.certificate import (
    Verification,
    as_text,
    canonical,
    certificate,
    digest,
    schema,
    sign,
    verify,
)
from caseharden.certificate.keys import key_fingerprint
from caseharden.errors import CasehardenError
from certificate_toys import KEY, RECORDS, SIGNED, STRANGER, WEIGHTS, statement
from strategies import many

ORDER_OF_THE_CURVE = 2**252 + 27742317777372353535851937790883648493


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


@many
@given(st.one_of(st.text(), st.binary(), JSON.map(json.dumps)), st.text())
def test_verify_never_raises(text, weights):
    assert not verify(text, weights).ok


@many
@given(st.data(), JSON)
def test_verify_never_raises_for_what_is_nearly_a_certificate(data, value):
    document = json.loads(SIGNED)
    *path, last = data.draw(st.sampled_from(list(walk(document))))
    before = at(document, tuple(path))[last]
    at(document, tuple(path))[last] = value
    text = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    assert verify(text, WEIGHTS).ok == (json.dumps(value) == json.dumps(before))
