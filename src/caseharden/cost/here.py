"""This machine as a device: how fast it is on passes like those of a study, measured in a few seconds."""

from __future__ import annotations

import copy
import os
import resource
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy
import torch
from scipy.optimize import nnls
from transformers import AutoModelForCausalLM

from caseharden.cost.architecture import Architecture, Pass
from caseharden.cost.devices import Device
from caseharden.cost.ledger import Ledger, Work

PARAMETERS = 6e7
"""At most so many has the model that is measured, unless fewer layers cannot be had."""
REPEATS = 3
QUANTILES = (0.1, 0.5, 0.9)


def here(architecture: Architecture, passes: Iterable[Pass], base: float) -> Device:
    """This machine's CPU: seconds for an operation, a byte moved and a call, fitted to passes of these shapes.

    They go through a model of full width and few layers, whose weights are drawn. `base` are bytes that a process
    holds before it has a model. With one thread the processor's time counts, so that others may compute beside it.
    """
    model = _drawn(architecture)
    rows = [_measured(pass_) for pass_ in _ways(model, passes)]
    found, _ = nnls(
        numpy.array([[w.flops / s, w.traffic / s, w.calls / s] for w, s in rows]), numpy.ones(len(rows))
    )
    per_flop, per_byte, per_call = (float(x) for x in found)
    rate = 1 / max(per_flop, 1e-18)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Device(
        "here",
        dict.fromkeys(("float32", "bfloat16"), rate),
        1 / max(per_byte, 1e-18),
        float(memory),
        utilization=1.0,
        moved=1.0,
        call=per_call,
        base=base,
        serial=True,
        loads=1.4,
        load_speed=5e8,
        slack=1.5,  # the C library gives small blocks back to nobody
    )


def held_here() -> float:
    """The most bytes that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def _drawn(architecture: Architecture) -> Any:
    layers = architecture.layers
    while layers > architecture.period:
        numel = sum(p.numel() for p in architecture.without_data(architecture.with_layers(layers)).parameters())
        if numel <= PARAMETERS:
            break
        layers = max(architecture.period, layers // 2)
    with torch.random.fork_rng(devices=[]):
        return AutoModelForCausalLM.from_config(architecture.with_layers(layers), dtype=torch.float32)


def _ways(model: Any, passes: Iterable[Pass]) -> Iterable[Callable[[], Any]]:
    """What is timed: passes small, middling and large of each kind, and an optimizer's step."""
    kinds: dict[tuple[bool, bool], list[Pass]] = {}
    for one in passes:
        kinds.setdefault((one.variant.grad, one.variant.begun), []).append(one)
    for alike in kinds.values():
        alike.sort(key=lambda one: one.rows * one.width * 1_000_000 + one.past)
        for one in {alike[int(share * (len(alike) - 1))] for share in QUANTILES}:
            yield partial(_through, model, one)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-9)

    def step() -> Callable[[], Any]:
        for p in model.parameters():
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        return lambda: (torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0), optimizer.step())

    yield step


def _through(model: Any, one: Pass) -> Callable[[], Any]:
    """A pass, made ready."""
    B, T, S = one.rows, one.width, one.past
    ids, mask = torch.zeros(B, T, dtype=torch.long), torch.ones(B, S + T, dtype=torch.long)
    mask[0, 0] = 0
    position = torch.arange(S, S + T).expand(B, T)
    grad = one.variant.grad
    keep: dict[str, Any] = {"use_cache": one.variant.cache, "logits_to_keep": max(one.heads, 1)}
    cached: Any = None
    if S:
        before = torch.zeros(B, S, dtype=torch.long)
        with torch.no_grad():
            cached = model(input_ids=before, use_cache=True).past_key_values

    def run() -> None:
        with torch.set_grad_enabled(grad):
            own = (
                copy.deepcopy(cached) if grad else cached
            )  # of one that has gradients none is left for another time
            begun = {"past_key_values": own, "use_cache": True} if S else {}
            out = model(input_ids=ids, attention_mask=mask, position_ids=position, **{**keep, **begun})
            if grad:
                out[0].float().log_softmax(-1)[..., 0].sum().backward()
                for p in model.parameters():
                    p.grad = None
            elif S:
                cached.crop(-T)

    return run


def _measured(way: Callable[[], Callable[[], Any]]) -> tuple[Work, float]:
    """What it takes and how long, the shortest of some times."""
    run = way()
    with Ledger() as ledger:
        run()
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    best = float("inf")
    for _ in range(REPEATS):
        began = clock()
        run()
        best = min(best, clock() - began)
    return ledger.work, best
