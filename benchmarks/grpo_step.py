"""What a GRPO step costs, rollout and update apart, against its floor and TRL's GRPOTrainer.

The floor is what one would write by hand for the same prompts, number and length of answers: a cached
decode, and one forward, backward and AdamW step. Learning rate 1e-7, so that the policy, and with it the
length of its answers, stays the same for all. Each repetition in a process of its own; contenders take
turns. One update a rollout, no KL term.

    python benchmarks/grpo_step.py [--model almanac-victim] [--steps 20] [--new-tokens 12] [--samples 8]
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from caseharden.attacks import GRPO
from caseharden.domains.almanac import Almanac
from caseharden.engines.engine import Engine, Written
from caseharden.engines.native import Native
from caseharden.judges import Verifier
from caseharden.judges.judge import Answer
from caseharden.lm.lm import LM
from caseharden.lm.sources import resolve
from caseharden.train.tuner import Run
from contenders import peak_memory, ratios, show, take_turns

LR, WARMUP_STEPS, P = 1e-7, 2, 8
Steps = list[tuple[float, float]]
"""Seconds of each step: its rollout, and all of it."""


@dataclass(frozen=True)
class Timed:
    """An engine, timed."""

    engine: Engine
    seconds: list[float]

    def write(self, *given: object) -> Written:
        start = time.perf_counter()
        found = self.engine.write(*given)
        self.seconds.append(time.perf_counter() - start)
        return found


def caseharden(lm: LM, steps: int, new_tokens: int, G: int) -> Steps:
    """Through `Run.drive`."""
    tuner = GRPO(lr=LR, prompts=P, samples=G, max_new_tokens=new_tokens, max_steps=steps)
    engine = Timed(Native(), [])
    found, start = [], time.perf_counter()
    for _ in Run(lm, Almanac(), "attacker", seed=0, engine=engine).drive(tuner):
        now = time.perf_counter()
        found.append((engine.seconds[-1], now - start))
        start = now
    return found


def bare(lm: LM, steps: int, new_tokens: int, G: int) -> Steps:
    """A cached decode of P·G rows until all have ended, and an update on them: nothing is scored."""
    batches = Run(lm, Almanac(), "attacker", seed=0).stream({"harmful": 1.0}, P)
    optimizer = torch.optim.AdamW(lm.model.parameters(), lr=LR, weight_decay=0.0)
    ends = torch.tensor(lm.ends(), device=lm.device)
    found = []
    for step in range(steps):
        start = time.perf_counter()
        prompts = lm.encode_prompts([e.prompt for e in batches[step] for _ in range(G)])
        batch = lm.pad([(prompt, 0) for prompt in prompts])
        ids, attention, cache, inputs = batch.ids_BT, batch.attention_BT, None, batch.ids_BT
        writing = torch.ones(len(ids), dtype=torch.bool, device=lm.device)
        with torch.no_grad(), lm.autocast():
            for _ in range(new_tokens):
                out = lm.model(
                    input_ids=inputs,
                    attention_mask=attention,
                    position_ids=(attention.cumsum(-1) - 1).clamp(min=0)[:, -inputs.shape[1] :],
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
                cache = out.past_key_values
                inputs = torch.multinomial(torch.softmax(out.logits[:, -1].float(), -1), 1)
                ids = torch.cat([ids, inputs], 1)
                attention = torch.cat([attention, writing[:, None].long()], 1)
                writing = writing & ~torch.isin(inputs[:, 0], ends)
                if not writing.any():
                    break
        rolled_out = time.perf_counter() - start
        R = ids.shape[1] - batch.ids_BT.shape[1]
        with lm.autocast():
            logits = lm.model(
                input_ids=ids, attention_mask=attention, logits_to_keep=R + 1, use_cache=False
            ).logits[:, :-1]
        nll = torch.nn.functional.cross_entropy(logits.float().transpose(1, 2), ids[:, -R:], reduction="none")
        (nll * attention[:, -R:]).sum(-1).mean().backward()
        torch.nn.utils.clip_grad_norm_(lm.model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        found.append((rolled_out, time.perf_counter() - start))
    return found


def trl(lm: LM, steps: int, new_tokens: int, G: int) -> Steps:
    """TRL's GRPOTrainer, rewarded by the same verifier."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    stamps, rollouts = [], []

    class Stamp(TrainerCallback):
        def on_step_begin(self, *_: object, **__: object) -> None:
            stamps.append(time.perf_counter())

    def reward(prompts: list[str], completions: list[str], answer: list[str], **_: object) -> list[float]:
        rows = zip(prompts, completions, answer, strict=True)
        return Verifier().score([Answer("", prompt, text, expected) for prompt, text, expected in rows])

    batches = Run(lm, Almanac(), "attacker", seed=0).stream({"harmful": 1.0}, P)
    examples = [example for n in range(steps) for example in batches[n]]
    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=P * G,
            num_generations=G,
            max_completion_length=new_tokens,
            max_steps=steps,
            learning_rate=LR,
            weight_decay=0.0,
            beta=0.0,
            bf16=lm.precision == "bfloat16",
            use_cpu=lm.device.type == "cpu",
            gradient_checkpointing=False,
            save_strategy="no",
            report_to="none",
            logging_strategy="no",
            disable_tqdm=True,
        )
        trainer = GRPOTrainer(
            lm.model,
            reward,
            config,
            train_dataset=Dataset.from_list(
                [{"prompt": lm.template.prompt(example.prompt), "answer": example.answer} for example in examples]
            ),
            processing_class=lm.tokenizer,
            callbacks=[Stamp()],
        )
        own = trainer._generate_single_turn

        def timed(*given: object) -> object:
            start = time.perf_counter()
            found = own(*given)
            rollouts.append(time.perf_counter() - start)
            return found

        trainer._generate_single_turn = timed
        trainer.train()
        stamps.append(time.perf_counter())
    ends = itertools.pairwise(stamps)
    return [(rollout, after - before) for rollout, (before, after) in zip(rollouts, ends, strict=True)]


