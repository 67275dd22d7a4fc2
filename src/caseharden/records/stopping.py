"""When an attack is measured, and when it may end: told by what a study wants and what is known so far."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from caseharden.records.results import Point
from caseharden.records.statistics import exceeds

Known = Mapping[int, Point]
"""What is known of an attack, by budget."""


@dataclass(frozen=True)
class Wanted:
    """What a study wants of each attack: all `measures` at the `budgets` above 0.

    Of an attack that `ends`, none after that. With a `limit`, only up to the first budget at which the measure
    `watched` is above it with this (one-sided) `confidence`.
    """

    budgets: Sequence[int]
    measures: Collection[str]
    watched: str = "harm"
    limit: float | None = None
    confidence: float = 0.95
    ends: int | None = None

    def within(self, known: Known) -> tuple[int, ...]:
        """The budgets to measure at, as far as what is known tells."""
        after = [budget for budget in self.budgets if 0 < budget <= (self.ends or self.budgets[-1])]
        last = next((b for b in after if b in known and self._is_over(known[b])), max(after, default=0))
        return tuple(budget for budget in after if budget <= last)

    def missing(self, known: Known) -> tuple[int, ...]:
        """Those of them at which a measure is not known."""
        return tuple(
            budget
            for budget in self.within(known)
            if budget not in known or not {*self.measures} <= known[budget].readings.keys()
        )

    def _is_over(self, point: Point) -> bool:
        """Whether an attack may end here."""
        found = point.readings.get(self.watched)
        return self.limit is not None and found is not None and exceeds(found, self.limit, self.confidence)
