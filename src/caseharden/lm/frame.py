"""Frame: prompts without the chat template, bare or as instruction and response."""

from __future__ import annotations

from functools import cached_property
from typing import Literal

from caseharden.errors import CasehardenError, nearest
from caseharden.lm.template import QUESTION, Template

TemplateName = Literal["chat", "instruction", "none"]
"""The model's own chat template, instruction and response, or nothing around the prompt."""
FRAMES = {"instruction": ("### Instruction:\n", "\n\n### Response:\n"), "none": ("", "\n")}
"""What stands before a prompt and after it where it is not the chat template that is used."""


class Frame(Template):
    """Writes prompts within a fixed text in the place of `chat`, the model's chat template: one of `FRAMES`.

    Base models are asked so, and so may an attacker train an instruct model. Several turns are written as their
    transcript. A text begins with the token that the tokenizer puts before any text, if it does. The marks of
    thinking are those of `chat`; an answer opens with nothing, not even a thought, and ends with the sequence.
    Raises `CasehardenError` for a frame in words that the tokenizer does not know.
    """

    def __init__(self, chat: Template, name: str) -> None:
        if name not in FRAMES:
            raise CasehardenError(f"there is no template {name!r}.{nearest(name, ['chat', *FRAMES])}")
        self.tokenizer, self.name, self.marks = chat.tokenizer, chat.name, chat.marks
        before, self._after = FRAMES[name]
        unknown = self.tokenizer.unk_token_id
        ids = self.tokenizer(before + self._after, add_special_tokens=False)["input_ids"]
        if unknown is not None and unknown in ids:
            raise CasehardenError(
                f"the tokenizer of {chat.name!r} has no tokens for the template {name!r} "
                f"({before + self._after!r}), so that the model would read unknown words. Take `template: none`."
            )
        begin = self.tokenizer.bos_token_id
        begins = begin is not None and self.tokenizer(before + QUESTION)["input_ids"][:1] == [begin]
        self._before = (self.tokenizer.bos_token if begins else "") + before

    def prompt(self, question: str) -> str:
        return f"{self._before}{question}{self._after}"

    @cached_property
    def turn(self) -> tuple[str, str]:
        return "", ""
