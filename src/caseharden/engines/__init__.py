"""Engines, by the name that a spec file gives them."""

from caseharden.engines.native import Native
from caseharden.engines.server import Server
from caseharden.engines.transformers import Transformers
from caseharden.engines.vllm import VLLM

TABLE: dict[str, type] = {"native": Native, "server": Server, "transformers": Transformers, "vllm": VLLM}
