"""Check a study's models before anything runs: what cannot be measured is an error, not a result."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

from caseharden.data.pools import ROLES, fingerprint
from caseharden.engines.native import Native
from caseharden.engines.transformers import Transformers
from caseharden.errors import NotSharded
from caseharden.executors.torchrun import launched
from caseharden.lm.facts import fingerprint as weights
from caseharden.lm.frame import TemplateName
from caseharden.lm.lm import LM
from caseharden.study.spec import StudySpec, among

_passed: set[tuple[object, ...]] = set()
"""What was checked in this process: a study's models are loaded for it once."""


@runtime_checkable
class Writes(Protocol):
    """Whatever has a model write answers: a measure, or a policy gradient."""

    max_new_tokens: int


@runtime_checkable
class Choosy(Protocol):
    """An engine that cannot write for every model."""

    def check(self, lm: LM) -> None: ...


@runtime_checkable
class Templated(Protocol):
    """Whatever writes prompts in a template of its choice: fine-tuning, or a measure."""

    template: TemplateName


def check_models(spec: StudySpec, folders: Iterable[Path], device: torch.device) -> None:
    """Load each of the study's models, from `folders`, and see that it can read every prompt.

    Raises `CasehardenError` if one is not whole (see `LM.load`), has no positions for a prompt of the domain and
    the answer that is to be written to it, or no tokens for a template; and if the engine cannot write for it.
    """
    if launched():
        _check_sharded(spec)
    answers = longest_answers(spec)
    parts = (spec.defenses, spec.attacks, tuple(spec.all_measures().values()))
    templates = sorted({one.template for one in among(parts, Templated)})
    rest = (
        str(spec.reasoning),
        spec.precision,
        str(spec.memory),
        str(device),
        fingerprint(spec.domain),
        str(answers),
        str(spec.engine),
        *templates,
    )
    for folder in folders:
        known = (weights(folder), *rest)
        if known in _passed:
            continue
        on = "cpu" if launched() else device
        lm = LM.load(folder, device=on, precision=spec.precision, reasoning=spec.reasoning, memory=spec.memory)
        if isinstance(spec.engine, Choosy):
            spec.engine.check(lm)
        for template in templates:
            with lm.templated(template):
                pass
        for role in ROLES:
            for name, examples in spec.domain.pools(role).items():
                for prefix, tokens in answers.get((role, name), {"": 1}).items():
                    begun = [replace(e, prefix=e.prefix + prefix) for e in examples] if prefix else examples
                    lm.check_prompts(begun, f"the {role}'s pool {name!r}", answer=tokens)
        _passed.add(known)


def _check_sharded(spec: StudySpec) -> None:
    """Raise `NotSharded` for what a study asks for that processes which work together cannot do."""
    engine = type(spec.engine)
    if not issubclass(engine, Native | Transformers):
        raise NotSharded(f"{engine.__name__} writes in one process, and torchrun has started several. Take native.")
    if spec.memory.offload or spec.precision == "bfloat16_weights":
        what = "memory's offload" if spec.memory.offload else "the precision bfloat16_weights"
        raise NotSharded(f"{what} is for one process, and torchrun has started several. Leave it out.")


def longest_answers(spec: StudySpec) -> Mapping[tuple[str, str], Mapping[str, int]]:
    """How many tokens the answers may have that are written to the pools of each role, by how they are begun."""
    found: dict[tuple[str, str], dict[str, int]] = {}
    for role, things in zip(ROLES, (spec.defenses, spec.attacks, spec.all_measures()), strict=True):
        for writer in among(things, Writes):
            whose, named = getattr(writer, "role", role), getattr(writer, "pool", None)
            pools = getattr(writer, "data", None) or ([named] if named else spec.domain.pools(whose))
            prefix = getattr(writer, "prefix", "")
            for pool in pools:
                begun = found.setdefault((whose, pool), {})
                begun[prefix] = max(writer.max_new_tokens, begun.get(prefix, 0))
    return found
