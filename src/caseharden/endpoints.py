"""Endpoints that speak OpenAI's protocol: their addresses, their keys, and the client that asks them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from caseharden.errors import CasehardenError


def check_endpoint(base_url: str, retries: int, timeout: float) -> None:
    """Raise `CasehardenError` for what can be no endpoint, and for an address with a password: specs are stored."""
    if retries < 0 or not 0 < timeout < math.inf:
        raise CasehardenError("retries must be at least 0, and timeout a number of seconds above 0.")
    if not _is_address(base_url):
        raise CasehardenError(
            f"base_url={_without_secret(base_url)!r} is no address of an endpoint. Write it like "
            "http://localhost:8000/v1, without name and password."
        )


def client(
    base_url: str,
    key: str | None,
    retries: int,
    timeout: float,
    *,
    whose: str,
    before_each: Callable[[], None] = lambda: None,
) -> Any:
    """A client of the endpoint, whose key is in the environment variable `key`; None where it wants none.

    `before_each` is called before each request, further tries included. Raises `CasehardenError` if the key is
    missing, or the package.
    """
    try:
        from openai import DefaultHttpxClient, OpenAI
    except ImportError as error:
        raise CasehardenError(f"{whose} needs pip install 'caseharden[api]'.") from error
    secret = "none" if key is None else os.environ.get(key, "").strip()
    if not (secret and secret.isascii() and secret.isprintable()):
        raise CasehardenError(f"{whose} needs its key in the environment variable {key}.")
    http = DefaultHttpxClient(event_hooks={"request": [lambda _: before_each()]}, timeout=timeout)
    return OpenAI(base_url=base_url, api_key=secret, max_retries=retries, http_client=http)


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and "@" not in url
    except ValueError:  # a port that is no number, say
        return False


def _without_secret(url: str) -> str:
    """What may be shown of an address."""
    before, at, after = url.rpartition("@")
    return f"{before.partition('//')[0]}//…@{after}" if at else url
