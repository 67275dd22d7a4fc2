"""Every engine, by its name; vLLM's stand-in where it would be imported from."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

from caseharden.engines import TABLE
from caseharden.engines.engine import Engine
from caseharden.engines.server import Server
from engine_toys import SamplingParams, StandIn, serving
from factories import copy_of


@pytest.fixture
def vllm(monkeypatch) -> type[StandIn]:
    """Those that were made stand in `made`."""
    module, distributed = ModuleType("vllm"), ModuleType("vllm.distributed")
    module.LLM, module.SamplingParams, module.distributed = StandIn, SamplingParams, distributed
    distributed.cleanup_dist_env_and_memory = lambda: None
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setitem(sys.modules, "vllm.distributed", distributed)
    monkeypatch.setattr("caseharden.engines.vllm.metadata.version", lambda name: "0.33.0")
    monkeypatch.setattr("caseharden.engines.vllm._kept", {})
    monkeypatch.setattr(StandIn, "made", [])
    return StandIn


@pytest.fixture(params=TABLE)
def engine(request, tiny_lm, tmp_path) -> Iterator[Engine]:
    """One that can write for the tiny model: a server has it as it is now."""
    if request.param == "server":
        tiny_lm.name = str(tmp_path / "released")
        tiny_lm.save(tmp_path / "released")
        with serving(copy_of(tiny_lm)) as (url, _):
            yield Server("tiny", url)
    else:
        request.getfixturevalue("vllm")
        yield TABLE[request.param]()
