"""Domain: a threat, with everything that it takes to attack and to measure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from caseharden.data.pools import Pools
from caseharden.measures.measure import Measure


class Domain(Pools, Protocol):
    """Who may read which examples (`Pools`), and how harm and utility are measured on the evaluator's."""

    def measures(self) -> Mapping[str, Measure]:
        """The measures taken at each budget when a study names none: at least ``harm`` and ``utility``.

        ``harm:NAME`` are further ways of asking for harm (see `records.asking`).
        ``utility`` is of what the defender may rehearse. ``bystander``, or several named ``bystander:NAME``,
        are of harmless knowledge that no role trains on; of several the worst counts.
        """
        ...
