"""Check a study's models before anything runs: what cannot be measured is an error, not a result."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from caseharden.data.pools import ROLES, fingerprint
from caseharden.lm.facts import fingerprint as weights
from caseharden.lm.lm import LM
from caseharden.study.spec import StudySpec

_passed: set[tuple[object, ...]] = set()
"""What was checked in this process: a study's models are loaded for it once."""


def check_models(spec: StudySpec, folders: Iterable[Path], device: torch.device) -> None:
    """Load each of the study's models, from `folders`, and see that it can read every prompt.

    Raises `CasehardenError` if one is not whole (see `LM.load`), or has no positions for a prompt of the domain, or
    for an answer to one of the evaluator's.
    """
    limit = max((getattr(measure, "max_new_tokens", 0) for measure in spec.all_measures().values()), default=0)
    rest = (str(spec.reasoning), spec.precision, str(device), fingerprint(spec.domain), limit)
    for folder in folders:
        known = (weights(folder), *rest)
        if known in _passed:
            continue
        lm = LM.load(folder, device=device, precision=spec.precision, reasoning=spec.reasoning)
        for role in ROLES:
            for name, examples in spec.domain.pools(role).items():
                answer = max(limit, 1) if role == "evaluator" else 1
                lm.check_room(examples, f"the {role}'s pool {name!r}", answer=answer)
        _passed.add(known)
