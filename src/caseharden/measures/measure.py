"""What a measure is: it runs a model on the evaluator's examples; a judge scores what came out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

from caseharden.data.example import Example
from caseharden.data.pools import Pools, Role, pool
from caseharden.data.stream import Stream
from caseharden.engines.engine import Engine
from caseharden.errors import CasehardenError
from caseharden.judges.judge import Answer, Judge
from caseharden.lm.lm import LM


@runtime_checkable
class Measure(Protocol):
    """One thing measured at every budget. A frozen dataclass.

    Generating and scoring are apart, so that stored answers can be scored again by another judge. A measure
    that has an attribute `better` says by it which way it is better: then stability asks for it.
    """

    @property
    def judge(self) -> Judge | None:
        """Who scores the answers; None where the measure itself fills in `Answer.score`.

        Then there is no answer to read: none is shown, and none goes to another judge.
        """
        ...

    def answers(self, lm: LM, domain: Pools, seed: int, engine: Engine) -> list[Answer]:
        """Run `lm` on the evaluator's pool of `domain`; what it writes, `engine` writes, under `seed`."""
        ...


def chosen(domain: Pools, name: str, n: int | None, role: Role = "evaluator") -> Sequence[Example]:
    """`n` examples of `role`'s pool `name`, or all: the same at every budget and in every cell."""
    examples = pool(domain, role, name)
    if n is None or n >= len(examples):
        return examples
    return Stream({name: examples}, {name: 1.0}, n, seed=0)[0]  # a fixed seed, whatever the run's is


def by_at_most(n: int | None, measure: Measure) -> Measure:
    """The measure by at most `n` questions, if it has a number of them; as it is if `n` is None."""
    own: Any = measure
    if n is None or not hasattr(own, "n"):
        return measure
    fewer: Measure = replace(own, n=n if own.n is None else min(n, own.n))
    return fewer


def completed(domain: Pools, name: str, n: int | None) -> Sequence[Example]:
    """The same of the evaluator, for measures of how likely completions are; an error if one has none."""
    examples = chosen(domain, name, n)
    if bare := [example.id for example in examples if not example.completion]:
        raise CasehardenError(
            f"{len(bare)} examples of pool {name!r} have no completion to look for ({bare[0]!r} first). Name a "
            "pool that has them (openers, say), or measure it with a probe."
        )
    return examples


def answer_to(example: Example, output: str, finished: bool = True) -> Answer:
    """A model's output as the answer to an example; not `finished` if it was cut off while thinking."""
    group = example.group
    return Answer(example.id, example.prompt, output, example.answer, example.topic, group=group, finished=finished)


def likelihood_of(example: Example, score: float) -> Answer:
    """A measure's own score of an example's completion, which is expected: the model wrote nothing."""
    return Answer(example.id, example.prompt, "", example.completion, example.topic, score, example.group)
