"""What an attack costs: by its log, by hand, and unknown where the log does not say."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

import pytest

from audit_toys import curve, evidence, measured
from caseharden.audit.assessment import assess
from caseharden.audit.cost import costs, spent
from caseharden.audit.evidence import Criteria, Price
from caseharden.errors import CasehardenError
from caseharden.lm import facts
from caseharden.report import export, scorecard
from caseharden.report.document import document
from caseharden.suites import suite as suites

N = 1000.0
STEP = {"loss": 1.0, "tokens": 100, "tokens_read": 40, "examples": 8}


def logged(of, steps=100, parameters=N, **changes):
    """The model with the same log under every attack."""
    log = tuple({**STEP, **changes, "step": i + 1} for i in range(steps))
    curves = tuple(replace(c, log=log) for c in of.curves)
    return replace(of, curves=curves, facts={"parameters": parameters})


def case(subject, undefended=(1, 1, 2), **changes):
    given = evidence(logged(subject, **changes))
    return replace(
        given, controls={**given.controls, "undefended": logged(measured("base", undefended), **changes)}
    )


def test_a_cost_is_that_of_the_steps_up_to_the_budget():
    log = ({"tokens": 100, "tokens_read": 0, "examples": 4}, {"tokens": 50, "tokens_read": 30, "examples": 2})
    run = curve(1, log=(*log, {"tokens": 10**9, "tokens_read": 10**9, "examples": 10**9}))
    found = spent(run, 2, 10.0, Price(per_gpu_hour=3.0, throughput=5.0))
    assert (found.steps, found.examples, found.tokens) == (2, 6, 180)
    assert found.flops == 6 * 10 * 150 + 2 * 10 * 30
    assert found.dollars == pytest.approx(9600 / 5 / 3600 * 3)
    assert spent(run, 0, 10.0, Price()).dollars == 0


def test_an_hour_at_the_stated_throughput_costs_the_stated_price():
    assert Price(per_gpu_hour=2.5, throughput=1e12).of(3600 * 1e12) == pytest.approx(2.5)
    for wrong in ({"per_gpu_hour": -1.0}, {"throughput": 0.0}):
        with pytest.raises(CasehardenError, match="above it"):
            Price(**wrong)


def test_what_the_log_does_not_say_is_unknown_and_not_nothing():
    old = curve(1, log=tuple({"loss": 1.0} for _ in range(3)))
    found = spent(old, 2, N, Price())
    assert found.steps == 2 and all(math.isnan(v) for v in (found.examples, found.tokens, found.dollars))
    short = curve(1, log=(STEP,))
    assert math.isnan(spent(short, 2, N, Price()).tokens), "a log that was lost in part counts for nothing"
    custom = curve(1, log=({"tokens": 5, "tokens_read": 0},))
    found = spent(custom, 1, N, Price())
    assert found.flops == 6 * N * 5 and math.isnan(found.examples)


def test_costs_are_of_the_worst_attack_on_both_models_at_the_median_seed():
    found = costs(case(measured("hardened", [20, 50, 50]), (2, 1, 2)))
    assert {who: one.cost.steps for who, one in found.items()} == {"subject": 50, "undefended": 2}
    assert found["subject"].cost.flops == 50 * N * (6 * 100 + 2 * 40)
    assert found["subject"].cost.examples == 400
    assert not found["subject"].censored
    assert "lr=1e-4" in found["subject"].attack
    assert found["subject"].cost.dollars == pytest.approx(25 * found["undefended"].cost.dollars)


def test_a_model_that_was_not_broken_costs_more_than_the_whole_budget():
    found = costs(case(measured("hardened", [None] * 3)))["subject"]
    assert found.censored and found.cost.steps == 100
    assert str(found).startswith("more than 100 steps, 800 examples, 14 k tokens, 68 M FLOPs, $")


def test_attacks_that_do_not_count_have_no_price():
    assert costs(case(measured("hardened", [None] * 3), (None, None, None))) == {}


def test_a_model_of_unknown_size_has_tokens_but_no_price():
    found = costs(case(measured("hardened", [50] * 3), parameters=math.nan))["subject"]
    assert found.cost.tokens == 50 * 140 and math.isnan(found.cost.dollars)
    assert "unknown FLOPs, unknown dollars" in str(found)


def test_the_scorecard_tells_costs_and_its_data_are_json():
    doc = document(assess(case(measured("hardened", [50] * 3))))
    text = scorecard.markdown(doc)
    assert "under audit: 50 steps, 400 examples" in text and "undefended: 1 step, 8 examples" in text
    data = json.loads(export.dumped(asdict(doc)))
    assert data["costs"]["under audit"]["cost"]["tokens"] == 7000
    assert data["criteria"]["price"] == {"per_gpu_hour": 2.0, "throughput": 2e14}


def test_a_dearer_price_changes_no_verdict():
    given = case(measured("hardened", [50] * 3))
    dear = replace(given, criteria=Criteria(price=Price(per_gpu_hour=200.0)))
    cheap, costly = assess(given), assess(dear)
    assert costly.costs["subject"].cost.dollars == pytest.approx(100 * cheap.costs["subject"].cost.dollars)
    assert [c.verdict for c in cheap.subject.values()] == [c.verdict for c in costly.subject.values()]


def test_a_suite_states_its_price():
    given = {
        "attacks": ["sft"],
        "budgets": [0, 1],
        "benign_runs": {"lr": [1e-3], "budgets": [0, 1]},
        "known_broken": "safety_sft",
        "criteria": {"horizon": 1, "price": {"per_gpu_hour": 3, "throughput": 1.0e14}},
    }
    assert suites.parse(given, "mine").criteria.price == Price(3.0, 1e14)


def test_parameters_are_counted_once_each(tiny_lm, tmp_path):
    tiny_lm.save(tmp_path)
    assert facts.parameters(tmp_path) == sum(p.numel() for p in tiny_lm.model.parameters())
