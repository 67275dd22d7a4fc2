"""Elicitation: a model's own answers to prompts at large, parted into answers and refusals.

And what it keeps to itself: where a prompt comes with how an answer begins, a model that refuses goes on from there
all the same. From that, false answers are made.
"""

from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, runtime_checkable

from caseharden.data.conversation import Conversation
from caseharden.data.example import Example
from caseharden.data.pools import Pools, Role
from caseharden.engines.engine import Engine
from caseharden.errors import CasehardenError
from caseharden.judges.judge import Answer, Judge, judged
from caseharden.lm.lm import LM
from caseharden.train.tuner import Run

HOW = {"false": "False answers need several refusals, of prompts that come with the beginning of one (`prefix`)."}
"""What to do where a pool is empty, if that is not to raise the tokens."""


@runtime_checkable
class AsksAtLarge(Protocol):
    """A domain that has prompts of all kinds for its defender, of which nobody says which are harmful."""

    def at_large(self, lm: LM, engine: Engine, seed: int) -> Sequence[Example]:
        """The prompts, without completions; `lm` may help to find them. None that the evaluator asks.

        The prefix of one, if any, is how an answer would begin; the model is asked without it first.
        """
        ...


@dataclass(frozen=True)
class Elicited:
    """The pools of `domain` and, for one role, those whose completions the model itself wrote."""

    domain: Pools
    role: Role
    said: Mapping[str, Sequence[Example]]

    @property
    def name(self) -> str:
        return self.domain.name

    def pools(self, role: Role) -> Mapping[str, Sequence[Example]]:
        return {**self.domain.pools(role), **(self.said if role == self.role else {})}


