from dataclasses import replace

import pytest
from transformers import LlamaConfig

from caseharden.attacks import GRPO, SFT
from caseharden.cost.devices import named
from caseharden.cost.estimate import _open_fields, cost
from caseharden.defenses import SafetySFT
from caseharden.lm.memory import Memory
from caseharden.study.spec import StudySpec
from caseharden.train.adapters import LoRA
from cost_toys import model_in
from test_contract import SMALL_SFT, SMALL_TAR

SIZES = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32}


@pytest.fixture
def eight(word_tokenizer, tmp_path) -> str:
    """A folder with the configuration of a model of eight billion parameters, and no weights."""
    config = LlamaConfig(
        **SIZES, num_key_value_heads=8, vocab_size=128256, max_position_embeddings=8192, tie_word_embeddings=False
    )
    config.save_pretrained(tmp_path)
    word_tokenizer.save_pretrained(tmp_path)
    return str(tmp_path)


def test_eight_billion_parameters_by_their_configuration(eight, toy_domain):
    attacks = (SFT(max_length=64), SFT(lora=LoRA(), max_length=64))
    spec = StudySpec("eight", toy_domain, (eight,), attacks, budgets=(0, 4))
    found = cost(spec, "h100", seconds=0.1)
    assert found.parameters[eight] == pytest.approx(8.03e9, rel=0.01)
    release, full, adapters = found.cells
    assert not found.fits and full.peak > found.room > adapters.peak > release.peak > 4 * 8e9
    assert any("lora: {r: 16}" in one for one in found.advice)
    assert full.flops - release.flops == pytest.approx(6 * 8e9 * full.trained, rel=0.3)
    assert adapters.flops - release.flops == pytest.approx(4 * 8e9 * adapters.trained, rel=0.3)

    sharded = cost(replace(spec, attacks=attacks[:1]), "h100x8", seconds=0.1)
    assert sharded.fits and [cell.devices for cell in sharded.cells] == [1, 8]
    assert sharded.dollars == pytest.approx(8 * sharded.hours * named("h100")[0].price)


def test_more_steps_and_more_budgets_cost_more(tiny_lm, toy_domain, tmp_path):
    model = str(model_in(tmp_path, tiny_lm))
    spec = StudySpec("toy", toy_domain, (model,), (SFT(),), (None, SafetySFT(max_steps=5)), budgets=(0, 10))
    few = cost(spec, "h100", seconds=0.1)
    assert [cell.kind for cell in few.cells] == ["release", "attack", "harden", "release", "attack"]
    assert few.total("trained") == sum(cell.trained for cell in few.cells)
    longer, closer = (
        cost(replace(spec, budgets=budgets), "h100", seconds=0.1) for budgets in ((0, 40), (0, 5, 10))
    )
    assert longer.cells[1].trained == pytest.approx(4 * few.cells[1].trained, rel=0.2)
    assert longer.cells[1].written == few.cells[1].written
    assert closer.cells[1].trained == few.cells[1].trained
    assert closer.cells[1].written == 2 * few.cells[1].written


def test_two_devices_work_on_two_cells_at_a_time(tiny_lm, toy_domain, tmp_path):
    model = str(model_in(tmp_path, tiny_lm))
    spec = StudySpec("toy", toy_domain, (model,), (GRPO(samples=2, prompts=2),), budgets=(0, 200), seeds=(0, 1))
    one, two = (cost(spec, device, seconds=0.1) for device in ("h100", "h100x2"))
    assert two.hours < 0.8 * one.hours
    assert two.fits and two.device_hours == pytest.approx(2 * two.hours)


def test_longer_answers_cost_more(tiny_lm, toy_domain, tmp_path):
    model = str(model_in(tmp_path, tiny_lm))
    spec = StudySpec("toy", toy_domain, (model,))
    short, long = (cost(spec, "h100", answer_tokens=n).total("written") for n in (1, 3))
    assert long == 3 * short


def test_this_machine_is_measured(tiny_lm, toy_domain, tmp_path):
    spec = StudySpec("toy", toy_domain, (str(model_in(tmp_path, tiny_lm)),), (SFT(),), budgets=(0, 2))
    found = cost(spec, price=3.0, seconds=0.1)
    assert found.fits and found.device == "here" and found.hours > 0
    assert found.dollars == pytest.approx(3 * found.hours)


def test_copies_that_a_study_keeps_elsewhere_are_credited_and_not_advised_again(tiny_lm, toy_domain, tmp_path):
    model = str(model_in(tmp_path, tiny_lm))
    tar = replace(SMALL_TAR, adversaries=(SMALL_SFT,), max_steps=2)
    spec = StudySpec("toy", toy_domain, (model,), defenses=(tar,))
    peaks = {}
    for keep in ("device", "cpu", "disk"):
        found = cost(replace(spec, defenses=(replace(tar, keep=keep),)), "h100", seconds=0.1)
        peaks[keep] = next(cell.peak for cell in found.cells if cell.kind == "harden")
    weights = 4 * found.parameters[model]
    assert peaks["device"] - peaks["cpu"] == pytest.approx(weights)
    assert peaks["cpu"] == pytest.approx(peaks["disk"])
    assert "keep" in [*_open_fields(tar)] and "keep" not in [*_open_fields(replace(tar, keep="cpu"))]


def test_answers_are_read_in_whole_rows_with_checkpointing(tiny_lm, toy_domain, tmp_path):
    model = str(model_in(tmp_path, tiny_lm))
    grpo = GRPO(samples=3, prompts=2, max_new_tokens=4)
    spec = StudySpec("toy", toy_domain, (model,), (grpo,), budgets=(0, 2))
    shared, whole = (
        cost(replace(spec, memory=memory), "h100", seconds=0.1).cells[-1]
        for memory in (Memory(), Memory(checkpointing=True))
    )
    assert whole.trained > shared.trained  # prompts once for each answer, not once for all
    assert whole.written == shared.written
