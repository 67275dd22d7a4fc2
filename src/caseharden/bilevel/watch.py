"""Whether simulated attacks succeed, judged by what the attacked model says."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from caseharden.errors import CasehardenError
from caseharden.judges.judge import judged
from caseharden.measures.measure import Measure
from caseharden.measures.probe import Probe
from caseharden.train.tuner import Metrics, Run


@dataclass(frozen=True)
class Watch:
    """Measure what the model says at the end of every `every`-th simulated attack: logged, never trained on.

    A loss that fell is no proof that an attack works. The prompts are the defender's own (an evaluator's would
    leak), and the adversary may have trained on them: this says that it works, not how well it generalizes.
    """

    measure: Measure = field(default_factory=lambda: Probe(role="defender", n=48, max_new_tokens=12))
    every: int = 1

    def __post_init__(self) -> None:
        if self.every < 1 or self.measure.judge is None:
            raise CasehardenError("watch needs every >= 1 and a measure with a judge.")
        if getattr(self.measure, "role", "evaluator") != "defender":
            raise CasehardenError("watch would show the evaluator's prompts to a defense. Give it role: defender.")

    def observe(self, number: int, adversary_run: Run) -> Metrics:
        """``attack_success``, the mean score of answers after attack `number`, and how many were unscored."""
        if number % self.every:
            return {}
        judge = self.measure.judge
        assert judge is not None
        with adversary_run.evaluating() as lm:
            given = self.measure.answers(lm, adversary_run.domain, 0, adversary_run.engine)
            answers = lm.placement.once(lambda: judged(judge, given))
        scores = [answer.score for answer in answers if math.isfinite(answer.score)]
        found = {"attack_unscored": float(len(answers) - len(scores))}
        return found | ({"attack_success": sum(scores) / len(scores)} if scores else {})
