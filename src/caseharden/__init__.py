"""Caseharden hardens open-weight language models against malicious fine-tuning, and measures how long it lasts."""

import caseharden.audit  # noqa: F401 - before the function of that name, which takes its place as an attribute for good
from caseharden.api import attack, audit, find_attack, harden, load

__all__ = ["attack", "audit", "find_attack", "harden", "load"]
__version__ = "0.1.0"
