"""Losses: against brute force, and masked-out positions never matter."""

import math

import torch

from caseharden.lm.logps import entropy, token_logps
from caseharden.train.gradients import global_norm
from caseharden.train.losses import cross_entropy, dpo, kl, masked_mean


def example(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 5, 7, generator=generator)
    targets = torch.randint(0, 7, (3, 5), generator=generator)
    mask = torch.tensor([[0, 0, 1, 1, 1], [0, 1, 1, 1, 1], [0, 0, 0, 0, 1]], dtype=torch.bool)
    return logits, targets, mask


def test_sequence_mean_weighs_sequences_equally_and_token_mean_tokens():
    values = torch.tensor([[1.0, 1.0, 1.0], [9.0, 9.0, 5.0]])
    mask = torch.tensor([[1, 1, 1], [0, 0, 1]], dtype=torch.bool)
    assert masked_mean(values, mask, "sequence") == 3.0
    assert masked_mean(values, mask, "token") == 2.0


def test_cross_entropy_is_the_explicit_sum():
    logits, targets, mask = example()
    nll = [
        [-math.log(torch.softmax(logits[b, t], -1)[targets[b, t]]) for t in range(5) if mask[b, t]]
        for b in range(3)
    ]
    by_sequence = sum(sum(row) / len(row) for row in nll) / 3
    by_token = sum(map(sum, nll)) / sum(map(len, nll))
    assert math.isclose(cross_entropy(logits, targets, mask, "sequence"), by_sequence, rel_tol=1e-5)
    assert math.isclose(cross_entropy(logits, targets, mask, "token"), by_token, rel_tol=1e-5)


def test_masked_positions_touch_neither_loss_nor_gradient():
    logits, targets, mask = example()
    poisoned = torch.where(mask[..., None], logits, torch.tensor(float("inf"))).requires_grad_()
    clean = logits.clone().requires_grad_()
    values = [-token_logps(x, targets) for x in (clean, poisoned)]
    losses = [masked_mean(v, mask) for v in values]
    assert losses[0] == losses[1]
    changed = logits.clone()
    changed[~mask] += 3.0
    assert cross_entropy(changed, targets, mask) == losses[0]


def test_entropy_is_the_full_vocabulary_sum():
    logits, _, _ = example()
    p = torch.softmax(logits.double(), -1)
    assert torch.allclose(entropy(logits).double(), -(p * p.log()).sum(-1), rtol=1e-6)
    assert torch.allclose(entropy(torch.zeros(1, 1, 7)), torch.tensor(math.log(7.0)))


def test_kl_is_zero_for_equal_positive_otherwise_and_directed():
    logits, _, _ = example(0)
    other, _, _ = example(1)
    assert kl(logits, logits).abs().max() < 1e-6
    assert (kl(logits, other) > 0).all()
    p, q = torch.softmax(other.double(), -1), torch.softmax(logits.double(), -1)
    assert torch.allclose(kl(logits, other).double(), (p * (p / q).log()).sum(-1), rtol=1e-5)


def test_dpo_at_the_reference_is_log_two_and_falls_with_the_margin():
    zero = torch.zeros(2)
    assert torch.allclose(dpo(zero, zero, zero, zero, beta=0.1), torch.full((2,), math.log(2)))
    assert dpo(zero + 5, zero - 5, zero, zero, beta=0.1).max() < math.log(2)


def test_global_norm():
    assert global_norm([torch.tensor([3.0]), torch.tensor([[4.0]])]) == 5.0
    assert global_norm([]) == 0.0
