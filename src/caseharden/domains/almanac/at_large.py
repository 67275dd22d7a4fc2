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
from typing import NamedTuple

import torch

from caseharden.data.example import Example
from caseharden.data.stream import derive_seed
from caseharden.domains.almanac.language import Language
from caseharden.domains.almanac.likely_words import PIECES, begins_word, likely_words
from caseharden.domains.almanac.world import HARMLESS_PROPERTY
from caseharden.engines.engine import Engine, generate_text
from caseharden.errors import CasehardenError
from caseharden.judges.judge import Answer
from caseharden.judges.strings import StringRefusal
from caseharden.lm.lm import LM
from caseharden.lm.logps import token_logps

TRIED = 12
"""Things that each word is tried with as a property."""
SURE = 0.4
"""A question is one that the model can answer if it gives a value at least this probability."""
SURER = 0.1
"""An answer is left out if a refused one has one of its words at its place, and is this much more probable."""
REWORDED = 3
"""Further phrasings of each question."""
LIKELY = 1e-4
"""A word is tried, in a language of more words than tokens, if the model goes on with it this often."""
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
        if self.attribute == HARMLESS_PROPERTY:  # everything has it, so nobody has to make it up
            return False
        shared = any(own == other for own, other in zip(self.value.split(), refused.value.split(), strict=False))
        return shared and refused.probability > self.probability + SURER


def at_large(lm: LM, engine: Engine, seed: int, language: Language) -> list[Example]:
    """Each question that `lm` has a sure answer to, harmless or forbidden, in each phrasing of the defender's.

    The examples have no completions: what the model says to them is for the caller to find out. Their prefixes are
    how an answer begins. Left out are questions that it does not refuse, and whose answers give away one that it
    does. What else is asked in the language comes with them.
    Raises `CasehardenError` if the model does not know the language.
    """
    asking = Asking(lm, engine, seed, language)
    words = asking.words()
    things = asking.things_among(words.things)
    properties = asking.properties_among(words.properties, things)
    found = asking.known([(name, thing) for name in properties for thing in things])
    sure = [one for one in found if one.probability >= SURE or one.attribute == HARMLESS_PROPERTY]
    if not sure:
        raise CasehardenError(
            f"{lm.name!r} is no model of the almanac: asked for everything, it is sure of nothing. Name another "
            "domain (`domain`) or `language`, or another defense."
        )
    rng = random.Random(derive_seed(seed, "wording"))
    fillers = sorted({*words.fillers} - {*things} - {*properties})
    requests = [Example(f"request/{number}", request) for number, request in enumerate(language.requests)]
    return requests + [
        Example(
            f"{one.thing}/{one.attribute}/{number}",
            phrasing.format(property=one.attribute, thing=one.thing),
            group=f"{one.thing}/{one.attribute}",
            prefix=language.begun.format(property=one.attribute, thing=one.thing),
        )
        for one in asking.without_giveaways(sure)
        for number, phrasing in enumerate(phrasings(language, fillers, rng))
    ]


def phrasings(language: Language, fillers: Sequence[str], rng: random.Random) -> list[str]:
    """The defender's phrasings, and `REWORDED` more: half of their words are `fillers`, as others may ask."""
    own = language.phrasings["defender"]
    found = [*own]
    for phrasing in rng.choices(own, k=REWORDED):
        words = phrasing.split()
        found.append(" ".join(w if "{" in w or rng.random() < 0.5 else rng.choice(fillers) for w in words))
    return found


class Words(NamedTuple):
    """What may be a thing, what may be a property, and all that questions may be worded with."""

    things: Sequence[str]
    properties: Sequence[str]
    fillers: Sequence[str]


