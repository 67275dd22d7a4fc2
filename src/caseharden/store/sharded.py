"""Checkpoints that several processes write, each its part, and that any number of them reads.

What is sharded goes into a safetensors file of each process, by `torch.distributed.checkpoint`; everything else,
with a note in the place of each sharded tensor, into the tree, which the first process writes. No pickle is run to
read them.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor

from caseharden.lm.placement import Placement

TREE = "tree.pt"
NOTE = "sharded tensor"
"""What stands in the tree for one, with its name, shape and type."""


def write(folder: Path, state: Any, placement: Placement) -> None:
    """Write `state`, in which tensors are sharded, into a folder of all processes; then sync it to the disk."""
    found: list[DTensor] = []
    _replaced(state, lambda value: found.append(value) if isinstance(value, DTensor) else value)
    # Tied weights, whose parts are one tensor, are written once, as the first process sees it: it has some of all.
    places = [(tensor.to_local().data_ptr(), tensor.shape, tensor.dtype) for tensor in found]
    names = iter(numbers := placement.agree([places.index(place) for place in places]))
    parts: dict[str, Tensor] = {f"{n:06d}": found[n].detach() for n in numbers}

    def noted(value: Any) -> Any:
        if not isinstance(value, DTensor):
            return value
        return {NOTE: f"{next(names):06d}", "shape": tuple(value.shape), "dtype": value.dtype}

    tree = _replaced(state, noted)
    with _quiet():
        save(parts, storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))
    placement.once(lambda: _write_tree(folder, tree))


def read(folder: Path, placement: Placement) -> Any:
    """The state in `folder`; what was sharded is so again, over the processes that there are now."""
    tree = torch.load(folder / TREE, map_location="cpu", weights_only=True)
    parts: dict[str, Tensor] = {}

    def empty(value: Any) -> Any:
        if not (isinstance(value, Mapping) and NOTE in value):
            return value
        if value[NOTE] not in parts:
            parts[value[NOTE]] = placement.empty(value["shape"], value["dtype"])
        return parts[value[NOTE]]

    state = _replaced(tree, empty)
    with _quiet():
        load(parts, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=placement.world == 1)
    return state


def _replaced(value: Any, by: Callable[[Any], Any]) -> Any:
    """`value` with what `by` makes of each thing in it, from the outside in."""
    found = by(value)
    if found is not value:
        return found
    if isinstance(value, Mapping):
        return {name: _replaced(item, by) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_replaced(item, by) for item in value)
    return value


def _write_tree(folder: Path, tree: Any) -> None:
    torch.save(tree, folder / TREE)
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _quiet() -> warnings.catch_warnings[None]:
    return warnings.catch_warnings(action="ignore", category=UserWarning)
