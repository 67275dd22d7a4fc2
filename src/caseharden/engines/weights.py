"""A model's weights, for engines with a copy: whether they changed, what they are, whether the copy is right."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor
from transformers.core_model_loading import revert_weight_conversion

from caseharden.errors import CasehardenError
from caseharden.lm.lm import LM

CHUNK = 1 << 22
"""Words of a tensor that `checksum` mixes at a time."""
PRIME = 0x100000001B3
WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integers as wide as the numbers of a tensor, by their bytes."""
APART = 0.5
"""Nats a token by which an engine's greedy answer may be less likely to us than what we would have written."""


def checksum(lm: LM) -> str:
    """A hash of what `lm` writes with, computed where its weights are: any change changes it, however it was made.

    For telling weights apart within a process. `LM.weights_hash`, their identity for good, fetches them first.
    """
    digest = hashlib.sha256(type(lm.model).__name__.encode())
    mixed = []
    for name, tensor in lm.state_dict().items():
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}\0".encode())
        mixed.append(_mixed(tensor))
    for name, layer in _adapters(lm):  # which of them are at work is in no tensor
        digest.update(f"{name}:{layer.disable_adapters}:{layer.active_adapters}:{layer.scaling}\0".encode())
    digest.update(torch.stack(mixed).cpu().numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def _mixed(tensor: Tensor) -> Tensor:
    """A 64-bit sum of products of its bits, wrapping round: the same in whatever order they are added."""
    words = tensor.detach().contiguous().reshape(-1).view(WORDS[tensor.element_size()])
    factors = _factors(tensor.device)
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for part in torch.split(words, CHUNK):
        total = total * PRIME + (part * factors[: len(part)]).sum()
    return total


@cache
def _factors(device: torch.device) -> Tensor:
    """Odd random numbers, so that no place's bits get lost, and no two places' are alike."""
    return (torch.randint(-(2**62), 2**62, (CHUNK,), generator=torch.Generator().manual_seed(0)) * 2 + 1).to(device)


@torch.no_grad()
def effective(lm: LM) -> dict[str, Tensor]:
    """The weights of a model that does without adapters what `lm` does with its own, by their names in the model.

    Nothing of `lm` is touched: merging adapters and taking them out again would not bring back every bit.
    """
    found = {
        _plain(name): tensor.detach()
        for name, tensor in base_model(lm).state_dict().items()
        if not any(part.startswith("lora_") for part in name.split("."))
    }
    for name, layer in _adapters(lm):
        where = f"{_plain(name)}.{getattr(layer, 'parameter_name', 'weight')}"  # experts have one each for theirs
        adapters = [] if layer.disable_adapters or layer.merged else layer.active_adapters
        for adapter in (one for one in adapters if one in layer.scaling):
            found[where] = found[where] + layer.get_delta_weight(adapter).to(found[where].dtype)
    return found


def _plain(name: str) -> str:
    """The name of a weight, or of a layer, where no adapters are put in."""
    return ".".join(part for part in name.split(".") if part != "base_layer")


def as_checkpoint(lm: LM) -> dict[str, Tensor]:
    """The `effective` weights by the names, and in the pieces, that a saved model has them."""
    found: dict[str, Tensor] = dict(revert_weight_conversion(base_model(lm), effective(lm)))
    return found


def check_agreement(lm: LM, prompt: Sequence[int], answer: Sequence[int], whose: str, advice: str) -> None:
    """Raise `CasehardenError` unless `answer`, written greedily by somebody else, is about what `lm` would write.

    It tells other weights from these, as far as they write otherwise; not rounding, nor a slight quantization.
    """
    with torch.no_grad():
        logits_BRV, targets_BR, _ = lm.response_logits(lm.pad([([*prompt, *answer], len(answer))]))
    logps_RV = torch.log_softmax(logits_BRV[0].float(), -1)
    apart = float((logps_RV.amax(-1) - logps_RV.gather(-1, targets_BR[0][:, None])[:, 0]).mean())
    if not apart <= APART:
        raise CasehardenError(
            f"{whose} writes other answers than {lm.name!r}: what it found likeliest is {apart:.1f} nats a token "
            f"less likely to the model itself than what it would write. {advice}"
        )


def base_model(lm: LM) -> Any:
    """The model of Transformers; adapters, if any, are inside it."""
    return lm.model.get_base_model() if isinstance(lm.model, PeftModel) else lm.model


def _adapters(lm: LM) -> list[tuple[str, Any]]:
    """The layers with adapters, by their names in the base model."""
    return [(name, module) for name, module in base_model(lm).named_modules() if isinstance(module, LoraLayer)]
