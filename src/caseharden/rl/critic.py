"""Critic: how much reward is still to come."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import skip_init

from caseharden.lm.batch import Batch
from caseharden.lm.lm import LM


class Critic(nn.Module):
    """The policy's own transformer, as it was when the run began, with a scalar head that begins at 0."""

    def __init__(self, lm: LM) -> None:
        super().__init__()
        self.lm = lm
        self.body: Any = copy.deepcopy(lm.model.base_model).requires_grad_(True)
        width = lm.model.get_input_embeddings().weight.shape[1]  # type: ignore[operator]
        self.head = skip_init(nn.Linear, width, 1, device=lm.device)  # type: ignore[no-untyped-call]  # draws no random numbers
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: Batch) -> Tensor:
        """V before each response token, [B, R]."""
        with self.lm.autocast():
            out = self.lm.meter.through(
                self.body,
                input_ids=batch.ids_BT,
                attention_mask=batch.attention_BT,
                position_ids=batch.positions_BT,
                use_cache=False,
            )
            values_BT = self.head(out.last_hidden_state)[..., 0]
        before_BR: Tensor = values_BT[:, -batch.response_length - 1 : -1].float()
        return before_BR
