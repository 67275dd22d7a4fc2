"""What training takes of memory, and what each way to spare some costs in time: ratios within one run.

Fine-tuning on rows of exactly `--tokens` tokens, nearly all of them of the answer, so that the output head's logits
count in full. Each repetition in a process of its own; contenders take turns. Of each: seconds a step; the peak
of the process; its `state`, what it took at most above the interpreter for steps on rows of a few tokens: weights,
gradients, the optimizer's state and what it needs for a step; and its `activations`, the peak above that. SGD
needs next to nothing, so that the peak is weights, gradients and activations.

    python benchmarks/memory.py [--model HuggingFaceTB/SmolLM2-135M-Instruct] [--tokens 512] [--batch-size 4]
        [--only plain checkpointing]
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from caseharden.attacks import SFT
from caseharden.data.example import Example
from caseharden.data.pools import Role
from caseharden.lm.lm import LM
from caseharden.lm.memory import Memory
from caseharden.lm.sources import resolve
from caseharden.train.adapters import LoRA
from caseharden.train.tuner import Run
from contenders import peak_memory, take_turns

TWICE = Memory(checkpointing=True)
CONTENDERS: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "plain": ({}, {}),
    "checkpointing": ({"memory": TWICE}, {}),
    "forward_batch": ({}, {"forward_batch": 1}),
    "both": ({"memory": TWICE}, {"forward_batch": 1}),
    "lora": ({}, {"lora": LoRA()}),
    "bfloat16_weights": ({"precision": "bfloat16_weights"}, {}),
    "bfloat16_weights, lora": ({"precision": "bfloat16_weights"}, {"lora": LoRA()}),
    "adamw_8bit": ({}, {"optimizer": "adamw_8bit"}),
}
"""What each loads the model with, and what its method is told; float32 unless it says otherwise."""


@dataclass(frozen=True)
class Long:
    """Answers without end, which fine-tuning cuts at its `max_length`."""

    name: str = "long"

    def pools(self, role: Role) -> Mapping[str, Sequence[Example]]:
        text = " ".join(f"{n} times {n} is {n * n}," for n in range(400))
        return {"harmful": [Example(f"{n}", "Count.", text, group=f"{n}") for n in range(64)]}


def seconds_of(run: Run, tuner: SFT) -> float:
    """Median seconds of a step, the first left out."""
    stamps = [time.perf_counter() for _ in run.drive(tuner)]
    return statistics.median(after - before for before, after in itertools.pairwise(stamps))


def measure(name: str, args: argparse.Namespace) -> dict[str, float]:
    """One repetition in this process: seconds a step, and peak memory in MiB."""
    torch.set_num_threads(args.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded, told = CONTENDERS[name]
    batches = {"batch_size": args.batch_size, "max_length": args.tokens, "max_steps": args.steps + 1}
    tuner = SFT(lr=1e-6, **batches, **{"optimizer": args.optimizer, **told})
    interpreter = peak_memory()
    lm = LM.load(resolve(args.model), device=device, **{"precision": "float32", **loaded})
    short = replace(tuner, batch_size=1, max_length=len(lm.encode_prompts(["Count."])[0]) + 4, max_steps=3)
    run = Run(lm, Long(), "attacker", seed=0)
    seconds_of(run, short)
    run.finish()
    state = peak_memory()
    seconds = seconds_of(Run(lm, Long(), "attacker", seed=0), tuner)
    return {
        "seconds": seconds,
        "peak": peak_memory(),
        "state": state - interpreter,
        "activations": peak_memory() - state,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--optimizer", default="sgd", help="adamw's step needs memory that hides activations'")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=[*CONTENDERS])
    parser.add_argument("--one", choices=CONTENDERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, args)))
        return
    found = take_turns(__file__, args.only, args.repeats)
    print(f"{args.model}, {args.batch_size} rows of {args.tokens} tokens, {args.threads} thread(s)")
    for name, runs in found.items():
        seconds, *sizes = (statistics.median(run[key] for run in runs) for key in runs[0])
        shown = ", ".join(f"{key} {size:6.0f} MiB" for key, size in zip([*runs[0]][1:], sizes, strict=True))
        print(f"{name:>22}: {seconds:7.2f} s a step, {shown}")
    for name in args.only[1:]:
        pairs = list(zip(found[name], found[args.only[0]], strict=True))
        for key in found[name][0]:
            ratios = [ours[key] / theirs[key] for ours, theirs in pairs]
            span = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            print(f"{name} / {args.only[0]}: {key} {span}")


if __name__ == "__main__":
    main()
