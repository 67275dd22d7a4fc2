"""Keys that certificates are signed with: Ed25519, in PEM files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from caseharden.errors import CasehardenError


def key_fingerprint(key: Ed25519PublicKey) -> str:
    """SHA-256 of a public key's 32 bytes, in hex: what two people read to each other to compare keys."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()


def new_key(path: str | Path) -> Ed25519PrivateKey:
    """Make a key: the private one in `path`, for its owner's eyes only, the public one beside it in ``path.pub``.

    Both are PEM (PKCS8, SubjectPublicKeyInfo). Raises `CasehardenError` if either is there or cannot be written.
    """
    key, path = Ed25519PrivateKey.generate(), Path(path)
    public = path.with_name(f"{path.name}.pub")
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    _create(path, 0o600, secret)
    try:
        shown = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
        _create(public, 0o644, shown)
    except CasehardenError:
        path.unlink()
        raise
    return key


def load_key(path: str | Path) -> Ed25519PrivateKey:
    """The private key in a PEM file, without a password. Raises `CasehardenError` if there is none."""
    with _reading(path, "private"):
        key = serialization.load_pem_private_key(Path(path).read_bytes(), password=None)
        if isinstance(key, Ed25519PrivateKey):
            return key
        raise ValueError("a key of another kind")


def load_public_key(path: str | Path) -> Ed25519PublicKey:
    """The public key in a PEM file. Raises `CasehardenError` if there is none."""
    with _reading(path, "public"):
        key = serialization.load_pem_public_key(Path(path).read_bytes())
        if isinstance(key, Ed25519PublicKey):
            return key
        raise ValueError("a key of another kind")


def clean(text: object, most: int = 300) -> str:
    """The text on one line, without what cannot be printed, and not too long: it may be a stranger's."""
    line = "".join(c if c.isprintable() else "\ufffd" for c in " ".join(str(text).split()))
    return line if len(line) <= most else f"{line[:most]}…"


def _create(path: Path, mode: int, content: bytes) -> None:
    """Write a file that is not there yet, or leave nothing."""
    try:
        with open(path, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            try:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                path.unlink()
                raise
    except OSError as error:
        raise CasehardenError(
            f"cannot write a key to {path}: {error.strerror or error}. "
            "Name a new file, in a folder that you may write to: a key is never overwritten."
        ) from error


@contextmanager
def _reading(path: str | Path, which: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CasehardenError(
            f"cannot read a {which} key from {path}: {clean(error)}. "
            f"Name a PEM file that holds a {which} Ed25519 key without a password."
        ) from error
