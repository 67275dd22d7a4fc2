"""Direct preference optimisation: as an attack with the preferences of safety training swapped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from caseharden.attacks.sft import SFT, Objective
from caseharden.data import Example
from caseharden.errors import CasehardenError
from caseharden.lm import LM
from caseharden.losses import dpo, token_logps
from caseharden.tuner import Run


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


def preference(
    lm: LM, reference: LM, chosen: Sequence[Example], rejected: Sequence[Example], beta: float, max_length: int
) -> Tensor:
    """Mean DPO loss of the pairs (chosen, rejected), scalar."""
    both = [*chosen, *rejected]
    logps_B = _sequence_logps(lm, both, max_length)
    with torch.no_grad():
        reference_B = _sequence_logps(reference, both, max_length)
    n = len(chosen)
    return dpo(logps_B[:n], logps_B[n:], reference_B[:n], reference_B[n:], beta).mean()


def _sequence_logps(lm: LM, examples: Sequence[Example], max_length: int) -> Tensor:
    logits_BRV, targets_BR, mask_BR = lm.response_logits(lm.encode(examples, max_length=max_length))
    return token_logps(logits_BRV, targets_BR).masked_fill(~mask_BR, 0.0).sum(-1)
