"""Direct preference optimization: as an attack, with the preferences of safety training swapped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from caseharden.attacks.sft import SFT
from caseharden.errors import CasehardenError
from caseharden.train.objectives import Objective, Prefer


@dataclass(frozen=True)
class DPO(SFT):
    """Prefers the completions of `data` to those of the same prompts in the pool `rejected` (DPO).

    Rafailov et al. 2023 (arXiv 2305.18290). Pairs are joined by example id; the reference is the model as it
    was when the attack began.
    """

    rejected: str = "refusal"
    beta: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.over != SFT.over:
            raise CasehardenError("dpo compares whole answers. Leave out `over`.")

    def objectives(self) -> Mapping[str, Objective]:
        pairs = (self.data, self.batch_size, self.max_length, self.n_examples, self.rejected)
        return {"loss": Prefer(*pairs, prefer="data", beta=self.beta)}
