"""Memory: what makes a step fit by taking more time, and decides no result beyond rounding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from caseharden.errors import CasehardenError


@dataclass(frozen=True)
class Memory:
    """How a step is made to fit: see docs/scale.md for what each field spares.

    With `checkpointing` the activations within a layer are computed again when its gradient is taken; only what
    goes from one layer to the next is kept from the forward pass. With `offload` optimizers work on the CPU: their
    states are there, and float32 masters of the weights.
    """

    checkpointing: bool = False
    offload: bool = False

    def check(self, model: nn.Module) -> None:
        """Raise `CasehardenError` for a model whose layers cannot be computed twice."""
        if self.checkpointing and not _layers(model):
            raise CasehardenError(
                f"Transformers knows no layers of {type(model).__name__} that can be computed twice. Leave "
                "checkpointing out, or use an architecture that supports it."
            )

    @contextmanager
    def applied(self, model: nn.Module, *, cached: bool) -> Iterator[None]:
        """Around a forward pass of `model`: layers are checkpointed if its gradient may be asked for.

        A layer that writes into a cache (`cached`) is not, since it would write twice. Unlike Transformers' own
        switch this one also works in evaluation mode, in which policies and simulated attacks are differentiated.
        """
        layers = _layers(model) if self.checkpointing and torch.is_grad_enabled() and not cached else []
        for layer in layers:
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
        try:
            yield
        finally:
            for layer in layers:
                del layer.forward


PLENTY = Memory()
"""Nothing needs to be spared."""


def _layers(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
