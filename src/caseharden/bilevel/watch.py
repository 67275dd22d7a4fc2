"""Watching simulated attacks: do they succeed in what the attacked model says?"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from caseharden.errors import CasehardenError
from caseharden.judges.judge import judged
from caseharden.measures.measure import Measure
from caseharden.measures.probe import Probe
from caseharden.train.tuner import Metrics, Run


@dataclass(frozen=True)
class Watch:
    """Whether simulated attacks succeed where it counts, in what the attacked model says: logged, never trained on.

    Asks `measure` at the end of every `every`-th attack: a loss that fell is no proof that an attack works.
    The prompts are the defender's own (an evaluator's would leak), and the adversary may have trained on
    them: this says that it works, and not how well what it learned carries over.
    """

    measure: Measure = field(default_factory=lambda: Probe(role="defender", n=48, max_new_tokens=12))
    every: int = 1

    def __post_init__(self) -> None:
        if self.every < 1 or self.measure.judge is None:
            raise CasehardenError("watch needs every >= 1 and a measure with a judge.")
        if getattr(self.measure, "role", "evaluator") != "defender":
            raise CasehardenError("watch would show the evaluator's prompts to a defense. Give it role: defender.")

    def at(self, number: int) -> Callable[[Run], Metrics] | None:
        """What to do at the end of attack `number`."""
        return self.look if number % self.every == 0 else None

    def look(self, there: Run) -> Metrics:
        """``attack_success``, the mean score of the attacked model's answers, and how many got none."""
        judge = self.measure.judge
        assert judge is not None
        with there.evaluating() as lm:
            answers = judged(judge, self.measure.answers(lm, there.domain, 0))
        scores = [answer.score for answer in answers if math.isfinite(answer.score)]
        found = {"attack_unscored": float(len(answers) - len(scores))}
        return found | ({"attack_success": sum(scores) / len(scores)} if scores else {})
