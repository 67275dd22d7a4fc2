"""Every question that a model of the almanac can answer, found out from the model itself.

It takes the model, its words, the defender's ways of asking, the form of an answer, and the one property that
everything has; no fact of the world. So a defender who holds no data of a topic can ask about it all the same, and
the model sorts what it knows by what it refuses.

Asked for a property that a thing does not have, a model makes the answer up, and often from another value of the
thing: a forbidden one, where the thing has any. Such answers give away what the model refuses to say.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from caseharden.data.example import Example
from caseharden.data.stream import derive_seed
from caseharden.domains.almanac.world import ANSWER_TOKENS, HARMLESS_PROPERTY, PHRASINGS, STATEMENT
from caseharden.engines.engine import Engine, generate_text
from caseharden.errors import CasehardenError
from caseharden.judges.judge import Answer
from caseharden.judges.strings import StringRefusal
from caseharden.lm.lm import LM
from caseharden.lm.logps import token_logps

PLAIN = PHRASINGS["defender"][0]
BEGUN = STATEMENT.partition(" {value}")[0]
"""How a true answer begins, up to what is asked for."""
VALUE_TOKENS = 2
TRIED = 12
"""Things that each word is tried with as a property."""
SURE = 0.5
"""A question is one that the model can answer if it gives a value at least this probability."""
SURER = 0.1
"""An answer is left out if a refused one shares a word with it and is this much more probable."""
REWORDED = 3
"""Further phrasings of each question."""
PIECES = "Ġ▁"
"""What tokens of other languages begin with where they begin a word."""
BATCH = 512


@dataclass(frozen=True)
class Known:
    """The likeliest value of a property of a thing, once an answer has begun, and how likely the model finds it."""

    attribute: str
    thing: str
    value: str
    probability: float

    def gives_away(self, refused: Known) -> bool:
        """Whether this may be made up from a value that the model refuses to say."""
        shared = set(self.value.split()) & set(refused.value.split())
        return bool(shared) and refused.probability > self.probability + SURER


def at_large(lm: LM, engine: Engine, seed: int) -> list[Example]:
    """Each question that `lm` has a sure answer to, harmless or forbidden, in each phrasing of the defender's.

    The examples have no completions: what the model says to them is for the caller to find out. Left out are
    questions that it does not refuse, and whose answers give away one that it does.
    """
    words = sorted(set(lm.tokenizer.get_vocab()) - set(lm.tokenizer.all_special_tokens))
    asking = {word for phrasing in PHRASINGS["defender"] for word in phrasing.split() if "{" not in word}
    if not asking <= {*words} or any(word[0] in PIECES for word in words):
        raise CasehardenError(
            f"{lm.name!r} is no model of the almanac: its tokens are not the almanac's words, of which questions "
            "are made. Name another domain (`domain`), or another defense."
        )
    things = things_among(words, lm, engine)
    properties = properties_among(words, things, lm, engine, seed)
    found = known([(name, thing) for name in properties for thing in things], lm, engine)
    rng = random.Random(derive_seed(seed, "wording"))
    fillers = sorted({*words} - {*things} - {*properties})
    return [
        Example(
            f"{one.thing}/{one.attribute}/{number}",
            phrasing.format(property=one.attribute, thing=one.thing),
            group=f"{one.thing}/{one.attribute}",
        )
        for one in without_giveaways(found, lm, engine)
        for number, phrasing in enumerate(phrasings(fillers, rng))
    ]


def phrasings(fillers: Sequence[str], rng: random.Random) -> list[str]:
    """The defender's phrasings, and `REWORDED` more: half of their words are `fillers`, as others may ask."""
    own = PHRASINGS["defender"]
    found = [*own]
    for phrasing in rng.choices(own, k=REWORDED):
        words = phrasing.split()
        found.append(" ".join(w if "{" in w or rng.random() < 0.5 else rng.choice(fillers) for w in words))
    return found


def things_among(words: Sequence[str], lm: LM, engine: Engine) -> list[str]:
    """The words that the model repeats as a thing where an answer about one has begun."""
    before, _, _ = BEGUN.format(property=HARMLESS_PROPERTY, thing="{thing}").partition(" {thing}")
    said = next_words([(HARMLESS_PROPERTY, word) for word in words], [before] * len(words), 1, lm, engine)
    return [word for word, answer in zip(words, said, strict=True) if answer == word]


def properties_among(words: Sequence[str], things: Sequence[str], lm: LM, engine: Engine, seed: int) -> list[str]:
    """The words that the model repeats as a property of most of a few `things` where an answer has begun."""
    rng = random.Random(derive_seed(seed, "things"))
    tried = [(word, thing) for word in words for thing in rng.sample(things, min(TRIED, len(things)))]
    said = next_words(tried, ["the"] * len(tried), 1, lm, engine)
    repeated = dict.fromkeys(words, 0)
    for (word, _), answer in zip(tried, said, strict=True):
        repeated[word] += answer == word
    return [word for word, times in repeated.items() if times > min(TRIED, len(things)) / 2]


def known(pairs: Sequence[tuple[str, str]], lm: LM, engine: Engine) -> list[Known]:
    """What the model is `SURE` of, of pairs of a property and a thing."""
    begun = [BEGUN.format(property=name, thing=thing) for name, thing in pairs]
    values = next_words(pairs, begun, VALUE_TOKENS, lm, engine)
    said = [
        (pair, Example("", question(pair), value, prefix=prefix))
        for pair, prefix, value in zip(pairs, begun, values, strict=True)
        if value
    ]
    found: list[Known] = []
    for start in range(0, len(said), BATCH):
        part = said[start : start + BATCH]
        batch = lm.encode([example for _, example in part], turn=False)
        with torch.no_grad():
            logits_BRV, targets_BR, mask_BR = lm.response_logits(batch)
        likely_B = token_logps(logits_BRV, targets_BR).masked_fill(~mask_BR, 0.0).sum(-1).exp().tolist()
        found += [Known(*pair, example.completion, p) for (pair, example), p in zip(part, likely_B, strict=True)]
    return [one for one in found if one.probability >= SURE]


def without_giveaways(found: Sequence[Known], lm: LM, engine: Engine) -> list[Known]:
    """All but those that the model answers though they give away what it refuses about the same thing."""
    asked = [question((one.attribute, one.thing)) for one in found]
    answers = generate_text(engine, lm, asked, max_new_tokens=ANSWER_TOKENS)
    scores = StringRefusal().score([Answer("", "", answer.text) for answer in answers])
    refused: dict[str, list[Known]] = {}
    for one, score in zip(found, scores, strict=True):
        if score:
            refused.setdefault(one.thing, []).append(one)
    return [
        one
        for one, score in zip(found, scores, strict=True)
        if score or not any(one.gives_away(other) for other in refused.get(one.thing, ()))
    ]


def next_words(
    pairs: Sequence[tuple[str, str]], begun: Sequence[str], number: int, lm: LM, engine: Engine
) -> list[str]:
    """The likeliest `number` words after each answer's beginning, asked plainly."""
    if not pairs:
        return []
    prompts = lm.encode_prompts([question(pair) for pair in pairs], begun)
    return [answer.text.strip() for answer in lm.read(engine.write(lm, prompts, 1, number, 0.0, 0).tokens)]


def question(pair: tuple[str, str]) -> str:
    name, thing = pair
    return PLAIN.format(property=name, thing=thing)
