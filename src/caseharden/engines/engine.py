"""What an engine is: it writes a model's answers to prompts. And what is asked of any of them, as text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from caseharden.errors import CasehardenError
from caseharden.lm.batch import Batch
from caseharden.lm.lm import LM
from caseharden.lm.template import Text


class Written(NamedTuple):
    """Answers as token ids, with the end token where an answer came to one.

    `logps` has the log-probability of each token under the distribution that it was drawn from, where the
    engine knows it; None where it does not, or where nothing was drawn.
    """

    tokens: list[list[int]]
    logps: list[list[float]] | None = None


@runtime_checkable
class Engine(Protocol):
    """Who writes the answers, of attacks' rollouts and of measures alike. A frozen dataclass.

    It may say more of itself. Class attributes: `knobs`, its fields that decide no answer; `approximates`, true if
    it computes the model's probabilities by other code than the trainer's; `released_only`, true if it writes with
    weights of its own, whatever is done to the model's. A property `version`, of whatever else decides its answers.
    And `check(lm)`, which raises `CasehardenError`, before anything runs, if it cannot write for a model.
    """

    def write(
        self,
        lm: LM,
        prompts: Sequence[list[int]],
        samples: int,
        limit: int,
        temperature: float,
        seed: int,
    ) -> Written:
        """Write `samples` answers to each encoded prompt, those of one prompt together, of at most `limit` tokens.

        Greedily at `temperature` 0, else drawn under `seed` from softmax(logits / temperature) over the whole
        vocabulary. Answers end at one of `LM.ends`; penalties and filters that the model's own generation
        config asks for are left out. The global random state is left as it was.
        """
        ...


def generate_text(
    engine: Engine,
    lm: LM,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    seed: int = 0,
    prefixes: Sequence[str] = (),
    samples: int = 1,
) -> list[Text]:
    """Answer each prompt, text in, text out, without the thinking of a model that thinks.

    `prefixes`, if any, open the answers, one for each prompt (a prefill attack), and are part of what is returned.
    The `samples` answers to one prompt stand together.
    """
    written = engine.write(lm, lm.encode_prompts(prompts, prefixes), samples, max_new_tokens, temperature, seed)
    return lm.read(written.tokens, [prefix for prefix in prefixes for _ in range(samples)])


def check_answers(engine: Engine, lm: LM) -> None:
    """Raise `CasehardenError` if a model answers nothing to a plain question."""
    if not generate_text(engine, lm, ["What is the capital of France?"], max_new_tokens=16)[0].text.strip():
        raise CasehardenError(
            f"the model {lm.name!r} answers nothing to a plain question. Is it an instruct model?"
        )


Decode = Callable[[LM, Batch, int, int, float], Written]
"""LM, prompts, samples, limit and temperature to answers: an engine's work on one batch."""


def in_batches(
    decode: Decode,
    size: int,
    lm: LM,
    prompts: Sequence[list[int]],
    samples: int,
    limit: int,
    temperature: float,
    seed: int,
) -> Written:
    """`decode` about `size` answers at a time, to prompts of about the same length; in the order of the prompts.

    Raises `CasehardenError` if prompts and answers may be longer than the model can read.
    """
    lm.check_positions(prompts, limit)
    written: dict[int, Written] = {}
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    step = max(1, size // samples)
    with lm.seeded(seed), lm.autocast():
        for chunk in (order[start : start + step] for start in range(0, len(order), step)):
            tokens, logps = decode(lm, lm.pad([(prompts[i], 0) for i in chunk]), samples, limit, temperature)
            for place, i in enumerate(chunk):
                own = slice(place * samples, (place + 1) * samples)
                written[i] = Written(tokens[own], logps and logps[own])
    found = [written[i] for i in range(len(prompts))]
    logps = [row for one in found for row in one.logps or ()]
    return Written([row for one in found for row in one.tokens], logps or None)
