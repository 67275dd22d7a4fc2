"""Attacks of one step on the weights: what they change, and what they leave."""

import pytest
import torch

from architectures import tiny_model
from caseharden.attacks import SFT, Chain
from caseharden.attacks.weights import (
    Noise,
    Prune,
    Quantize,
    Reparameterize,
    Strip,
    in_layers,
    interchangeable,
    quantized,
    stripped,
)
from caseharden.errors import CasehardenError
from caseharden.lm.lm import LM
from caseharden.train.tuner import Run
from factories import copy_of, weights_after


@pytest.fixture
def base(tiny_lm, tmp_path) -> str:
    """The folder of a model of the tiny one's shapes and other weights."""
    other = copy_of(tiny_lm)
    generator = torch.Generator().manual_seed(1)
    for parameter in other.model.parameters():
        parameter.data.add_(torch.randn(parameter.shape, generator=generator), alpha=0.02)
    other.save(tmp_path / "base")
    return str(tmp_path / "base")


def logits(lm: LM) -> torch.Tensor:
    with torch.no_grad():
        return lm.response_logits(lm.pad([(row, 1) for row in lm.encode_prompts(["a b ?", "c d e"])]))[0]


def attacked(run: Run, attack) -> LM:
    list(run.drive(attack))
    return run.finish()


def test_strip_at_0_is_the_base_to_the_bit_and_at_1_the_model(base, tiny_lm, run_of):
    assert weights_after(run_of("attacker"), Strip(base)) == LM.load(base).weights_hash()
    kept = attacked(run_of("attacker"), Strip(base, strength=1.0)).model
    for mine, theirs in zip(kept.parameters(), tiny_lm.model.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-7)


def test_strip_between_is_the_straight_line_tied_weights_counted_once(base, tiny_lm, run_of):
    found = attacked(run_of("attacker"), Strip(base, strength=0.25)).model.state_dict()
    ours, theirs = tiny_lm.model.state_dict(), LM.load(base).model.state_dict()
    for name, values in found.items():
        assert torch.allclose(values, 0.75 * theirs[name] + 0.25 * ours[name], atol=1e-7)


def test_a_difference_of_low_rank_is_gone_with_so_many_directions():
    generator = torch.Generator().manual_seed(0)
    base, a, b = (torch.randn(shape, generator=generator) for shape in ((3, 8, 6), (3, 8, 2), (3, 2, 6)))
    assert torch.allclose(stripped(base + a @ b, base, 0.0, rank=2), base, atol=1e-5)
    left = stripped(base + a @ b, base, 0.0, rank=1) - base
    assert torch.linalg.matrix_rank(left, atol=1e-4).tolist() == [1, 1, 1]
    assert torch.equal(stripped(base[0, 0] + 1, base[0, 0], 0.0, rank=1), base[0, 0])


def test_strip_takes_no_base_of_other_shapes(run_of):
    with pytest.raises(CasehardenError, match="has other weights"):
        weights_after(run_of("attacker"), Strip("almanac-victim"))


def test_noise_is_as_large_as_it_says_and_its_seeds(tiny_lm, run_of):
    first, again, other = (attacked(run_of("attacker", seed), Noise(0.5)) for seed in (0, 0, 1))
    assert first.weights_hash() == again.weights_hash() != other.weights_hash()
    before, after = (lm.model.get_input_embeddings().weight for lm in (tiny_lm, first))
    assert (after - before).norm().item() == pytest.approx(0.5 * before.norm().item(), rel=0.1)
    assert torch.equal(first.model.model.norm.weight, tiny_lm.model.model.norm.weight)


