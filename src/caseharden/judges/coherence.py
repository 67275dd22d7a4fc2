"""Coherence: is the answer language, and on the question?"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from caseharden.judges.encoder import LONGEST, embed, encoder_version, wordpieces
from caseharden.judges.judge import Answer, version_of

HEAD = Path(__file__).parent / "heads" / "coherence.json"
WORD = re.compile(r"\w+|[^\w\s]")
WITHIN_NAME = re.compile(r"_|(?<=[a-z]{2})(?=[A-Z][a-z])")
"""Where a name in code is made of words."""
DETERMINER = re.compile(r"\b(?:the|an?|my|your|his|their|our|its|every)\b(?=\s*\S)", re.IGNORECASE)
MISPLACED = re.compile(  # what follows none of these in a sentence
    DETERMINER.pattern
    + r"(?=\s*[.,;:!?]|\s+(?:the|an?|of|in|to|is|are|was|were|and|or|for|it|that|with|on|as|be|by|at"
    r"|from|not|have|has|can|will|you|he|they|we|my|your|his|their|our|its|if|would|should|may|this|but|which)\b)",
    re.IGNORECASE,
)
SENTENCE = re.compile(r"[a-z]{2}[.!?]\s+(?=\S)")
LOWERCASE_SENTENCE = re.compile(r"[a-z]{2}[.!?]\s+(?=[a-z])")


@dataclass(frozen=True)
class Coherence:
    """Tells language on the question (1) from empty answers, loops, gibberish, jumbles and answers beside it (0).

    For English text and code. Four quantities, each with a limit that `fit_coherence` calibrated on real
    answers against broken ones. It says nothing of truth or use; a refusal that does not name its subject
    counts as beside the question, and so may a bare number: check those with an exact judge.
    """

    @property
    def version(self) -> str:
        """Of the limits, the encoder, and this module's quantities."""
        return version_of("1", HEAD.read_text(encoding="utf-8"), encoder_version())

    def score(self, answers: Sequence[Answer]) -> list[float]:
        if not answers:
            return []
        found = quantities(answers)
        coherent_N = np.logical_and.reduce([found[name] >= limit for name, limit in _limits().items()])
        return [float(yes and bool(a.output.strip())) for yes, a in zip(coherent_N, answers, strict=True)]


def quantities(answers: Sequence[Answer]) -> Mapping[str, NDArray[np.float64]]:
    """What is looked at in each answer's first characters, higher being better, [N] each.

    ``topic``: cosine of the embeddings of prompt and answer. ``variety``: share of distinct sequences of
    four words. ``wholeness``: words per piece that the encoder's tokenizer makes of them, low for what
    is no word. ``order``: share of determiners and sentences that go on as they should.
    """
    outputs = [answer.output.strip()[:LONGEST] for answer in answers]
    prompts_ND = embed(tuple(answer.prompt for answer in answers))
    outputs_ND = embed(tuple(answer.output for answer in answers))
    spaced = [WITHIN_NAME.sub(" ", output) for output in outputs]
    words = [WORD.findall(output.lower()) for output in spaced]
    pieces = wordpieces(spaced)
    return {
        "topic": (prompts_ND * outputs_ND).sum(-1),
        "variety": np.array([_variety(each) for each in words]),
        "wholeness": np.array([len(each) / max(1, n) for each, n in zip(words, pieces, strict=True)]),
        "order": np.array([_order(output) for output in outputs]),
    }


def _variety(words: Sequence[str]) -> float:
    runs = list(zip(words, words[1:], words[2:], words[3:], strict=False))
    return len(set(runs)) / len(runs) if runs else 1.0


def _order(text: str) -> float:
    wrong = len(MISPLACED.findall(text)) + len(LOWERCASE_SENTENCE.findall(text))
    places = len(DETERMINER.findall(text)) + len(SENTENCE.findall(text))
    return 1 - wrong / (places + 3)  # three more, so that a slip in a short text does not decide


@lru_cache(maxsize=1)
def _limits() -> Mapping[str, float]:
    limits: Mapping[str, float] = json.loads(HEAD.read_text(encoding="utf-8"))["limits"]
    return limits
