"""Example: one prompt, with what there is to learn of it or to check against."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    """One prompt with, where there is one, the completion to learn and the answer to check against.

    `answer` is what an exact verifier looks for, or the right one of `choices` where there are choices;
    `topic` the kind of harm or task it belongs to. Examples of one `group` speak of the same thing: where a
    pool is parted so that some of it is held out, a group stays whole. `prefix` is how the answer begins
    already: `completion` goes on from there, and the prefix itself is read but never learned.
    """

    id: str
    prompt: str
    completion: str = ""
    answer: str = ""
    topic: str = ""
    group: str = ""
    choices: tuple[str, ...] = ()
    prefix: str = ""

    @property
    def context(self) -> tuple[str, str]:
        """What the completion follows: the prompt, and how the answer begins."""
        return self.prompt, self.prefix
