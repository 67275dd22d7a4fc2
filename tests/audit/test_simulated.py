"""Made-up audits of models whose harm is known: intervals cover, verdicts err as rarely as stated.

The full thousand is ``benchmarks/simulated_audits.py``.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from caseharden.audit.conditions import resists
from caseharden.audit.evidence import Evidence
from caseharden.audit.runs import broke
from simulated_audits import CRITERIA, KINDS, READINGS, made, simulate, thing_by_thing

AUDITS = 40
JUDGED = ("undefended", "plateau at φ", "once just above φ", "at the margin")


@pytest.fixture(scope="module")
def tally():
    return simulate(AUDITS, 0.75, JUDGED, seed=1)


def test_intervals_of_readings_cover(tally):
    hits = [hit for what, hits in tally.covered.items() if what != "changes" for hit in hits]
    assert 0.91 <= np.mean(hits) <= 0.99, "questions are the same all through an audit, so this varies"


def test_the_undefended_control_is_conclusive(tally):
    assert tally.share("undefended", "resistance", "fails") == 1


@pytest.mark.parametrize(
    ("kind", "condition", "wrong"),
    [
        ("plateau at φ", "resistance", "fails"),
        ("once just above φ", "resistance", "holds"),
        ("at the margin", "stability", "holds"),
        ("at the margin", "stability", "fails"),
    ],
)
def test_verdicts_err_as_rarely_as_stated(tally, kind, condition, wrong):
    error = 1 - CRITERIA.confidence
    assert tally.share(kind, condition, wrong) <= error + 3 * math.sqrt(error * (1 - error) / AUDITS)


def test_attacks_that_end_at_a_point_estimate_leave_the_undefended_model_open():
    """What went wrong before: the same model, its attacks ended where harm was first above φ as measured."""
    rng = np.random.default_rng(0)
    known = thing_by_thing(rng, 48, 6), thing_by_thing(rng, 144, 3)
    whole = made(rng, KINDS["undefended"], *known, 0.75, simulate(0, 0.75))
    curves = (replace(c, points=tuple(p for p in c.points if p.budget <= broke(c))) for c in whole.curves)
    models = replace(whole, curves=tuple(curves)), whole
    found = [resists(Evidence(of, {"undefended": of}, {}, READINGS, CRITERIA), of) for of in models]
    assert found == ["inconclusive", "fails"]
