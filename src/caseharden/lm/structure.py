"""The parts of a model, found by how it is built and by what it does, and not by any architecture's names."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from caseharden.errors import CasehardenError

MIXES = ("mask", "past", "cache")
"""A part of a layer whose forward pass takes something so called reads other tokens than its own."""
POSITIONS = ("max_position_embeddings", "max_seq_len")
"""What configurations call the number of a model's positions; others have an attribute of the first name."""


def layers(model: nn.Module) -> Sequence[nn.Module]:
    """The model's layers, from the first to the last: the longest `ModuleList` that stands in no other."""
    found: list[nn.ModuleList] = []
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and not any(module is m for list_ in found for m in list_.modules()):
            found.append(module)
    if not found:
        raise CasehardenError(f"no layers were found in {type(model).__name__}: it has no ModuleList.")
    return max(([*modules] for modules in found), key=len)


def has_dropout(model: nn.Module) -> bool:
    """Whether a pass in training mode draws random numbers: a module of it drops, or says with what probability."""
    if any(module.p > 0 for module in model.modules() if isinstance(module, nn.modules.dropout._DropoutNd)):
        return True
    told = (item for module in model.modules() for item in vars(module).items())
    return any(isinstance(value, float) and value > 0 and re.search("drop|jitter", name) for name, value in told)


def is_norm(module: nn.Module) -> bool:
    """Whether a module normalizes, by the name of its class: LayerNorm, LlamaRMSNorm."""
    return "norm" in type(module).__name__.lower()


def parts(layer: nn.Module) -> Iterator[nn.Module]:
    """The children of a layer that have matrices: attention, feed-forward, and whatever else it may have."""
    for child in layer.children():
        if not is_norm(child) and any(parameter.ndim > 1 for parameter in child.parameters()):
            yield child


def mixes_tokens(part: nn.Module) -> bool:
    """Whether a part of a layer reads other tokens: attention, linear attention, a state space, a convolution."""
    return any(word in name for name in inspect.signature(part.forward).parameters for word in MIXES)


def attention(layer: nn.Module) -> list[nn.Module]:
    """The parts of a layer that read other tokens."""
    return [part for part in parts(layer) if mixes_tokens(part)]


def mlps(layer: nn.Module) -> list[nn.Module]:
    """The parts of a layer that read each token alone."""
    return [part for part in parts(layer) if not mixes_tokens(part)]


def norms(model: nn.Module) -> list[nn.Module]:
    """Every module that normalizes, wherever it stands."""
    return [module for module in model.modules() if is_norm(module)]


def embeddings(model: Any) -> list[nn.Module]:
    """What reads tokens in and, where the model has one, what writes them out; one may be the other's weights."""
    return [end for end in (model.get_input_embeddings(), model.get_output_embeddings()) if end is not None]


def matrices(module: nn.Module) -> Iterator[nn.Parameter]:
    """The weights of more than one dimension within a module, each once, but for those of norms."""
    of_norms = {id(p) for norm in norms(module) for p in norm.parameters()}
    yield from (p for p in module.parameters() if p.ndim > 1 and id(p) not in of_norms)


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear map with a matrix of its own, either way round."""
    return isinstance(module, nn.Linear | Conv1D)


def by_output(linear: Any) -> Tensor:
    """The matrix of a linear module as [out, in], a view: GPT-2's ``Conv1D`` keeps its own the other way round."""
    weight: Tensor = linear.weight
    return weight.T if isinstance(linear, Conv1D) else weight


@torch.no_grad()
def writers(model: Any) -> list[tuple[int, nn.Module, nn.Module]]:
    """The linear maps that write what a part of a layer adds to the residual stream: (layer, part, map).

    Of each part the last one that a forward pass of one token calls and whose output is as wide as the stream.
    A part without one, such as experts that are kept in one tensor, is left out.
    """
    width = model.get_input_embeddings().weight.shape[1]
    last: dict[int, nn.Module] = {}
    owners = [(i, part) for i, layer in enumerate(layers(model)) for part in parts(layer)]

    def look(owner: int, module: nn.Module) -> None:
        if by_output(module).shape[0] == width:
            last[owner] = module

    hooks = [
        module.register_forward_hook(lambda called, *_, owner=owner: look(owner, called))
        for owner, (_, part) in enumerate(owners)
        for module in part.modules()
        if is_linear(module)
    ]
    try:
        token = torch.zeros(1, 1, dtype=torch.long, device=model.device)
        model(input_ids=token, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return [(layer, part, last[owner]) for owner, (layer, part) in enumerate(owners) if owner in last]


def positions(config: Any) -> int:
    """How many tokens a model of this configuration can read at a time; without end where it has no limit.

    Of two scales of positions (LongRoPE) the shorter one counts: a longer row would be read, and change how all
    others of its batch are.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        return int(rope["original_max_position_embeddings"])
    said = (getattr(config, name, None) for name in POSITIONS)
    return int(next(filter(None, said), sys.maxsize))
