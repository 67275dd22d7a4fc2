"""Transformers: the library's own ``generate``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from transformers import GenerationConfig

from caseharden.engines.engine import Written, in_batches
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


@torch.no_grad()
def generate(lm: LM, batch: Batch, samples: int, limit: int, temperature: float) -> Written:
    """Write `samples` answers of at most `limit` tokens to each of the batch's prompts: see `Engine.write`."""
    ends = lm.ends()
    drawn = {"temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature > 0 else {}
    plain = GenerationConfig(
        max_new_tokens=limit, do_sample=temperature > 0, eos_token_id=ends, pad_token_id=ends[0], **drawn
    )
    # The base model has its adapters inside. What `plain` leaves open would be taken from the model's own config.
    model: Any = lm.model.get_base_model() if isinstance(lm.model, PeftModel) else lm.model
    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        ids_BT = model.generate(
            input_ids=batch.ids_BT.repeat_interleave(samples, 0),
            attention_mask=batch.attention_BT.repeat_interleave(samples, 0),
            generation_config=plain,
        )
    finally:
        model.generation_config = own
    rows = ids_BT[:, batch.ids_BT.shape[1] :].tolist()
    tokens = [row[: next((n + 1 for n, token in enumerate(row) if token in ends), limit)] for row in rows]
    lm.meter.read(samples * int(batch.attention_BT.sum()) + sum(len(row) - 1 for row in tokens))
    return Written(tokens)
