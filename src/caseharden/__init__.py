"""Caseharden hardens open-weight language models against malicious fine-tuning, and measures how long it lasts."""

import caseharden.audit  # before the functions of these names, which take their places as attributes for good
import caseharden.cost  # noqa: F401
from caseharden.api import attack, audit, cost, find_attack, harden, load

__all__ = ["attack", "audit", "cost", "find_attack", "harden", "load"]
__version__ = "0.1.0"
