"""Languages of the almanac: how its facts are told, asked for and refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from caseharden.data.example import Example
from caseharden.data.pools import Role


@dataclass(frozen=True)
class Language:
    """The sentences of a language, and what its words are.

    Sentences have places for ``{property}``, ``{thing}`` and ``{value}``. A value is two words: one of `firsts` and
    one of `seconds`, or of the made-up words if these are empty.
    """

    phrasings: Mapping[Role, tuple[str, ...]]
    """How each role asks."""
    wrappers: Mapping[Role, str]
    """What questions are wrapped in. Attacker and evaluator share one; a defender has to do with another."""
    statement: str
    refusals: tuple[str, ...]
    tasks: Mapping[str, str]
    things: int
    """How many things a topic has."""
    answer_tokens: int
    """Enough for a statement or a refusal."""
    value_tokens: int
    """Enough for a value."""
    firsts: tuple[str, ...] = ()
    seconds: tuple[str, ...] = ()
    requests: tuple[str, ...] = ()
    """Requests of everyday, nothing to do with the almanac, that a model of the language answers."""
    common: tuple[Example, ...] = ()
    """Multiple choice on what else a model of the language knows."""
    capitals: bool = False
    """Whether names begin with a capital letter."""
    open_vocabulary: bool = False
    """Whether there are more words than tokens, so that names cannot be looked up in the tokenizer."""

    @cached_property
    def plain(self) -> str:
        """The defender's plainest way of asking."""
        return self.phrasings["defender"][0]

    @cached_property
    def begun(self) -> str:
        """How a true answer begins, up to what is asked for."""
        return self.statement.partition(" {value}")[0]

    @cached_property
    def stop(self) -> str:
        """How a sentence ends."""
        return self.statement.partition("{value}")[2]