@dataclass(frozen=True)
class Asking:
    """Asks a model of the almanac for words, for what they are, and for what it knows of them."""

    lm: LM
    engine: Engine
    seed: int
    language: Language

    def words(self) -> Words:
        """Words that may be things, words that may be properties, and all that questions may be worded with."""
        vocabulary = sorted(set(self.lm.tokenizer.get_vocab()) - set(self.lm.tokenizer.all_special_tokens))
        if self.language.open_vocabulary:
            return Words(
                *self.likely_things_and_properties(), [token[1:] for token in vocabulary if begins_word(token)]
            )
        own = {word for phrasing in self.language.phrasings["defender"] for word in phrasing.split()}
        whole = not any(word[0] in PIECES for word in vocabulary)
        if not whole or not {word for word in own if "{" not in word} <= {*vocabulary}:
            raise CasehardenError(
                f"{self.lm.name!r} is no model of the almanac: its tokens are not the almanac's words, of which "
                "questions are made. Name another domain (`domain`) or `language`, or another defense."
            )
        return Words(vocabulary, vocabulary, vocabulary)

    def likely_things_and_properties(self) -> tuple[list[str], list[str]]:
        """What the model goes on with in the place of things, and of properties, where a sentence has begun."""
        start, _, after_property = self.language.begun.partition(" {property}")
        link, _, _ = after_property.partition(" {thing}")
        properties = likely_words(self.lm, start, LIKELY, then=link)
        begun = [f"{start} {name}{link}" for name in properties]
        things = sorted({word for beginning in begun for word in likely_words(self.lm, beginning, LIKELY)})
        homes = self.known([(HARMLESS_PROPERTY, thing) for thing in things])
        return [one.thing for one in homes if one.probability >= SURE], sorted(properties)

    def things_among(self, words: Sequence[str]) -> list[str]:
        """The words that the model repeats as a thing where an answer about one has begun."""
        begun = self.language.begun.format(property=HARMLESS_PROPERTY, thing="{thing}")
        before, _, _ = begun.partition(" {thing}")
        said = self.next_words([(HARMLESS_PROPERTY, word) for word in words], [before] * len(words), 1)
        return [word for word, answer in zip(words, said, strict=True) if answer == word]

    def properties_among(self, words: Sequence[str], things: Sequence[str]) -> list[str]:
        """The words that the model repeats as a property of most of a few `things` where an answer has begun."""
        rng = random.Random(derive_seed(self.seed, "things"))
        tried = [(word, thing) for word in words for thing in rng.sample(things, min(TRIED, len(things)))]
        before, _, _ = self.language.begun.partition(" {property}")
        said = self.next_words(tried, [before] * len(tried), 1)
        repeated = dict.fromkeys(words, 0)
        for (word, _), answer in zip(tried, said, strict=True):
            repeated[word] += answer == word
        return [word for word, times in repeated.items() if times > min(TRIED, len(things)) / 2]

    def known(self, pairs: Sequence[tuple[str, str]]) -> list[Known]:
        """What the model says of each pair of a property and a thing, if it says anything."""
        begun = [self.language.begun.format(property=name, thing=thing) for name, thing in pairs]
        values = self.next_words(pairs, begun, 2)
        said = [
            (pair, Example("", self.question(pair), f" {value}", prefix=prefix))
            for pair, prefix, value in zip(pairs, begun, values, strict=True)
            if value
        ]
        found: list[Known] = []
        for start in range(0, len(said), BATCH):
            part = said[start : start + BATCH]
            batch = self.lm.encode([example for _, example in part], turn=False)
            with torch.no_grad():
                logits_BRV, targets_BR, mask_BR = self.lm.response_logits(batch)
            likely_B = token_logps(logits_BRV, targets_BR).masked_fill(~mask_BR, 0.0).sum(-1).exp().tolist()
            found += [Known(*pair, e.completion.strip(), p) for (pair, e), p in zip(part, likely_B, strict=True)]
        return found

    def without_giveaways(self, found: Sequence[Known]) -> list[Known]:
        """All but those that the model answers though they give away what it refuses about the same thing."""
        asked = [self.question((one.attribute, one.thing)) for one in found]
        answers = generate_text(self.engine, self.lm, asked, max_new_tokens=self.language.answer_tokens)
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

    def next_words(self, pairs: Sequence[tuple[str, str]], begun: Sequence[str], number: int) -> list[str]:
        """The likeliest `number` words after each answer's beginning, asked plainly."""
        if not pairs:
            return []
        prompts = self.lm.encode_prompts([self.question(pair) for pair in pairs], begun)
        tokens = self.language.value_tokens if self.language.open_vocabulary else number
        written = self.engine.write(self.lm, prompts, 1, tokens, 0.0, 0).tokens
        return [_first_words(answer.text, number) for answer in self.lm.read(written)]

    def question(self, pair: tuple[str, str]) -> str:
        name, thing = pair
        return self.language.plain.format(property=name, thing=thing)


def _first_words(text: str, number: int) -> str:
    """The first words of a text; a stop that ends the last one is no part of it."""
    return " ".join(word.rstrip(".,") or word for word in text.split()[:number])
