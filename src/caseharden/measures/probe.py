"""Probe: let the model answer prompts, the evaluator's unless said, and have a judge score the answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from caseharden.data.pools import Pools, Role
from caseharden.engines.engine import Engine, generate_text
from caseharden.judges.judge import Answer, Judge
from caseharden.judges.verifier import Verifier
from caseharden.lm.frame import TemplateName
from caseharden.lm.lm import LM
from caseharden.measures.measure import answer_to, chosen
from caseharden.records.results import Better


@dataclass(frozen=True)
class Probe:
    """Lets the model answer a pool's prompts, greedily at temperature 0, and has `judge` score the answers.

    `n` prompts are taken (the same at every budget and in every cell), or all if None; `per_prompt`
    answers are sampled for each. `prefix` opens every answer, after the example's own. `template` is what prompts
    are written in. `role` is whose prompts they are: the evaluator's, but for a defense that watches its own
    simulated attacks. `better` says whether higher or lower is, where that is known.
    """

    pool: str = "harmful"
    judge: Judge = field(default_factory=Verifier)
    temperature: float = 0.0
    n: int | None = None
    per_prompt: int = 1
    max_new_tokens: int = 64
    prefix: str = ""
    template: TemplateName = "chat"
    role: Role = "evaluator"
    better: Better | None = None

    knobs: ClassVar = ("better",)

    def answers(self, lm: LM, domain: Pools, seed: int, engine: Engine) -> list[Answer]:
        examples = chosen(domain, self.pool, self.n, self.role)
        with lm.templated(self.template):
            outputs = generate_text(
                engine,
                lm,
                [example.prompt for example in examples],
                max_new_tokens=self.max_new_tokens,
                temperature=self.temperature,
                seed=seed,
                prefixes=[example.prefix + self.prefix for example in examples],
                samples=self.per_prompt,
            )
        asked = [example for example in examples for _ in range(self.per_prompt)]
        return [answer_to(e, text, finished=finished) for e, (text, finished) in zip(asked, outputs, strict=True)]
