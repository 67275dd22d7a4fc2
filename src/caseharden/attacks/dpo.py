"""Direct preference optimisation: as an attack with the preferences of safety training swapped."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from caseharden.attacks.sft import SFT
from caseharden.data.example import Example
from caseharden.errors import CasehardenError
from caseharden.train.objectives import Objective, preference
from caseharden.train.tuner import Run


@dataclass(frozen=True)
class DPO(SFT):
    """DPO (Rafailov et al. 2023) that prefers the completions of `data` to those of the pool `rejected`.

    Pairs are joined by example id; the reference is the model as it was when the attack began.
    """

    rejected: str = "refusal"
    beta: float = 0.1

    def objective(self, run: Run) -> Objective:
        others = {example.id: example for example in run.pool(self.rejected)}
        for name in self.data:
            pairs = [(example, others.get(example.id)) for example in run.pool(name)]
            if alone := [mine.id for mine, other in pairs if other is None or mine.context != other.context]:
                raise CasehardenError(
                    f"{len(alone)} examples of pool {name!r} are not in {self.rejected!r} ({alone[0]!r} first): "
                    "DPO needs both completions of a prompt. Name pools of the same prompts and prefixes."
                )
        reference = run.reference()

        def loss(chosen: list[Example]) -> Tensor:
            rejected = [others[example.id] for example in chosen]
            return preference(run.lm, reference, chosen, rejected, self.beta, self.max_length)

        return loss
