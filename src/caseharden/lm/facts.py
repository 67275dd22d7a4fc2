"""What a model's folder says of it without running it."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from caseharden.lm.sources import READ_BY_LOAD


def fingerprint(folder: Path) -> str:
    """SHA-256 over the files of a model's folder that decide what it does: weights, configuration, tokenizer."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in READ_BY_LOAD for path in folder.glob(pattern)}):
        with path.open("rb") as file:
            digest.update(f"{path.name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\0".encode())
    return digest.hexdigest()


DIRECTIONS = 16
"""Singular directions of a weight matrix's change that count as few; matrices four times as wide are looked at."""


def weight_facts(model: Path, baseline: Path) -> dict[str, float]:
    """What the change from `baseline` to `model` is like: ``low_rank``, the share of its squares in few directions.

    Over all matrices at least four times as wide as `DIRECTIONS`; nothing if shapes differ or nothing changed.
    """
    ours, theirs = _tensors(model), _tensors(baseline)
    if {name: t.shape for name, t in ours.items()} != {name: t.shape for name, t in theirs.items()}:
        return {}
    inside = total = 0.0
    for name, tensor in ours.items():
        if tensor.ndim == 2 and min(tensor.shape) >= 4 * DIRECTIONS:
            squares = torch.linalg.svdvals(tensor.float() - theirs[name].float()).square()
            inside += float(squares[:DIRECTIONS].sum())
            total += float(squares.sum())
    return {"low_rank": inside / total} if total > 0 else {}


def parameters(folder: Path) -> int:
    """How many numbers the weights in `folder` have, by the headers of their files; tied weights once."""
    total = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            total += sum(math.prod(file.get_slice(name).get_shape()) for name in sorted(file.keys()))
    return total


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: t for path in sorted(folder.glob("*.safetensors")) for name, t in load_file(path).items()}