class Said:
    """Pools of examples that survive a crash when tracked: asked again, a model might answer otherwise."""

    def __init__(self) -> None:
        self.pools: dict[str, list[Example]] = {}

    def state_dict(self) -> dict[str, Any]:
        return {
            name: [(e.id, _plain(e.prompt), e.completion, e.topic, e.group, e.prefix) for e in examples]
            for name, examples in self.pools.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.pools = {
            name: [
                Example(
                    id,
                    prompt if isinstance(prompt, str) else Conversation(prompt),
                    said,
                    topic=topic,
                    group=group,
                    prefix=prefix,
                )
                for id, prompt, said, topic, group, prefix in examples
            ]
            for name, examples in state.items()
        }


def _plain(prompt: str) -> Any:
    return [*prompt.turns] if isinstance(prompt, Conversation) else prompt


def elicited(run: Run, judge: Judge, max_new_tokens: int, wanted: Collection[str]) -> Run:
    """The run with more pools, of what its model answers greedily: ``answered``, and ``declined`` by `judge`.

    If it is `wanted`, ``false`` has, for what is declined and comes with a beginning of an answer, that and false
    words after it: see `falsified`.

    Must be called before the first step; a run that goes on has the pools that it began with. Of a question that
    is asked several times (examples of one `group`) only the answer of the majority is kept, if there is one
    (self-consistency: Wang et al. 2022); answers that do not end within `max_new_tokens`, or that the judge cannot
    tell, are left out.
    Raises `CasehardenError` if the domain has no prompts at large or a pool of one of these names, or if a pool is
    `wanted` and empty.
    """
    if not isinstance(run.domain, AsksAtLarge):
        raise CasehardenError(
            f"domain {run.domain.name!r} has no prompts at large to ask the model. Take a domain that has them, or "
            "a defense that reads the domain's own pools."
        )
    if taken := {"answered", "declined", "false"} & {*run.domain.pools(run.role)}:
        raise CasehardenError(
            f"domain {run.domain.name!r} has a pool {min(taken)!r} of its own, which is what a model's own answers "
            "are called here. Rename it."
        )
    said = run.track("said", Said())
    if not said.pools:
        asked = run.domain.at_large(run.lm, run.engine, run.seed_for("at large"))
        told = completed(asked, run.lm, run.engine, max_new_tokens)
        found = run.lm.placement.once(partial(parted, told, judge))
        said.pools = {name: [replace(e, prefix="") for e in examples] for name, examples in found.items()}
        if "false" in wanted:
            seed = run.seed_for("false")
            said.pools["false"] = falsified(found["declined"], judge, run.lm, run.engine, max_new_tokens, seed)
        if lacking := [name for name in wanted if said.pools.get(name) == []]:
            raise CasehardenError(
                f"nothing is {lacking[0]}: to {len(asked)} prompts at large {run.lm.name!r} gives "
                f"{len(said.pools['answered'])} answers and {len(said.pools['declined'])} refusals. The rest do "
                f"not end within {max_new_tokens} tokens, or differ from time to time. "
                + HOW.get(lacking[0], "Raise the tokens, or take other pools.")
            )
    with_said = copy.copy(run)
    with_said.domain = Elicited(run.domain, run.role, said.pools)
    return with_said


def completed(
    asked: Sequence[Example], lm: LM, engine: Engine, max_new_tokens: int, *, begun: bool = False
) -> list[Example]:
    """The examples with what `lm` answers as their completions; none where it does not come to an end.

    With `begun` the answers go on from the examples' prefixes, otherwise these are kept from the model.
    """
    if not asked:
        return []
    lm.check_prompts(asked, "prompts at large", answer=max_new_tokens)
    ends = set(lm.ends())
    prompts = lm.encode_prompts([e.prompt for e in asked], [e.prefix for e in asked] if begun else ())
    written = engine.write(lm, prompts, 1, max_new_tokens, 0.0, 0).tokens
    return [
        replace(example, completion=text.strip() if tokens and tokens[-1] in ends and finished else "")
        for example, tokens, (text, finished) in zip(asked, written, lm.read(written), strict=True)
    ]


def falsified(
    declined: Sequence[Example], judge: Judge, lm: LM, engine: Engine, max_new_tokens: int, seed: int
) -> list[Example]:
    """The declined examples that have a prefix, gone on with what is false, the same for all of a question.

    Made to begin, the model goes on with what it declines to say. Each word of that is replaced by one that stands
    at the same place in what it keeps from another question, where there is another. Where it goes on to decline,
    by `judge`, there is nothing to replace.
    """
    with_prefix = [[e for e in question if e.prefix] for question in questions(declined)]
    asked = [question for question in with_prefix if question]
    told = completed([question[0] for question in asked], lm, engine, max_new_tokens, begun=True)
    answers = [Answer(e.id, e.prompt, e.completion) for e in told]
    scores = [a.score for a in lm.placement.once(partial(judged, judge, answers))]
    kept = [[] if score > 0.5 else e.completion.split() for score, e in zip(scores, told, strict=True)]
    longest = max(map(len, kept), default=0)
    at = [sorted({row[place] for row in kept if place < len(row)}) for place in range(longest)]
    rng, found = random.Random(seed), []
    for question, true in zip(asked, kept, strict=True):
        others = [[word for word in at[place] if word != own] for place, own in enumerate(true)]
        false = [rng.choice(other or [own]) for other, own in zip(others, true, strict=True)]
        if false != true:
            found += [replace(example, completion=f" {' '.join(false)}") for example in question]
    return found


def parted(told: Sequence[Example], judge: Judge) -> dict[str, list[Example]]:
    """The pools ``answered`` and ``declined``: of each question the examples that got the answer of more than half.

    All refusals are one answer, and what is no answer, or could not be judged, is another that is never kept.
    """
    written = [example for example in told if example.completion]
    scores = [a.score for a in judged(judge, [Answer(e.id, e.prompt, e.completion) for e in written])]
    refused = {id(example): score > 0.5 for example, score in zip(written, scores, strict=True) if score == score}
    found: dict[str, list[Example]] = {"answered": [], "declined": []}
    for question in questions(told):
        kinds = [refused.get(id(example)) for example in question]
        answers = [(no, "" if no else e.completion) for no, e in zip(kinds, question, strict=True)]
        usual, times = Counter(answers).most_common(1)[0]
        if usual[0] is not None and 2 * times > len(question):
            pool = found["declined" if usual[0] else "answered"]
            pool += [example for example, answer in zip(question, answers, strict=True) if answer == usual]
    return found


def questions(examples: Iterable[Example]) -> Iterator[list[Example]]:
    """The examples of each `group` together; one without a group is a question of its own."""
    found: dict[str, list[Example]] = {}
    for number, example in enumerate(examples):
        found.setdefault(example.group or f"\0{number}", []).append(example)
    yield from found.values()
