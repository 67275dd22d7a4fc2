"""Likelihoods of completions, whatever else shares their prompt and their batch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from caseharden.data.example import Example
from caseharden.lm.logps import token_logps
from caseharden.measures.likelihood import total_logps
from toys import windowed

LONG = Example("long", "a b c d e f g h i j ?")
EXAMPLES = [replace(LONG, completion=c) for c in ("a b c d e f g", "b")] + [Example("short", "c ?", "c")]


@pytest.mark.parametrize("window", [None, 6])
def test_a_model_that_attends_to_a_window_finds_completions_as_likely_as_alone(window, tiny_lm):
    lm = windowed(tiny_lm, window)
    found = total_logps(lm, EXAMPLES, max_length=64, batch_size=4)
    for example, ((total,), tokens) in zip(EXAMPLES, found, strict=True):
        batch = lm.encode([example], turn=False)
        with torch.no_grad():
            logits = lm.model(batch.ids_BT).logits
        alone = token_logps(logits[:, :-1], batch.ids_BT[:, 1:])[0, -tokens:]
        assert total == pytest.approx(float(alone.sum()), abs=1e-5)
