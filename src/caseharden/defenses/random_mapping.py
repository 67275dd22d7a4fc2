"""Random Mapping: what is known of harmful things mapped to noise. TAR's first stage for knowledge."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from caseharden.train.objectives import Aim, Imitate, MapToRandom
from caseharden.train.optim import Descends, Descent, check_descent
from caseharden.train.tuner import Metrics, Run


@dataclass(frozen=True)
class RandomMapping(Descends):
    """Tamirisa et al. 2024 (arXiv 2408.00761), stage 1: `forget`, hidden states mapped to noise, beside `retain`.

    Chain it before TAR, or take it as a defense of its own: the weakest of those that forget. Departs from
    the paper in its data (pools of questions with answers, not running text); padding does not count.
    """

    forget: Aim = field(default_factory=MapToRandom)
    retain: Aim = field(default_factory=lambda: Imitate({"benign": 2.0, "contrast": 1.0}))
    max_steps: int = 1000
    lr: float = 1e-5

    def __post_init__(self) -> None:
        check_descent(self)

    def steps(self, run: Run) -> Iterator[Metrics]:
        forget, retain = self.forget.asked(run), self.retain.asked(run)
        descent = run.track("descent", Descent(self, run.trainable()))
        for step in run.range(self.max_steps):
            with run.lm.training():
                retained = retain(step)
                mapped = forget(step)
                (retained + mapped).backward()  # type: ignore[no-untyped-call]
            loss = float((retained + mapped).detach())
            yield {"loss": loss, "mapped": float(mapped.detach()), **descent.step()}
