"""Adapters: what is trained where not all parameters are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from caseharden.lm.lm import LM

TAKEN = ("x_proj", "dt_proj", "out_proj")
"""Projections of state-space mixers whose weights their kernels take."""


@dataclass(frozen=True)
class LoRA:
    """Low-rank adapters on all linear layers (Hu et al. 2021), through PEFT.

    But for those that adapters do not reach: see `out_of_reach`.
    """

    r: int = 16
    alpha: int = 32
    dropout: float = 0.0

    def on(self, model: Any) -> PeftModel:
        """`model` with new adapters in it, drawn from PyTorch's global random numbers."""
        config = LoraConfig(
            r=self.r,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules="all-linear",
            exclude_modules=out_of_reach(model) or None,
        )
        adapted = get_peft_model(model, config)
        assert isinstance(adapted, PeftModel)
        return adapted


class BelowAdapters(LM):
    """A model as it is below its adapters, frozen: what it was before they were put in, without a copy of it."""

    @classmethod
    def of(cls, lm: LM) -> BelowAdapters:
        training = lm.model.training
        below = cls(lm.model, lm.tokenizer, lm.name, lm.precision, lm.reasoning, lm.memory, lm.placement)
        lm.model.train(training)
        below.meter = lm.meter
        # a head that is adapted is switched off during a pass only
        below.capabilities = replace(lm.capabilities, head=False)
        return below

    def through(self, model: nn.Module, **inputs: Any) -> Any:
        with switched_off(model), torch.no_grad():
            return super().through(model, **inputs)

    def state_dict(self) -> dict[str, Tensor]:
        """Nothing: its weights are those that the run's model is loaded with."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        pass


@contextmanager
def switched_off(model: Any) -> Iterator[None]:
    """Inside, `model` computes as without its adapters, in evaluation mode; PEFT's switch alone changes flags."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    training = model.training
    model.base_model.disable_adapter_layers()
    if training:
        model.eval()
    try:
        yield
    finally:
        model.base_model.enable_adapter_layers()
        if training:
            model.train()
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def out_of_reach(model: Any) -> list[str]:
    """Names of linear layers that adapters do not fit, or whose weights are used without calling the layer.

    A router may return scores and choices, as a forward pass of one token shows. And a state-space mixer, which
    has a convolution and a way past it (`D`), has kernels that take weights of its projections and leave out an
    adapter; linear attention, which has a convolution too, calls its own.
    """
    own: list[str] = []

    def look(name: str, returned: Any) -> None:
        if not isinstance(returned, Tensor):
            own.append(name)

    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    hooks = [layer.register_forward_hook(lambda *call, name=name: look(name, call[-1])) for name, layer in layers]
    with torch.no_grad():
        model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=False)
    for hook in hooks:
        hook.remove()
    modules = dict(model.named_modules())
    mixers = [
        name
        for name, module in modules.items()
        if isinstance(getattr(module, "conv1d", None), nn.Conv1d) and hasattr(module, "D")
    ]
    taken = [f"{mixer}.{projection}" for mixer in mixers for projection in TAKEN]
    return own + [name for name in taken if name in modules]
