"""Critic: how much reward is still to come."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from caseharden.lm.batch import Batch
from caseharden.lm.lm import LM
from caseharden.rl.rollouts import Rows
from caseharden.train.optim import Descends, Descent
from caseharden.train.tuner import Run


class ValueModel(nn.Module):
    """The policy's own transformer, as it was when the run began, with a scalar head that begins at 0."""

    def __init__(self, lm: LM) -> None:
        super().__init__()
        self.lm = lm
        self.body: Any = lm.placement.copy(lm.model.base_model).requires_grad_(True)  # type: ignore[type-var]
        width = lm.model.get_input_embeddings().weight.shape[1]  # type: ignore[operator]
        self.head = skip_init(nn.Linear, width, 1, device=lm.device)  # type: ignore[no-untyped-call]  # draws no random numbers
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        lm.placement.place(self)

    def forward(self, batch: Batch) -> Tensor:
        """V before each response token, [B, R]."""
        with self.lm.autocast():
            out = self.lm.through(
                self.body,
                input_ids=batch.ids_BT,
                attention_mask=batch.attention_BT,
                position_ids=batch.positions_BT,
                use_cache=False,
            )
            values_BT = self.head(out.last_hidden_state)[..., 0]
        before_BR: Tensor = values_BT[:, -batch.response_length - 1 : -1].float()
        return before_BR


class Critic:
    """A value model with an optimizer of its own, both tracked. Made before the policy gets adapters."""

    def __init__(self, run: Run, how: Descends, clip: float, forward_batch: int) -> None:
        self.lm = run.lm
        self.clip = clip
        self.forward_batch = forward_batch
        self.model = run.track("critic", ValueModel(run.lm))
        self.descent = run.track("critic descent", Descent(how, self.model.parameters(), run.lm.memory))

    @torch.no_grad()
    def values(self, rows: Rows) -> Tensor:
        """V before each token of the answers, [B, N]."""
        values_BN = torch.zeros(rows.mask_BN.shape, device=self.lm.device)
        for places, weight in rows.parts(self.lm, self.forward_batch):
            batch = rows.batch(self.lm, places)
            values_BR = self.model(batch)
            if weight:
                values_BN[places, -batch.response_length :] = values_BR
        return self.lm.placement.sum(values_BN)

    def step(self, rows: Rows, tensors: Mapping[str, Tensor], weights_BN: Tensor) -> float:
        """One optimizer step towards ``returns``, changes since ``values`` clipped (PPO); the loss before it."""
        total = 0.0
        for places, weight in rows.parts(self.lm, self.forward_batch):
            batch = rows.batch(self.lm, places)
            R = batch.response_length
            values_BR = self.model(batch)
            before_BR, returns_BR = (tensors[name][places, -R:] for name in ("values", "returns"))
            near_BR = before_BR + (values_BR - before_BR).clamp(-self.clip, self.clip)
            errors_BR = torch.maximum((values_BR - returns_BR).square(), (near_BR - returns_BR).square())
            loss = 0.5 * weight * (weights_BN[places, -R:] * errors_BR).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        self.descent.step()
        return self.lm.placement.mean([total])[0]