@pytest.mark.parametrize("amount", [0.25, 0.5])
def test_so_many_weights_are_pruned_the_smallest_and_no_others_change(amount, tiny_lm, run_of):
    pruned = attacked(run_of("attacker"), Prune(amount))
    for before, after in zip(in_layers(tiny_lm), in_layers(pruned), strict=True):
        gone = after == 0
        assert gone.float().mean() == pytest.approx(amount)
        assert before[gone].abs().max() <= before[~gone].abs().min()
        assert torch.equal(before[~gone], after[~gone])
    assert {*pruned.model.state_dict()} == {*tiny_lm.model.state_dict()}
    ends = (lm.model.get_input_embeddings().weight for lm in (tiny_lm, pruned))
    assert torch.equal(*ends)


def test_fewer_bits_change_more_and_a_row_has_so_many_steps(tiny_lm, run_of):
    changes = [
        float((logits(attacked(run_of("attacker"), Quantize(bits))) - logits(tiny_lm)).norm()) for bits in (8, 4, 2)
    ]
    assert 0 < 10 * changes[0] < changes[1] < changes[2]
    rows = torch.randn(5, 400, generator=torch.Generator().manual_seed(0))
    found = quantized(rows, 4)
    assert all(len(row.unique()) <= 15 for row in found)
    step = rows.abs().amax(-1, keepdim=True) / 7
    assert torch.all((found - rows).abs() <= step / 2 * 1.001)
    assert torch.equal(quantized(torch.zeros(2, 3), 8), torch.zeros(2, 3))


@pytest.mark.parametrize("factor", [None, 3.0])
def test_reparameterizing_changes_weights_and_no_logit(factor, tiny_lm, run_of):
    run = run_of("attacker")
    for layer in run.lm.model.model.layers:  # conditioned, as a defense may
        layer.mlp.up_proj.weight.data.mul_(100)
        layer.mlp.down_proj.weight.data.div_(100)
    assert torch.allclose(logits(run.lm), logits(tiny_lm), atol=1e-5)
    conditioned = run.lm.weights_hash()
    found = attacked(run, Reparameterize(factor))
    assert torch.allclose(logits(found), logits(tiny_lm), atol=1e-4)
    assert found.weights_hash() != conditioned
    for layer in found.model.model.layers if factor is None else ():
        up, down = layer.mlp.up_proj.weight, layer.mlp.down_proj.weight
        assert up.square().mean().item() == pytest.approx(down.square().mean().item(), rel=1e-4)


PAIRS = {
    "llama": ["q_proj k_proj", "v_proj o_proj", "up_proj down_proj"],
    "qwen3": ["v_proj o_proj", "up_proj down_proj"],  # whose queries and keys are normalized
    "opt": ["k_proj q_proj", "v_proj out_proj"],  # ReLU would do, but its two maps are parts of their own
    "lfm2": ["v_proj out_proj", "w3 w2"],
    "gpt2": [],  # one matrix for all of attention, and GELU
}


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_are_those_that_the_architecture_has(name, word_tokenizer, toy_domain):
    lm = tiny_model(name, word_tokenizer)
    names = {module: name.split(".")[-1] for name, module in lm.model.named_modules()}
    found = {f"{names[a]} {names[b]}" for a, b in interchangeable(lm)}
    assert found >= {*PAIRS[name]}
    assert not found & {"gate_proj down_proj", "gate_proj up_proj", "w1 w2", "c_fc c_proj"}
    if not found:
        with pytest.raises(CasehardenError, match="no two matrices"):
            weights_after(Run(lm, toy_domain, "attacker", 0), Reparameterize())


def test_after_one_step_fine_tuning_follows_in_a_chain(base, run_of):
    steps = list(run_of("attacker").drive(Chain((Strip(base), SFT(lr=1e-3, batch_size=2, max_steps=2)))))
    assert [metrics["stage"] for metrics in steps] == [0, 1, 1]


def test_fields_that_cannot_be_are_refused():
    for make in (
        lambda: Strip("x", strength=float("nan")),
        lambda: Strip("x", rank=0),
        lambda: Noise(0.0),
        lambda: Prune(1.0),
        lambda: Quantize(16),
        lambda: Reparameterize(0.0),
    ):
        with pytest.raises(CasehardenError):
            make()
