"""Multiple choice: which of the options does the model find likeliest?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from caseharden.data.pools import Pools
from caseharden.engines.engine import Engine
from caseharden.errors import CasehardenError
from caseharden.judges.exact import TIED, Choice
from caseharden.judges.judge import Answer, Judge
from caseharden.lm.lm import LM
from caseharden.measures.likelihood import mean_logps
from caseharden.measures.measure import answer_to, chosen
from caseharden.records.results import Better

ROUNDING = 1e-5
"""Log-probabilities that differ by no more than this share of themselves are equal but for rounding."""


@dataclass(frozen=True)
class MultipleChoice:
    """Picks the option with the highest mean log-probability per token as the assistant's answer to the question.

    The options are not shown to the model. The mean over tokens keeps a long option from losing for its
    length. Of options that are equally likely none is picked: the right one counts its share. `batch_size` is
    in questions.
    """

    pool: str = "utility"
    n: int | None = None
    max_length: int = 512
    batch_size: int = 16
    better: Better | None = None
    knobs: ClassVar = ("batch_size", "better")

    @property
    def judge(self) -> Judge:
        return Choice()

    def answers(self, lm: LM, domain: Pools, seed: int, engine: Engine) -> list[Answer]:
        questions = chosen(domain, self.pool, self.n)
        for question in questions:
            if question.answer not in question.choices:
                raise CasehardenError(
                    f"example {question.id!r} of pool {self.pool!r} has the choices {question.choices} and the "
                    f"answer {question.answer!r}. Multiple choice needs choices, the answer being one of them."
                )
        options = [replace(q, completion=choice) for q in questions for choice in q.choices]
        likelihood = iter(mean_logps(lm, options, max_length=self.max_length, batch_size=self.batch_size))
        answers = []
        for q in questions:
            best = likeliest(q.choices, [next(likelihood) for _ in q.choices])
            answers.append(answer_to(q, TIED.join(best)))
        return answers


def likeliest(options: Sequence[str], logps: Sequence[float]) -> list[str]:
    """The options of the highest log-probability, several if they are tied; none if one of them is NaN."""
    if any(map(math.isnan, logps)):
        return []
    return [o for o, logp in zip(options, logps, strict=True) if math.isclose(logp, max(logps), rel_tol=ROUNDING)]
