"""vLLM as engine, against a stand-in that speaks its interface and writes with the weights that it was given."""

from __future__ import annotations

import random
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from caseharden.attacks import GRPO, SFT
from caseharden.engines.native import Native
from caseharden.engines.vllm import VLLM
from caseharden.errors import CasehardenError
from caseharden.lm.lm import LM
from caseharden.rl.loop import PolicyGradient
from caseharden.store.results import results
from caseharden.store.store import Store
from caseharden.study.plan import Environment, hashed
from caseharden.train.adapters import LoRA
from caseharden.train.tuner import Run
from factories import copy_of
from study_toys import run as run_study
from study_toys import study
from toys import Checksum

pytestmark = pytest.mark.usefixtures("vllm")
GREEDY = (1, 8, 0.0, 0)
SMALL = {"prompts": 2, "samples": 3, "max_new_tokens": 5, "lr": 3e-2, "reward": Checksum()}


@pytest.fixture
def lm(tiny_lm):
    """The tiny model with weights so large that what it says depends on what it reads."""
    with tiny_lm.seeded(1), torch.no_grad():
        for parameter in tiny_lm.model.parameters():
            parameter.normal_(std=0.5)
    return tiny_lm


@pytest.fixture
def prompts(lm):
    return lm.encode_prompts(["a", "a b c d e", "z y ?", "yes no", "b b b"])


def test_greedy_answers_are_those_of_native_before_and_after_a_training_step(lm, prompts, toy_domain, vllm):
    before = VLLM().write(lm, prompts, *GREEDY)
    assert before == Native().write(lm, prompts, *GREEDY)
    stale = copy_of(lm)
    next(Run(lm, toy_domain, "attacker", 0).drive(SFT(lr=0.3)))
    after = VLLM().write(lm, prompts, *GREEDY)
    assert after == Native().write(lm, prompts, *GREEDY) != Native().write(stale, prompts, *GREEDY) == before
    assert len(vllm.made) == 1 and vllm.made[0].events.count("reload") == 1


def test_nothing_is_handed_over_where_nothing_changed_however_it_was_changed(lm, prompts, vllm):
    def reloads() -> int:
        VLLM().write(lm, prompts, *GREEDY)
        return vllm.made[0].events.count("reload")

    assert reloads() == reloads() == 0
    weight = lm.model.get_input_embeddings().weight
    kept = weight.detach().clone()
    weight.data[7, 3] += 1.0  # of which autograd's counter of versions knows nothing
    assert reloads() == reloads() == 1
    weight.data = weight.data[torch.randperm(len(weight))]  # the same numbers elsewhere
    assert reloads() == 2
    weight.data.copy_(kept)
    assert reloads() == 3
    other = copy_of(lm)  # as an excursion, or a reference: another object with the very weights
    VLLM().write(other, prompts, *GREEDY)
    assert reloads() == 3


def test_models_of_one_shape_share_a_copy_wherever_they_come_from(lm, prompts, tmp_path, vllm):
    for number in range(2):  # as hardened models do, each in a folder of its own
        next(iter(lm.model.parameters())).data.mul_(-1)
        lm.save(tmp_path / str(number))
        loaded = LM.load(tmp_path / str(number))
        assert VLLM().write(loaded, prompts, *GREEDY) == Native().write(loaded, prompts, *GREEDY)
    assert [one.events for one in vllm.made] == [["sleep", "write", "sleep", "reload", "write", "sleep"]]


def test_adapters_are_merged_on_the_way_and_no_bit_of_the_model_is_touched(lm, prompts, toy_domain, vllm):
    VLLM().write(lm, prompts, *GREEDY)
    run = Run(lm, toy_domain, "attacker", 0)
    before = Native().write(run.lm, prompts, *GREEDY)
    for parameter in run.trainable(LoRA(r=2)):
        parameter.data += 0.3
    known = run.lm.weights_hash()
    adapted = VLLM().write(run.lm, prompts, *GREEDY)
    assert adapted == Native().write(run.lm, prompts, *GREEDY) != before
    assert run.lm.weights_hash() == known
    with run.lm.model.disable_adapter():
        assert VLLM().write(run.lm, prompts, *GREEDY) == before
    assert VLLM().write(run.lm, prompts, *GREEDY) == adapted
    assert vllm.made[0].events.count("reload") == 3
    assert VLLM().write(run.finish(), prompts, *GREEDY) == adapted


