"""Scopes: which parameters are trained, where not all are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from torch import nn

from caseharden.errors import CasehardenError
from caseharden.lm import structure

Scope = Literal["last_layers", "first_layers", "embeddings", "norms", "mlps", "attention"]
SHARE = 4
"""One layer in so many counts as the first, or the last, ones."""


def scoped(model: nn.Module, scope: Scope) -> list[nn.Parameter]:
    """The parameters of `model` that are in `scope`, each once.

    Raises `CasehardenError` if there are none.
    """
    found = {id(p): p for module in MODULES[scope](model) for p in module.parameters()}
    if not found:
        raise CasehardenError(f"the scope {scope!r} has no parameter in {type(model).__name__}. Take another.")
    return list(found.values())


def _some(model: nn.Module) -> int:
    return max(1, len(structure.layers(model)) // SHARE)


MODULES: Mapping[Scope, Callable[[nn.Module], Iterable[nn.Module]]] = {
    "last_layers": lambda model: structure.layers(model)[-_some(model) :],
    "first_layers": lambda model: structure.layers(model)[: _some(model)],
    "embeddings": structure.embeddings,
    "norms": structure.norms,
    "mlps": lambda model: (part for layer in structure.layers(model) for part in structure.mlps(layer)),
    "attention": lambda model: (part for layer in structure.layers(model) for part in structure.attention(layer)),
}
"""The modules whose parameters are in a scope."""
