"""Keys are their owner's, and what is no key is said to be none."""

from __future__ import annotations

import stat
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from caseharden.certificate.certificate import as_text, sign, verify
from caseharden.certificate.keys import load_key, load_public_key, new_key
from caseharden.errors import CasehardenError
from certificate_toys import KEY, WEIGHTS, statement


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
    for nowhere in ("key.pem.pub/key", "n" * 300):
        with pytest.raises(CasehardenError, match="Name a new file"):
            new_key(tmp_path / nowhere)


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
