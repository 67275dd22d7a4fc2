import math
from dataclasses import replace

import pytest

from caseharden.attacks import SFT, Chain
from caseharden.cost.trace import traced, typical
from caseharden.defenses import SafetySFT
from caseharden.lm.lm import LM
from caseharden.train.adapters import LoRA
from caseharden.train.tuner import Run
from cost_toys import model_in, on_twin
from test_contract import SMALL_PATCHER, SMALL_SFT, SMALL_TAR


def trace_of(tuner, folder, domain, number=4, role="attacker", seconds=math.inf):
    run, recorder = on_twin(folder, domain, role)
    return traced(run.drive(tuner), recorder, run.lm.model, number, seconds), recorder.subject


def most(trace, kind):
    return max(moment.held.get(kind, 0.0) for moment in trace.moments)


def test_a_twin_trains_on_the_models_own_tokens(tiny_lm, toy_domain, tmp_path):
    folder = model_in(tmp_path, tiny_lm)
    tuner = SFT(batch_size=3)
    real = Run(LM.load(folder), toy_domain, "attacker", 0).drive(tuner)
    steps = [next(real) for _ in range(4)]
    trace, _ = trace_of(tuner, folder, toy_domain)
    assert trace.tokens["trained"] == sum(step["tokens"] for step in steps)
    assert sum(trace.passes.values()) == 4
    assert {one.rows for _, one in trace.passes} == {3}


@pytest.mark.parametrize(("optimizer", "copies"), [("adamw", 2), ("sgd", 0), ("nesterov", 1)])
def test_what_an_optimizer_keeps_is_held(optimizer, copies, tiny_lm, toy_domain, tmp_path):
    trace, subject = trace_of(SFT(optimizer=optimizer), model_in(tmp_path, tiny_lm), toy_domain)
    weights = 4 * subject.parameters
    assert most(trace, "weights") == weights
    assert most(trace, "gradients") == pytest.approx(weights, rel=0.02)
    assert most(trace, "states") == pytest.approx(copies * weights, abs=0.02 * weights)


def test_adapters_alone_have_gradients_and_states(tiny_lm, toy_domain, tmp_path):
    trace, subject = trace_of(SFT(lora=LoRA(r=2)), model_in(tmp_path, tiny_lm), toy_domain)
    adapters = 4 * subject.adapters(2)
    assert most(trace, "gradients") == pytest.approx(adapters)
    assert most(trace, "states") == pytest.approx(2 * adapters)
    assert most(trace, "weights") == 4 * subject.parameters


def test_a_reference_is_a_copy_and_is_read(tiny_lm, toy_domain, tmp_path):
    folder = model_in(tmp_path, tiny_lm)
    plain, near = (SafetySFT({"refusal": 1.0, "benign": 1.0}, kl=kl) for kl in (0.0, 0.5))
    without, _ = trace_of(plain, folder, toy_domain, role="defender")
    trace, subject = trace_of(near, folder, toy_domain, role="defender")
    assert most(trace, "copies") - most(without, "copies") == pytest.approx(4 * subject.parameters)
    assert trace.tokens["read"] == trace.tokens["trained"] == without.tokens["trained"]


def test_kept_copies_are_where_keep_says(tiny_lm, toy_domain, tmp_path):
    folder = model_in(tmp_path, tiny_lm)
    weights = {}
    for keep in ("device", "cpu", "disk"):
        tar = replace(SMALL_TAR, adversaries=(SMALL_SFT,), keep=keep)
        trace, subject = trace_of(tar, folder, toy_domain, number=2, role="defender")
        held = most(trace, "kept"), most(trace, "kept aside")
        weights[keep] = tuple(bytes_ / (4 * subject.parameters) for bytes_ in held)
    assert weights == {"device": pytest.approx((1, 0)), "cpu": pytest.approx((0, 1)), "disk": (0, 0)}


def test_attacks_that_patcher_has_are_kept_copies(tiny_lm, toy_domain, tmp_path):
    trace, subject = trace_of(
        replace(SMALL_PATCHER, vectors=2), model_in(tmp_path, tiny_lm), toy_domain, None, "defender"
    )
    assert most(trace, "kept") > 1.9 * 4 * subject.parameters


def test_steps_beyond_those_seen_are_as_the_last_ones(tiny_lm, toy_domain, tmp_path):
    trace, _ = trace_of(SFT(), model_in(tmp_path, tiny_lm), toy_domain, number=1000, seconds=0.0)
    assert sum(trace.passes.values()) == pytest.approx(1000)


def test_each_stage_of_a_chain_is_seen(tiny_lm, toy_domain, tmp_path):
    chain = Chain((SFT(batch_size=2, max_steps=100), SFT(batch_size=5, max_steps=400)))
    trace, _ = trace_of(chain, model_in(tmp_path, tiny_lm), toy_domain, number=300, seconds=0.0)
    rows = {n: sum(times for (_, one), times in trace.passes.items() if one.rows == n) for n in (2, 5)}
    assert rows == pytest.approx({2: 100, 5: 200})


def test_the_last_whole_period_is_typical():
    assert typical([1, 1, 9, 1, 1, 8, 1]) == range(2, 5)
    assert typical([1, 1, 9, 1, 1]) == range(1, 5)
    assert typical([4]) == range(1)
