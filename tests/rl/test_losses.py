"""Losses of RL methods against their printed formulas."""

import pytest
import torch

from caseharden.rl.losses import token_noiser


def test_the_noiser_is_the_printed_sum():
    torch.manual_seed(0)
    logits, targets, noise = torch.randn(2, 3, 7), torch.randint(7, (2, 3)), torch.rand(2, 3, 7)
    found = token_noiser(logits, targets, 0.3, noise)
    logps = torch.log_softmax(logits.double(), -1)
    for b in range(2):
        for t in range(3):
            y = int(targets[b, t])
            others = [v for v in range(7) if v != y]
            total = sum(float(noise[b, t, v]) for v in others)
            spread = sum(float(noise[b, t, v]) / total * float(logps[b, t, v]) for v in others)
            assert found[b, t] == pytest.approx(-0.7 * float(logps[b, t, y]) - 0.3 * spread, rel=1e-5)
