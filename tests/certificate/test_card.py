"""What a model card shows of a certificate, and that nothing breaks out of it."""

from __future__ import annotations

import re

import pytest

from caseharden.certificate.card import markdown
from caseharden.certificate.certificate import certificate, sign
from caseharden.certificate.keys import key_fingerprint
from caseharden.errors import CasehardenError
from certificate_toys import KEY, WEIGHTS, statement


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
    levels = "0.1 at step 2, 0.25 at step 5, 0.5 not by step 100"
    assert f"under sft&#40;lr&#61;1e-4&#41;: harm above {levels}; most harm" in card
    assert "0.35, baseline at least 0.9; share 0.375 (at least 0.25)." in card
    assert "before any attack: utility 0.97, baseline 0.98; bystander 0.31, baseline 0.98." in card
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
        "ensemble": text,
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
