"""When an attack is measured, and when it may end: told by what a study wants and what is known so far."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from caseharden.records.results import Reading

Readings = Mapping[int, Mapping[str, Reading]]
"""By budget and measure."""


@dataclass(frozen=True)
class Wanted:
    """What a study wants of each attack: all `measures` at the `budgets` above 0.

    With a `limit`, only up to the first budget at which harm is above it.
    """

    budgets: Sequence[int]
    measures: Collection[str]
    limit: float | None = None

    def within(self, known: Readings) -> tuple[int, ...]:
        """The budgets to measure at, as far as what is known tells."""
        after = [budget for budget in self.budgets if budget > 0]
        last = next((budget for budget in after if self._broken(known.get(budget, {}))), self.budgets[-1])
        return tuple(budget for budget in after if budget <= last)

    def missing(self, known: Readings) -> tuple[int, ...]:
        """Those of them at which a measure is not known."""
        return tuple(b for b in self.within(known) if not {*self.measures} <= known.get(b, {}).keys())

    def _broken(self, readings: Mapping[str, Reading]) -> bool:
        return self.limit is not None and "harm" in readings and readings["harm"].value > self.limit
