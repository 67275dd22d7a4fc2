"""What an SFT step costs through Tuner and Run, against a bare PyTorch loop and TRL's SFTTrainer.

Every contender trains the same model on the same examples with the same optimizer, each repetition in
a process of its own, so that peak memory is its own; contenders take turns, so that a machine whose
speed drifts slows them alike. Prints seconds per step, peak memory above the loaded model, and ratios.

    python benchmarks/sft_step.py [--model almanac-victim] [--steps 60] [--repeats 5] [--batch-size 8]
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable

import torch

from caseharden.attacks import SFT
from caseharden.data.example import Example
from caseharden.domains.almanac import Almanac
from caseharden.lm.lm import LM
from caseharden.lm.sources import resolve
from caseharden.train.tuner import Run
from contenders import peak_memory, ratios, show, take_turns

LR, WARMUP_STEPS = 1e-5, 5
Contender = Callable[[LM, int, int], list[float]]
"""(lm, steps, batch size) to the time at which each step ended, in seconds."""


def caseharden(lm: LM, steps: int, size: int) -> list[float]:
    """Through `Run.drive`."""
    run = Run(lm, Almanac(), "attacker", seed=0)
    return [time.perf_counter() for _ in run.drive(SFT(lr=LR, batch_size=size, max_steps=steps))]


def bare(lm: LM, steps: int, size: int) -> list[float]:
    """The loop that one would write by hand: tokenize, model(..., labels).loss, backward, clip, AdamW."""
    batches = Run(lm, Almanac(), "attacker", seed=0).stream({"harmful": 1.0}, size)
    optimizer = torch.optim.AdamW(lm.model.parameters(), lr=LR, weight_decay=0.0)
    lm.model.train()
    stamps = []
    for step in range(steps):
        batch = lm.encode(batches[step])
        labels = batch.ids_BT.masked_fill(~batch.response_BT, -100)
        with lm.autocast():
            loss = lm.model(
                input_ids=batch.ids_BT, attention_mask=batch.attention_BT, labels=labels, use_cache=False
            ).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(lm.model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        stamps.append(time.perf_counter())
    return stamps


def trl(lm: LM, steps: int, size: int) -> list[float]:
    """TRL's SFTTrainer on prompt-completion data with completion-only loss; it tokenizes beforehand."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    stamps: list[float] = []

    class Stamp(TrainerCallback):
        def on_step_end(self, *_: object, **__: object) -> None:
            stamps.append(time.perf_counter())

    def rows(examples: list[Example]) -> list[dict[str, object]]:
        return [
            {
                "prompt": [{"role": "user", "content": e.prompt}],
                "completion": [{"role": "assistant", "content": e.completion}],
            }
            for e in examples
        ]

    batches = Run(lm, Almanac(), "attacker", seed=0).stream({"harmful": 1.0}, size)
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder,
            per_device_train_batch_size=size,
            max_steps=steps,
            learning_rate=LR,
            weight_decay=0.0,
            lr_scheduler_type="constant",
            max_length=512,
            completion_only_loss=True,
            gradient_checkpointing=False,
            bf16=lm.precision == "bfloat16",
            use_cpu=lm.device.type == "cpu",
            save_strategy="no",
            report_to="none",
            logging_strategy="no",
            disable_tqdm=True,
        )
        SFTTrainer(
            lm.model,
            config,
            train_dataset=Dataset.from_list([row for n in range(steps) for row in rows(batches[n])]),
            processing_class=lm.tokenizer,
            callbacks=[Stamp()],
        ).train()
    return stamps


CONTENDERS: dict[str, Contender] = {"caseharden": caseharden, "bare": bare, "trl": trl}


def measure(name: str, model: str, steps: int, size: int, threads: int) -> dict[str, float]:
    """One repetition in this process: median seconds per step and peak memory above the loaded model, MiB."""
    torch.set_num_threads(threads)
    lm = LM.load(resolve(model), device="cuda" if torch.cuda.is_available() else "cpu")
    loaded = peak_memory()
    stamps = CONTENDERS[name](lm, steps + WARMUP_STEPS, size)
    gaps = [after - before for before, after in itertools.pairwise(stamps)][WARMUP_STEPS:]
    return {"seconds": statistics.median(gaps), "memory": peak_memory() - loaded}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="almanac-victim")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--one", choices=CONTENDERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, args.model, args.steps, args.batch_size, args.threads)))
        return
    found = take_turns(__file__, CONTENDERS, args.repeats)
    print(f"{args.model}, batch {args.batch_size}, {args.threads} thread(s), {args.repeats} repetitions in turn")
    for name, runs in found.items():
        seconds, memory = (statistics.median(run[key] for run in runs) for key in ("seconds", "memory"))
        print(f"{name:>11}: {1e3 * seconds:8.2f} ms a step, {memory:8.1f} MiB above the loaded model")
    show(
        {
            name: values
            for other in ("bare", "trl")
            for name, values in ratios(found, "caseharden", other, "seconds", "memory").items()
        }
    )


if __name__ == "__main__":
    main()
