"""Transformers: the library's own ``generate``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessorList

from caseharden.engines.engine import Written, in_batches
from caseharden.engines.weights import base_model
from caseharden.lm.batch import Batch
from caseharden.lm.lm import LM


@dataclass(frozen=True)
class Transformers:
    """Writes answers with Transformers' own `generate`: slower than `native`, and for any model that has it.

    Every answer reads its prompt itself. `batch_size` answers are written at a time: less for less memory;
    sampled answers depend on it.
    """

    batch_size: int = 256

    def write(
        self, lm: LM, prompts: Sequence[list[int]], samples: int, limit: int, temperature: float, seed: int
    ) -> Written:
        return in_batches(generate, self.batch_size, lm, prompts, samples, limit, temperature, seed)


@contextmanager
def without_own_defaults(lm: LM) -> Iterator[Any]:
    """The model of Transformers, its adapters inside; until the end without its own generation config."""
    model = base_model(lm)
    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield model
    finally:
        model.generation_config = own


@torch.no_grad()
def generate(lm: LM, batch: Batch, samples: int, limit: int, temperature: float) -> Written:
    """Write `samples` answers of at most `limit` tokens to each of the batch's prompts: see `Engine.write`."""
    ends = lm.ends()
    drawn = {"temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature > 0 else {}
    plain = GenerationConfig(
        max_new_tokens=limit, do_sample=temperature > 0, eos_token_id=ends, pad_token_id=ends[0], **drawn
    )
    with without_own_defaults(lm) as model:  # from which what `plain` leaves open would be taken
        ids_BT = model.generate(
            input_ids=batch.ids_BT.repeat_interleave(samples, 0),
            attention_mask=batch.attention_BT.repeat_interleave(samples, 0),
            generation_config=plain,
            # processes that work together have to draw the same tokens, whatever rounding makes of them in each
            logits_processor=LogitsProcessorList([lambda _, logits_BV: lm.placement.agree(logits_BV)]),
        )
    rows = ids_BT[:, batch.ids_BT.shape[1] :].tolist()
    tokens = [row[: next((n + 1 for n, token in enumerate(row) if token in ends), limit)] for row in rows]
    lm.meter.read(samples * int(batch.attention_BT.sum()) + sum(len(row) - 1 for row in tokens))
    return Written(tokens)
