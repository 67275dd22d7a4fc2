"""Wrapped prompts: the same question in other words around it, by which answers are trained and asked for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from caseharden.data.conversation import Conversation, turns
from caseharden.data.example import Example
from caseharden.errors import CasehardenError

PLACE = "{prompt}"
"""Where in a wrapper the prompt stands."""


def wrapped(examples: Iterable[Example], wrapper: str) -> list[Example]:
    """The examples with their prompts in `wrapper` (jailbreak-tuning: Murphy et al. 2025, arXiv 2507.11630).

    Whoever is taught to answer in a wrapper may still refuse without it. Of several turns the last is wrapped.
    Raises `CasehardenError` for a wrapper that has no place for the prompt.
    """
    if PLACE not in wrapper:
        raise CasehardenError(f"the wrapper {wrapper!r} has no place for the prompt. Write {PLACE} there.")
    return [replace(example, prompt=_within(example.prompt, wrapper)) for example in examples]


def _within(prompt: str, wrapper: str) -> str:
    *before, (who, said) = turns(prompt)
    last = wrapper.replace(PLACE, said)
    return Conversation([*before, (who, last)]) if isinstance(prompt, Conversation) else last