def test_a_copy_that_begins_with_adapters_has_them(lm, prompts, toy_domain):
    run = Run(lm, toy_domain, "attacker", 0)
    for parameter in run.trainable(LoRA(r=2)):
        parameter.data += 0.3
    assert VLLM().write(run.lm, prompts, *GREEDY) == Native().write(run.lm, prompts, *GREEDY)


@pytest.mark.parametrize("temperature", [0.5, 1.5])
def test_tokens_come_with_the_log_probabilities_that_they_were_drawn_with(lm, prompts, temperature):
    tokens, logps = VLLM().write(lm, prompts, 3, 6, temperature, 0)
    assert len(tokens) == 15 and len({tuple(row) for row in tokens[:3]}) > 1
    for row, (answer, found) in enumerate(zip(tokens, logps, strict=True)):
        with torch.no_grad():
            logits = lm.model(torch.tensor([prompts[row // 3] + answer])).logits[0, -len(answer) - 1 : -1]
        expected = torch.log_softmax(logits / temperature, -1)[range(len(answer)), answer]
        assert found == pytest.approx(expected.tolist(), abs=1e-4)


def test_every_request_is_plain_ends_where_the_model_does_and_has_a_seed_of_its_own(lm, prompts, vllm):
    lm.model.generation_config.update(top_k=1, repetition_penalty=50.0, temperature=0.3, eos_token_id=[9])
    lm.ends = lambda: [*range(0, 40, 3)]
    greedy = VLLM().write(lm, prompts, *GREEDY)
    assert greedy == Native().write(lm, prompts, *GREEDY)
    assert any(row[-1] % 3 == 0 and len(row) < 8 for row in greedy.tokens)
    VLLM().write(lm, prompts, 2, 4, 1.0, seed=5)
    told = vllm.made[0].requests[-10:]
    assert len({one.seed for one in told}) == 10 and vllm.made[0].told["generation_config"] == "vllm"
    neutral = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0}
    neutral |= {"frequency_penalty": 0.0, "stop_token_ids": lm.ends(), "ignore_eos": True, "temperature": 1.0}
    assert all(vars(one) | neutral == vars(one) for one in told)


def test_it_sleeps_while_others_compute(lm, toy_domain, prompts, vllm, monkeypatch):
    asleep = []
    backward = PolicyGradient.backward

    def watched(self, *args):
        asleep.append(vllm.made[0].asleep)
        return backward(self, *args)

    monkeypatch.setattr(PolicyGradient, "backward", watched)
    run = Run(lm, toy_domain, "attacker", 0, engine=VLLM())
    metrics = [next(run.drive(GRPO(**SMALL, max_steps=3)))]
    assert asleep == [True] and vllm.made[0].asleep
    assert metrics[0]["importance"] == pytest.approx(1, abs=1e-4) and metrics[0]["truncated"] == 0
    monkeypatch.setattr(vllm, "generate", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        VLLM().write(lm, prompts, *GREEDY)
    assert vllm.made[0].asleep


def test_every_rollout_is_written_with_the_weights_of_its_step(lm, toy_domain, vllm):
    run = Run(lm, toy_domain, "attacker", 0, engine=VLLM())
    for metrics in run.drive(GRPO(**SMALL, max_steps=4)):
        assert metrics["importance"] == pytest.approx(1, abs=1e-4)
    assert vllm.made[0].events.count("reload") == 3


def test_the_same_writing_twice_is_the_same_and_random_states_and_threads_are_left_alone(
    lm, prompts, vllm, monkeypatch
):
    begin = vllm.__init__

    def begun(self, model, **how):
        torch.set_num_threads(2)
        begin(self, model, **how)

    monkeypatch.setattr(vllm, "__init__", begun)
    threads = torch.get_num_threads()
    random.seed(3)
    np.random.seed(3)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    drawn = [VLLM().write(lm, prompts, 2, 6, 1.0, seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert torch.equal(states[0], torch.get_rng_state()) and states[1] == random.getstate()
    assert states[2] == np.random.get_state()[1].tolist() and torch.get_num_threads() == threads


def test_a_model_of_another_shape_takes_the_place_of_the_first(lm, prompts, vllm):
    VLLM().write(lm, prompts, *GREEDY)
    other = copy_of(lm)
    other.model.config.rms_norm_eps = 0.3
    for layer in (*(x for x in other.model.modules() if hasattr(x, "variance_epsilon")),):
        layer.variance_epsilon = 0.3
    assert VLLM().write(other, prompts, *GREEDY) == Native().write(other, prompts, *GREEDY)
    assert [one.events[-1] for one in vllm.made] == ["shutdown", "sleep"]


def test_a_copy_that_writes_otherwise_is_an_error_before_it_says_anything(lm, prompts, vllm, monkeypatch):
    load = vllm.collective_rpc

    def half(self, method, kwargs):
        whole = [*kwargs["weights_iterator"]]
        return load(self, method, kwargs={"weights_iterator": iter(whole[: len(whole) // 2])})

    VLLM().write(lm, prompts, *GREEDY)
    monkeypatch.setattr(vllm, "collective_rpc", half)
    with torch.no_grad():
        for parameter in lm.model.parameters():
            parameter.copy_(parameter.flip(0))
    for _ in range(2):  # nor does it pass the second time
        with pytest.raises(CasehardenError, match="vLLM writes other answers than 'tiny'"):
            VLLM().write(lm, prompts, *GREEDY)


@pytest.mark.parametrize(
    ("engine", "how", "said"),
    [
        (VLLM(max_length=10), GREEDY, "more than max_length=10 of the engine vllm. Raise it"),
        (VLLM(), (1, 60, 0.0, 0), "more than the 64 positions of 'tiny'"),
        (VLLM(), (1, 8, 0.001, 0), "no temperature below 0.01"),
    ],
)
def test_what_vllm_would_do_otherwise_without_a_word_is_an_error(lm, prompts, engine, how, said):
    with pytest.raises(CasehardenError, match=said):
        engine.write(lm, prompts, *how)


@pytest.mark.parametrize("field", [{"gpu_memory": 0.0}, {"gpu_memory": 1.0}, {"max_length": 1}])
def test_fields_that_cannot_be_are_refused(field):
    with pytest.raises(CasehardenError, match=next(iter(field))):
        VLLM(**field)


def test_a_study_is_written_by_it_and_knows_its_version(lm, tmp_path, vllm, monkeypatch):
    lm.save(tmp_path / "tiny")
    grpo = GRPO(**{**SMALL, "lr": 1e-2})
    common = {"attacks": (grpo, SFT(lr=1e-2, lora=LoRA(r=2))), "defenses": (None,), "budgets": (0, 1)}
    spec = study(tmp_path / "tiny", engine=VLLM(), **common)
    stores = Store(tmp_path / "vllm"), Store(tmp_path / "native")
    run_study(spec, stores[0])
    run_study(replace(spec, engine=Native()), stores[1])
    ours, theirs = (results(store, "toy") for store in stores)
    assert not ours.failures and not theirs.failures

    def released(found):
        return [[(name, r.value) for name, r in c.points[0].readings.items()] for c in found.curves]

    assert released(ours) == released(theirs)

    def key() -> str:
        return hashed(Environment.of(spec, "cpu").engine)

    known = key()
    assert hashed(Environment.of(replace(spec, engine=VLLM(0.2, 100, True)), "cpu").engine) == known
    monkeypatch.setattr("caseharden.engines.vllm.metadata.version", lambda name: "0.34.0")
    assert key() != known


def test_without_vllm_it_is_told_before_anything_runs(lm, prompts, tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(CasehardenError, match=r"pip install 'caseharden\[vllm\]'"):
        VLLM().write(lm, prompts, *GREEDY)
    lm.save(tmp_path / "tiny")
    store = Store(tmp_path / "store")
    with pytest.raises(CasehardenError, match=r"pip install 'caseharden\[vllm\]'"):
        run_study(study(tmp_path / "tiny", engine=VLLM()), store)
