"""Addresses and keys of endpoints."""

from __future__ import annotations

import pytest

from caseharden.endpoints import check_endpoint, client
from caseharden.errors import CasehardenError


@pytest.mark.parametrize(
    "url", ["http://me:word@host/v1", "https://word@host:8000/v1", "http:word@host", "word@", "@"]
)
def test_an_address_with_a_password_is_refused_and_not_repeated(url):
    with pytest.raises(CasehardenError, match=r"base_url=.*without name and password") as told:
        check_endpoint(url, 0, 1.0)
    assert "word@" not in str(told.value)


@pytest.mark.parametrize(("retries", "timeout"), [(-1, 1.0), (0, 0.0), (0, float("inf")), (0, float("nan"))])
def test_patience_has_bounds(retries, timeout):
    with pytest.raises(CasehardenError, match="retries must be at least 0"):
        check_endpoint("http://localhost:8000/v1", retries, timeout)


def test_a_key_is_read_from_the_environment(monkeypatch):
    pytest.importorskip("openai")
    monkeypatch.setenv("SOME_KEY", " secret\n")
    asked = {"base_url": "http://localhost:1/v1", "retries": 3, "timeout": 2.0, "whose": "somebody"}
    assert client(key="SOME_KEY", **asked).api_key == "secret"
    assert client(key=None, **asked).max_retries == 3
    monkeypatch.delenv("SOME_KEY")
    with pytest.raises(CasehardenError, match="somebody needs its key in the environment variable SOME_KEY"):
        client(key="SOME_KEY", **asked)
