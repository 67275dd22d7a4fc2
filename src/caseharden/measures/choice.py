"""Multiple choice: which of the options does the model find likeliest?"""

from __future__ import annotations

from dataclasses import dataclass, replace

from caseharden.data.pools import Pools
from caseharden.errors import CasehardenError
from caseharden.judges.exact import Exact
from caseharden.judges.judge import Answer, Judge
from caseharden.lm.lm import LM
from caseharden.measures.likelihood import mean_logps
from caseharden.measures.measure import chosen


@dataclass(frozen=True)
class MultipleChoice:
    """The option with the highest mean log-probability per token as the assistant's answer to the question.

    The options are not shown to the model. The mean over tokens keeps a long option from losing for its
    length. `batch_size` is in questions.
    """

    pool: str = "utility"
    n: int | None = None
    max_length: int = 512
    batch_size: int = 16

    @property
    def judge(self) -> Judge:
        return Exact()

    def answers(self, lm: LM, domain: Pools, seed: int) -> list[Answer]:
        questions = chosen(domain, self.pool, self.n)
        for question in questions:
            if question.answer not in question.choices:
                raise CasehardenError(
                    f"example {question.id!r} of pool {self.pool!r} has the choices {question.choices} and the "
                    f"answer {question.answer!r}. Multiple choice needs choices, the answer being one of them."
                )
        options = [replace(q, completion=choice) for q in questions for choice in q.choices]
        likelihood = iter(mean_logps(lm, options, max_length=self.max_length, batch_size=self.batch_size))
        return [
            Answer(q.id, q.prompt, max(q.choices, key=lambda _: next(likelihood)), q.answer, q.topic)
            for q in questions
        ]
