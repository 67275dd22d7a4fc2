"""What training takes of memory, and what each way to spare some costs in time: ratios within one run.

Fine-tuning on rows of exactly `--tokens` tokens, nearly all of them of the answer, so that the output head's logits
count in full. Each repetition in a process of its own; contenders take turns. Of each: seconds a step; the peak
of the process; and its `activations`, the peak above what the same process took for steps on rows of a few tokens,
after which weights, gradients and the optimizer's state are all there.

    python benchmarks/memory.py --model HuggingFaceTB/SmolLM2-135M-Instruct [--tokens 512] [--batch-size 4]
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from caseharden.attacks import SFT
from caseharden.data.example import Example
from caseharden.data.pools import Role
from caseharden.lm.lm import LM
from caseharden.lm.memory import Memory
from caseharden.lm.sources import resolve
from caseharden.train.tuner import Run
from contenders import peak_memory, take_turns

CONTENDERS = {"plain": {}, "checkpointing": {"memory": Memory(checkpointing=True)}}
"""What each loads the model with."""


@dataclass(frozen=True)
class Long:
    """Answers without end, which fine-tuning cuts at its `max_length`."""

    name: str = "long"

    def pools(self, role: Role) -> Mapping[str, Sequence[Example]]:
        text = " ".join(f"{n} times {n} is {n * n}," for n in range(400))
        return {"harmful": [Example(f"{n}", "Count.", text, group=f"{n}") for n in range(64)]}


def seconds_of(lm: LM, tokens: int, size: int, steps: int) -> float:
    """Median seconds of a step, the first left out."""
    tuner = SFT(lr=1e-6, batch_size=size, max_length=tokens, max_steps=steps + 1)
    stamps = [time.perf_counter() for _ in Run(lm, Long(), "attacker", seed=0).drive(tuner)]
    return statistics.median(after - before for before, after in itertools.pairwise(stamps))


def measure(name: str, model: str, tokens: int, size: int, steps: int, threads: int) -> dict[str, float]:
    """One repetition in this process: seconds a step, and peak memory in MiB."""
    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    lm = LM.load(resolve(model), device=device, precision="float32", **CONTENDERS[name])
    seconds_of(lm, len(lm.encode_prompts(["Count."])[0]) + 4, 1, 2)
    without = peak_memory()
    seconds = seconds_of(lm, tokens, size, steps)
    return {"seconds": seconds, "peak": peak_memory(), "activations": peak_memory() - without}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="almanac-victim")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--one", choices=CONTENDERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, args.model, args.tokens, args.batch_size, args.steps, args.threads)))
        return
    found = take_turns(__file__, CONTENDERS, args.repeats)
    print(f"{args.model}, {args.batch_size} rows of {args.tokens} tokens, {args.threads} thread(s)")
    for name, runs in found.items():
        seconds, peak, own = (statistics.median(run[key] for run in runs) for key in runs[0])
        print(f"{name:>20}: {seconds:7.2f} s a step, peak {peak:6.0f} MiB, activations {own:6.0f} MiB")
    for name, runs in found.items():
        pairs = list(zip(runs, found["plain"], strict=True))
        for key in runs[0] if name != "plain" else ():
            ratios = [ours[key] / theirs[key] for ours, theirs in pairs]
            print(f"{name} / plain: {key} {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
