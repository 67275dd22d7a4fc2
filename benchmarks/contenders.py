"""What benchmarks share: contenders that take turns, each in a process of its own; ratios; peak memory."""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence

import torch

Measured = dict[str, float]


def take_turns(script: str, names: Iterable[str], repeats: int) -> dict[str, list[Measured]]:
    """Run `script --one NAME`, which prints what it measured as JSON, `repeats` times for each name, in turn.

    So peak memory is each one's own, and a machine whose speed drifts slows all alike.
    """
    found: dict[str, list[Measured]] = {name: [] for name in names}
    for _ in range(repeats):
        for name, runs in found.items():
            command = [sys.executable, script, *sys.argv[1:], "--one", name]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            runs.append(json.loads(done.stdout.splitlines()[-1]))
    return found


def ratios(found: Mapping[str, list[Measured]], over: str, under: str, *keys: str) -> dict[str, list[float]]:
    """One contender's figures over another's, repetition by repetition, under names like ``seconds, a / b``."""
    pairs = [*zip(found[over], found[under], strict=True)]
    return {f"{key}, {over} / {under}": [a[key] / b[key] for a, b in pairs] for key in keys}


def show(figures: Mapping[str, Sequence[float]]) -> None:
    """Print each figure's median and range over repetitions; in the last line all as JSON, for `bench.py`."""
    for name, values in figures.items():
        print(f"{name}: {statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})")
    print(json.dumps({name: list(values) for name, values in figures.items()}))


def peak_memory() -> float:
    """Peak memory so far in MiB: the GPU's allocations where there is one, else the resident set."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
