"""Twins of small models, for the tests of what studies cost."""

from __future__ import annotations

from pathlib import Path

from caseharden.cost.architecture import Architecture
from caseharden.cost.standin import StandIn, TwinRun, twin
from caseharden.cost.trace import Recorder
from caseharden.data.pools import Pools, Role
from caseharden.engines.native import Native
from caseharden.lm.lm import AUTOMATIC, LM
from caseharden.lm.memory import PLENTY, Memory


def model_in(folder: Path, lm: LM) -> Path:
    """A folder with the configuration and the tokenizer of a model, and its weights."""
    lm.save(folder)
    return folder


def on_twin(
    folder: Path, domain: Pools, role: Role = "attacker", memory: Memory = PLENTY
) -> tuple[TwinRun, Recorder]:
    """A run on a twin, and what is written down of it."""
    recorder = Recorder(Architecture(folder, depth=4))
    lm = twin(recorder.subject, AUTOMATIC, recorder, memory)
    return TwinRun(lm, domain, role, 0, engine=StandIn(lm, domain, Native())), recorder
