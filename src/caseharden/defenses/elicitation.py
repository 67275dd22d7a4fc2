"""Elicitation: what a model says itself to prompts at large, told apart by its own refusals."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from caseharden.data.example import Example
from caseharden.data.pools import Pools, Role
from caseharden.engines.engine import Engine
from caseharden.errors import CasehardenError
from caseharden.judges.judge import Answer, Judge
from caseharden.lm.lm import LM
from caseharden.train.tuner import Run


@runtime_checkable
class AsksAtLarge(Protocol):
    """A domain that has prompts of all kinds for its defender, of which nobody says which are harmful."""

    def at_large(self, lm: LM, engine: Engine, seed: int) -> Sequence[Example]:
        """The prompts, without completions; `lm` may help to find them. None that the evaluator asks."""
        ...


@dataclass(frozen=True)
class Elicited:
    """The pools of `domain` and, for the defender, those that its model has `said` the completions of."""

    domain: Pools
    said: Mapping[str, Sequence[Example]]

    @property
    def name(self) -> str:
        return self.domain.name

    def pools(self, role: Role) -> Mapping[str, Sequence[Example]]:
        return {**self.domain.pools(role), **(self.said if role == "defender" else {})}


def elicited(run: Run, lm: LM, judge: Judge, max_new_tokens: int, wanted: Collection[str]) -> Run:
    """The run with two more pools, of what `lm` answers greedily: ``answered``, and ``declined`` as `judge` finds.

    Left out are answers that do not end within `max_new_tokens`, and questions that the model answers now in one
    way and now in another (self-consistency: Wang et al. 2022). Raises `CasehardenError` if the domain has no
    prompts at large, or if one of the two is `wanted` and empty.
    """
    if not isinstance(run.domain, AsksAtLarge):
        raise CasehardenError(
            f"domain {run.domain.name!r} has no prompts at large to ask the model. Take a domain that has them, or "
            "a defense that reads the domain's own pools."
        )
    asked = run.domain.at_large(lm, run.engine, run.seed_for("at large"))
    told = completed(asked, lm, run.engine, max_new_tokens)
    scores = judge.score([Answer(example.id, example.prompt, example.completion) for example in told])
    declined = {
        example.id for example, score in zip(told, scores, strict=True) if score > 0.5 and example.completion
    }
    said: dict[str, list[Example]] = {"answered": [], "declined": []}
    for question in consistent(told, declined):
        for example in question:
            said["declined" if example.id in declined else "answered"].append(example)
    if lacking := [name for name in wanted if name in said and not said[name]]:
        raise CasehardenError(
            f"nothing is {lacking[0]}: to {len(asked)} prompts at large {run.lm.name!r} gives "
            f"{len(said['answered'])} answers and {len(said['declined'])} refusals. The rest do not end within "
            f"{max_new_tokens} tokens, or differ from one time to the next. Raise the tokens, or take other pools."
        )
    found = copy.copy(run)
    found.domain = Elicited(run.domain, said)
    return found


def completed(asked: Sequence[Example], lm: LM, engine: Engine, max_new_tokens: int) -> list[Example]:
    """The examples with what `lm` answers as their completions; none where it does not come to an end."""
    if not asked:
        return []
    ends = set(lm.ends())
    written = engine.write(lm, lm.encode_prompts([e.prompt for e in asked]), 1, max_new_tokens, 0.0, 0).tokens
    return [
        replace(example, completion=answer.text.strip() if tokens and tokens[-1] in ends else "")
        for example, tokens, answer in zip(asked, written, lm.read(written), strict=True)
    ]


def consistent(told: Iterable[Example], declined: Collection[str]) -> Iterator[list[Example]]:
    """The examples of each question (`group`) that got the same answer each time it was asked.

    Every refusal is the same answer; none at all is not an answer.
    """
    questions: dict[str, list[Example]] = {}
    for example in told:
        questions.setdefault(example.group or example.id, []).append(example)
    for question in questions.values():
        answers = {None if example.id in declined else example.completion for example in question}
        if len(answers) == 1 and answers != {""}:
            yield question
