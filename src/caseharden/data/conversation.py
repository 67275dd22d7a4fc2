"""Prompts of several turns: what was said before the question that is asked."""

from __future__ import annotations

from collections.abc import Sequence

Turn = tuple[str, str]
"""Who speaks (``system``, ``user`` or ``assistant``), and what is said."""


class Conversation(str):
    """A prompt of several turns, the user's at the end; as a text, its transcript.

    The model gets the turns, through its chat template; whoever shows, keeps or judges a prompt has the text.
    """

    turns: tuple[Turn, ...]

    def __new__(cls, turns: Sequence[Turn]) -> Conversation:
        self = super().__new__(cls, "\n\n".join(f"{who}: {said}" for who, said in turns))
        self.turns = tuple(turns)
        return self

    def __reduce__(self) -> tuple[type[Conversation], tuple[tuple[Turn, ...]]]:
        return Conversation, (self.turns,)

    def __repr__(self) -> str:
        return f"Conversation({self.turns!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Conversation) and self.turns == other.turns

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self.turns)


def turns(prompt: str) -> tuple[Turn, ...]:
    """The turns of a prompt; a plain one is all the user's."""
    return prompt.turns if isinstance(prompt, Conversation) else (("user", prompt),)


def asked(prompt: str) -> str:
    """What the user says in a prompt: many prompts may share what the system says."""
    return "\n".join(said for who, said in turns(prompt) if who == "user")
