"""Engines, by the name that a spec file gives them."""

from caseharden.engines.native import Native
from caseharden.engines.transformers import Transformers

TABLE: dict[str, type] = {"native": Native, "transformers": Transformers}
