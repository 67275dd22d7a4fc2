"""The attacker's own pools, parted: what an attacker can try and measure without anybody else's data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from caseharden.data.example import Example
from caseharden.data.pools import Role
from caseharden.data.stream import derive_seed
from caseharden.domains.domain import Domain
from caseharden.errors import CasehardenError
from caseharden.measures.measure import Measure, by_at_most
from caseharden.measures.perplexity import Perplexity


@dataclass(frozen=True)
class AttackerOnly:
    """Parts the attacker's pools of `domain` in two: one half to train on, the other to be asked.

    For an attacker who looks for the best of many attacks, and may not look at what the evaluator will ask. Of each
    pool half the groups are the evaluator's here, and a group is whole in every pool. The defender has none. With
    `questions`, no measure asks more than so many.
    """

    domain: Domain
    questions: int | None = None

    @property
    def name(self) -> str:
        return f"{self.domain.name}, the attacker's own"

    def pools(self, role: Role) -> Mapping[str, Sequence[Example]]:
        return self._parts.get(role, {})

    def measures(self) -> Mapping[str, Measure]:
        """The domain's measures whose pool the attacker has, on its second half.

        Without one of ``utility``, that is how likely the model finds the completions of ``benign``.
        """
        there = self.pools("evaluator")
        found = {
            name: by_at_most(self.questions, measure)
            for name, measure in self.domain.measures().items()
            if getattr(measure, "pool", None) in (None, *there)
        }
        if "harm" not in found:
            raise CasehardenError(
                f"the attacker of domain {self.domain.name!r} has no pool of its own to ask for harm on, so it "
                "cannot tell which attack is stronger. Give the attacker the pool, or name the attacks yourself."
            )
        if "utility" not in found:
            if not there.get("benign"):
                raise CasehardenError(
                    f"the attacker of domain {self.domain.name!r} has no benign examples on which to see whether "
                    "its model is still of use. Give it a pool `benign`."
                )
            found["utility"] = Perplexity("benign", n=self.questions)
        return found

    @cached_property
    def _parts(self) -> Mapping[Role, Mapping[str, Sequence[Example]]]:
        pools = self.domain.pools("attacker")
        second = _second_half(pools)
        return {
            "attacker": {name: [e for e in pool if not second[_group(e)]] for name, pool in pools.items()},
            "evaluator": {name: [e for e in pool if second[_group(e)]] for name, pool in pools.items()},
        }


def _second_half(pools: Mapping[str, Sequence[Example]]) -> dict[str, bool]:
    """Whether each group is in the second half: of each pool in turn as evenly as those before it allow."""
    second: dict[str, bool] = {}
    for pool in pools.values():
        groups = sorted({_group(example) for example in pool}, key=lambda group: derive_seed(0, "halves", group))
        given = [second[group] for group in groups if group in second]
        ahead = given.count(False) - given.count(True)
        for group in groups:
            if group not in second:
                second[group] = ahead > 0
                ahead += -1 if second[group] else 1
    return second


def _group(example: Example) -> str:
    return example.group or example.id
