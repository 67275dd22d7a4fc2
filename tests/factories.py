"""What tests make again and again out of a model: copies of it, runs on it, its weights after a tuner."""

from __future__ import annotations

import copy

from caseharden.lm.lm import LM
from caseharden.rl.loop import Buffer
from caseharden.train.tuner import Run, Tuner


def copy_of(lm: LM, name: str | None = None) -> LM:
    """The same weights in a model of their own."""
    return LM(copy.deepcopy(lm.model), lm.tokenizer, name or lm.name)


def weights_after(run: Run, tuner: Tuner) -> str:
    """Hash of the weights that `tuner` comes to if nobody stops it."""
    for _ in run.drive(tuner):
        pass
    return run.finish().weights_hash()


def buffer_of(run: Run) -> Buffer:
    """What an RL method on `run` learns from."""
    buffer = Buffer(run.lm.device)
    buffer.load_state_dict(run.state_dict()["tracked"]["buffer"])
    return buffer
