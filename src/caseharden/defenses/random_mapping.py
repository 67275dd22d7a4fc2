"""Random Mapping: what is known of harmful things mapped to noise. TAR's first stage for knowledge."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from caseharden.train.objectives import Aim, Imitate, MapToRandom
from caseharden.train.optim import check_optimizer, make_optimizer, update
from caseharden.train.tuner import Metrics, Run


@dataclass(frozen=True)
class RandomMapping:
    """Tamirisa et al. 2024 (arXiv 2408.00761), stage 1: `forget`, hidden states mapped to noise, beside `retain`.

    Chain it before TAR, or take it as a defense of its own: the weakest of those that forget. Departs from
    the paper in its data (pools of questions with answers, not running text); padding does not count.
    """

    forget: Aim = field(default_factory=MapToRandom)
    retain: Aim = field(default_factory=lambda: Imitate({"benign": 2.0, "contrast": 1.0}))
    max_steps: int = 1000
    lr: float = 1e-5
    optimizer: str = "adamw"
    clip: float | None = 1.0

    def __post_init__(self) -> None:
        check_optimizer(self.optimizer)

    def steps(self, run: Run) -> Iterator[Metrics]:
        forget, retain = self.forget.asked(run), self.retain.asked(run)
        optimizer = run.track("optimizer", make_optimizer(self.optimizer, run.trainable(), self.lr))
        for step in run.range(self.max_steps):
            with run.lm.training():
                retained = retain(step)
                mapped = forget(step)
                (retained + mapped).backward()  # type: ignore[no-untyped-call]
            norm = update(optimizer, self.clip)
            yield {"loss": float((retained + mapped).detach()), "mapped": float(mapped.detach()), "grad_norm": norm}
