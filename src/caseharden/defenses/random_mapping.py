"""Random Mapping: what is known of harmful things mapped to noise. TAR's first stage for knowledge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from caseharden.train.finetune import FineTune
from caseharden.train.objectives import Imitate, MapToRandom, Objective


@dataclass(frozen=True)
class RandomMapping(FineTune):
    """Maps hidden states of harmful text to noise (`forget`), beside `retain`: the weakest defense that forgets.

    Tamirisa et al. 2024 (arXiv 2408.00761), stage 1. Chain it before TAR, or take it alone.
    """

    forget: Objective = field(default_factory=MapToRandom)
    retain: Objective = field(default_factory=lambda: Imitate({"benign": 2.0, "contrast": 1.0}))
    max_steps: int = 1000
    lr: float = 1e-5

    def objectives(self) -> Mapping[str, Objective]:
        return {"retained": self.retain, "mapped": self.forget}
