"""Adapters: what is trained where not all parameters are."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LoRA:
    """Low-rank adapters on all linear layers (Hu et al. 2021), through PEFT."""

    r: int = 16
    alpha: int = 32
    dropout: float = 0.0
