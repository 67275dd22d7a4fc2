"""What the bilevel core costs: a TAR outer step against its parts run bare, Patcher's two forms against each other.

    python benchmarks/bilevel_step.py [--model almanac-victim] [--repeats 5] [--loops 12]

Contenders take turns in a process of their own each. TAR's floor is the same adversary's steps, the
same forward-backwards and optimizer step in bare PyTorch loops, encoding included. For Patcher the ideal
is (2·k2 + k1) / max(2·k2, k1), with attacker and defender on one thread each; start-up is not counted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from caseharden.attacks import SFT
from caseharden.bilevel.asynchronous import Asynchronous
from caseharden.data.example import Example
from caseharden.defenses import TAR, Patcher
from caseharden.domains.almanac import Almanac
from caseharden.lm.lm import LM
from caseharden.lm.sources import resolve
from caseharden.train.losses import cross_entropy
from caseharden.train.objectives import Imitate
from caseharden.train.tuner import Run
from contenders import peak_memory, ratios, show, take_turns

BATCH = 8
REFUSE, KEEP = Imitate({"refusal": 1.0}, BATCH), Imitate({"benign": 1.0}, BATCH)
METHOD = TAR((SFT(lr=1e-5, batch_size=BATCH),), REFUSE, KEEP, inner_steps=16, checkpoint_every=4, lr=1e-5)
WARMUP = 3


def tar(lm: LM, steps: int) -> float:
    """Seconds per outer step, through Run.drive."""
    stamps = [time.perf_counter() for _ in _run(lm).drive(replace(METHOD, max_steps=steps + WARMUP))]
    return (stamps[-1] - stamps[WARMUP - 1]) / steps


def bare(lm: LM, steps: int) -> float:
    """Seconds for an outer step's forward-backwards and optimizer steps, and nothing else."""
    run = _run(lm)
    harmful, refusal, benign = (run.stream({p: 1.0}, BATCH) for p in ("harmful", "refusal", "benign"))
    parameters = run.trainable()
    outer = torch.optim.AdamW(parameters, lr=1e-5, weight_decay=0.0)
    draws = METHOD.inner_steps // METHOD.checkpoint_every

    def forward_backward(examples: list[Example]) -> None:
        cross_entropy(*lm.response_logits(lm.encode(examples))).backward()

    def step(number: int) -> None:
        inner = torch.optim.AdamW(parameters, lr=1e-5, weight_decay=0.0)
        for k in range(METHOD.inner_steps):
            forward_backward(harmful[number * METHOD.inner_steps + k])
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            inner.step()
            inner.zero_grad()
        for _ in range(draws):
            forward_backward(refusal[number])
        forward_backward(benign[number])
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        outer.step()
        outer.zero_grad()

    for number in range(WARMUP):
        step(number)
    start = time.perf_counter()
    for number in range(steps):
        step(WARMUP + number)
    return (time.perf_counter() - start) / steps


def patcher(lm: LM, loops: int, k1: int, k2: int, asynchronous: bool) -> dict[str, float]:
    """Seconds for each loop of k2 defense steps, and attacks that came in for each."""
    method = Patcher(
        (SFT(lr=1e-5, batch_size=BATCH),), REFUSE, None, loops=10**6, attack_steps=k1, defense_steps=k2, lr=1e-5
    )
    if asynchronous:
        method = replace(method, attacker=Asynchronous(max_rounds=None))
    launched: list[float] = []
    begun, steps, stamp = 0.0, 0, 0.0
    for step, metrics in enumerate(_run(lm).drive(method)):
        stamp = time.perf_counter()
        if "staleness" not in metrics:
            continue  # the first loop, and the other process's start
        if not launched or step - metrics["staleness"] != launched[-1]:
            launched.append(step - metrics["staleness"])
            if len(launched) == 2:
                begun, steps = stamp, 0  # from the second attack on, both are under way
        steps += 1
        if len(launched) >= 2 and steps > loops * k2:
            break
    return {"seconds": (stamp - begun) / loops, "attacks": (len(launched) - 2) / loops}


def _run(lm: LM) -> Run:
    return Run(lm, Almanac(), "defender", seed=0)


def measure(name: str, model: str, steps: int) -> dict[str, float]:
    torch.set_num_threads(1)
    lm = LM.load(resolve(model), device="cuda" if torch.cuda.is_available() else "cpu")
    before = peak_memory()
    found = CONTENDERS[name](lm, steps)
    return (found if isinstance(found, dict) else {"seconds": found}) | {
        "memory": peak_memory() - before,
        "parameters": sum(p.numel() * p.element_size() for p in lm.model.parameters()) / 2**20,
    }


PAIRS = {"k1 = k2": (30, 30), "k1 = 2 k2": (60, 30)}
CONTENDERS: dict[str, Callable[[LM, int], float | dict[str, float]]] = {
    "tar": tar,
    "bare": bare,
    **{
        f"{way}, {pair}": lambda lm, loops, ks=ks, way=way: patcher(lm, loops, *ks, way == "asynchronous")
        for pair, ks in PAIRS.items()
        for way in ("sequential", "asynchronous")
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="almanac-victim")
    parser.add_argument("--loops", type=int, default=12, help="outer steps of TAR, loops of Patcher")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--one", choices=CONTENDERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, args.model, args.loops)))
        return
    found = take_turns(__file__, CONTENDERS, args.repeats)

    print(f"{args.model}, batch {BATCH}, one thread a process, {args.repeats} repetitions in turn")
    figures = ratios(found, "tar", "bare", "seconds")
    figures["copies of the parameters, tar"] = [run["memory"] / run["parameters"] for run in found["tar"]]
    for pair, (k1, k2) in PAIRS.items():
        ideal = (2 * k2 + k1) / max(2 * k2, k1)
        attacks = statistics.median(run["attacks"] for run in found[f"asynchronous, {pair}"])
        print(f"Patcher, {pair}: at best {ideal:.2f} times as fast; {attacks:.2f} attacks a loop")
        figures |= ratios(found, f"sequential, {pair}", f"asynchronous, {pair}", "seconds")
    show(figures)


if __name__ == "__main__":
    main()
