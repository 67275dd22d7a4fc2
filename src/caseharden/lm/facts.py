"""What a model's folder says of it without running it."""

from __future__ import annotations

import hashlib
import math
from functools import cache
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from caseharden.lm.sources import READ_BY_LOAD


def fingerprint(folder: Path) -> str:
    """SHA-256 over the files of a model's folder that decide what it does: weights, configuration, tokenizer.

    A file is read once in a process, and again only if the file system says that it was touched.
    """
    digest = hashlib.sha256()
    for path in sorted({path for pattern in READ_BY_LOAD for path in folder.glob(pattern)}):
        stat = path.stat()
        sha256 = _sha256(path.resolve(), stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        digest.update(f"{path.name}\0{sha256}\0".encode())
    return digest.hexdigest()


@cache
def _sha256(path: Path, *_state: int) -> str:
    """The hash of one file in the state that its inode, size and times tell."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


DIRECTIONS = 16
"""Singular directions of a weight matrix's change that count as few; matrices four times as wide are looked at."""


def weight_facts(model: Path, baseline: Path) -> dict[str, float]:
    """What the change from `baseline` to `model` is like: ``low_rank``, the share of its squares in few directions.

    Over all changed matrices at least four times as wide as `DIRECTIONS`; nothing if there are none or if shapes
    differ.
    """
    ours, theirs = _tensors(model), _tensors(baseline)
    if {name: t.shape for name, t in ours.items()} != {name: t.shape for name, t in theirs.items()}:
        return {}
    inside = total = 0.0
    for name, tensor in ours.items():
        wide = tensor.ndim == 2 and min(tensor.shape) >= 4 * DIRECTIONS
        if wide and not torch.equal(tensor, theirs[name]):
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
