from dataclasses import replace

import pytest
from transformers import LlamaConfig

from caseharden.cost.architecture import Architecture, Pass, Variant
from caseharden.cost.devices import TABLE
from caseharden.cost.memory import WAYS, Layout, held, peak, shards_to_fit, ways_to_fit
from caseharden.cost.trace import Moment, traced
from cost_toys import model_in, on_twin
from test_contract import SMALL_SFT, SMALL_TAR

FIELDS = frozenset({"lora", "forward_batch", "optimizer"})
GPU = TABLE["h100"]


@pytest.fixture(scope="module")
def eight(tmp_path_factory) -> Architecture:
    """A model of eight billion parameters, of which there is only the configuration."""
    folder = tmp_path_factory.mktemp("eight")
    sizes = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32}
    LlamaConfig(**sizes, num_key_value_heads=8, vocab_size=128256, tie_word_embeddings=False).save_pretrained(
        folder
    )
    return Architecture(folder)


@pytest.fixture
def moments(eight) -> list[Moment]:
    """Full fine-tuning: a pass of eight examples, and the optimizer's step after it."""
    weights = 4.0 * eight.parameters
    names = frozenset(eight.bare(name) for name, _ in eight.twin.named_parameters())
    one = Pass(Variant(True, False, False, False, None, names), 8, 256, 0, 64)
    held = {"weights": weights, "states": 2 * weights}
    return [Moment({**held, "logits": 1e9}, ((eight, one),)), Moment({**held, "gradients": weights})]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.says)
def test_each_way_saves_memory(way, moments, eight):
    with_copies = [Moment({**moment.held, "kept": 3 * moment.held["weights"]}, moment.passes) for moment in moments]
    whole, saved = (sum(held(m, eight, it, GPU) for m in with_copies) for it in (Layout(), way.change(Layout())))
    assert saved < whole


def test_as_few_ways_as_will_do(moments, eight):
    assert peak(moments, eight, Layout(), GPU) > GPU.memory
    found = ways_to_fit(moments, eight, GPU, FIELDS)
    assert "lora: {r: 16}" in [way for way, _ in found]
    assert all(bytes_ <= GPU.memory and " and " not in way for way, bytes_ in found)
    small = ways_to_fit(moments, eight, TABLE["rtx4090"], FIELDS)
    assert small and all(" and " in way for way, _ in small)  # one alone does not do there
    assert "lora" not in str(ways_to_fit(moments, eight, GPU, frozenset()))  # no method would take it


def test_shards_divide_what_lasts(moments, eight):
    number = shards_to_fit(moments, eight, GPU)
    assert number and peak(moments, eight, Layout(shards=number), GPU) <= GPU.memory
    assert peak(moments, eight, Layout(shards=number // 2), GPU) > GPU.memory


def test_what_a_study_asks_for_already_is_counted_and_not_advised(eight, moments):
    asked = Layout(checkpointing=True)
    passing = moments[0]
    assert held(passing, eight, asked, GPU) < held(passing, eight, Layout(), GPU)
    assert "checkpointing" not in str(ways_to_fit(moments, eight, GPU, FIELDS, asked))
    assert shards_to_fit(moments, eight, GPU, Layout(offload=True)) is None, "what is off-loaded is not sharded"


def test_keep_spares_what_it_moves_and_no_other_copy(tiny_lm, toy_domain, tmp_path):
    run, recorder = on_twin(model_in(tmp_path, tiny_lm), toy_domain, "defender")
    tar = replace(SMALL_TAR, adversaries=(SMALL_SFT,))
    found = traced(run.drive(tar), recorder, run.lm.model, 2, 60).moments
    subject = recorder.subject
    weights = 4 * subject.parameters
    copies = max(moment.held["copies"] + moment.held["kept"] for moment in found)
    assert copies > 1.9 * weights  # θ, which `keep` moves, and what TAR adds gradients up in
    whole, spared = (peak(found, subject, layout, GPU) for layout in (Layout(), Layout(offload_copies=True)))
    assert whole - spared == pytest.approx(weights)


def test_nothing_is_put_aside_where_the_model_is_on_the_cpu_itself(moments, eight):
    with_copies = [Moment({**moment.held, "kept": moment.held["weights"]}, moment.passes) for moment in moments]
    here = replace(GPU, serial=True)
    aside = Layout(offload=True, offload_copies=True)
    assert peak(with_copies, eight, aside, GPU) < peak(with_copies, eight, Layout(), GPU)
    assert peak(with_copies, eight, aside, here) == peak(with_copies, eight, Layout(), here)
    for device, copies in ((here, 1), (GPU, 0)):
        one = moments[1]
        with_aside = Moment({**one.held, "kept aside": one.held["weights"]})
        more = held(with_aside, eight, Layout(), device) - held(one, eight, Layout(), device)
        assert more == copies * one.held["weights"]
    fields = FIELDS | {"keep"}
    for device in (here, GPU):
        tight = replace(device, memory=peak(with_copies, eight, Layout(), device) - 1)
        found = [way for way, _ in ways_to_fit(with_copies, eight, tight, fields)]
        assert found and ("keep: cpu" in found) == ("memory: {offload: true}" in found) == (not device.serial)