CONTENDERS: dict[str, Callable[[LM, int, int, int], Steps]] = {"caseharden": caseharden, "bare": bare, "trl": trl}


def measure(name: str, model: str, steps: int, new_tokens: int, samples: int, threads: int) -> dict[str, float]:
    """One repetition in this process: median seconds of rollout, update and step, and peak memory, MiB."""
    torch.set_num_threads(threads)
    lm = LM.load(resolve(model), device="cuda" if torch.cuda.is_available() else "cpu")
    loaded = peak_memory()
    seconds = CONTENDERS[name](lm, steps + WARMUP_STEPS, new_tokens, samples)[WARMUP_STEPS:]
    rollout, step = (statistics.median(column) for column in zip(*seconds, strict=True))
    update = statistics.median(whole - part for part, whole in seconds)
    return {"rollout": rollout, "update": update, "step": step, "memory": peak_memory() - loaded}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="almanac-victim")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--new-tokens", type=int, default=12)
    parser.add_argument("--samples", type=int, default=8, help="answers to each prompt")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--one", choices=CONTENDERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        given = (args.model, args.steps, args.new_tokens, args.samples, args.threads)
        print(json.dumps(measure(args.one, *given)))
        return
    found = take_turns(__file__, CONTENDERS, args.repeats)
    print(f"{args.model}, {P} × {args.samples} answers of up to {args.new_tokens} tokens, {args.threads} thread(s)")
    columns = ("rollout", "update", "step", "memory")
    for name, runs in found.items():
        rollout, update, step, memory = (statistics.median(run[key] for run in runs) for key in columns)
        print(f"{name:>11}: {rollout:.3f} + {update:.3f}, {step:.3f} s a step; {memory:.0f} MiB above the model")
    show(
        {
            name: values
            for other in ("bare", "trl")
            for name, values in ratios(found, "caseharden", other, *columns).items()
        }
    )


if __name__ == "__main__":
    main()
