"""Template: how a model is asked, how its turns end, and which part of them is thinking."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from textwrap import shorten
from typing import Any, NamedTuple

from jinja2 import TemplateError

from caseharden.data.conversation import turns
from caseharden.data.text import is_text
from caseharden.errors import CasehardenError

DATE = "01 Jan 2025"
"""The date that chat templates are given, so that prompts, and with them results, are the same tomorrow."""
PROMPTS = 8192
"""How many prompts are kept as the template writes them: the same are asked again and again."""
log = logging.getLogger(__name__)

SWITCHES = ("enable_thinking", "thinking")
"""What templates call the variable that turns thinking on or off."""
MARKS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel|>analysis", "<|channel|>final<|message|>"),
    ("<|channel>", "<channel|>"),
)
"""Where thinking begins and ends in the templates of published models."""
QUESTION, ANSWER = "seven green rivers", "two tall trees"


@dataclass(frozen=True)
class Reasoning:
    """Says how a model thinks before it answers. Only what comes after the thinking is judged.

    `thinking` turns it on or off where the chat template has a switch; None leaves it to the template. `marks` are
    where thinking begins and ends; None takes those of published models that the template or the tokenizer has.
    """

    thinking: bool | None = None
    marks: tuple[str, str] | None = None


class Text(NamedTuple):
    """An answer without its thinking; or, if the thinking was cut off, the thinking, and not `finished`."""

    text: str
    finished: bool


class Template:
    """Writes prompts in a tokenizer's chat template, and reads the answers.

    Raises `CasehardenError` if there is no template, if it does not show what a user says, or if it has no switch
    for thinking that is to be turned.
    """

    def __init__(self, tokenizer: Any, name: str, reasoning: Reasoning) -> None:
        self.tokenizer = tokenizer
        self.name = name
        self._kept = lru_cache(maxsize=PROMPTS)(self._prompt)  # the same questions come again at each budget
        source = str(tokenizer.chat_template or "")
        if not source:
            raise CasehardenError(
                f"the tokenizer of {name!r} has no chat template. Put a chat_template.jinja into the model's "
                "folder (an instruct model of the same family has one), or name an instruct model."
            )
        if "strftime_now" in source and "date_string" not in source:
            log.warning("the chat template of %r tells the model today's date: prompts change with the day", name)
        self._given: dict[str, Any] = {"date_string": DATE}
        known = (source, *tokenizer.get_added_vocab())
        found = [marks for marks in MARKS if any(mark in place for mark in marks for place in known)]
        self.marks = reasoning.marks or next(iter(found), None)
        self._as_parts = False
        if problem := self._problem():
            self._as_parts = True  # templates of models that see pictures want a list of parts
            if self._problem():
                raise CasehardenError(
                    f"the chat template of {name!r} does not show the model what a user says: {problem}. "
                    "Take the template of an instruct model of the same family."
                )
        if reasoning.thinking is not None:
            self._turn_thinking(reasoning.thinking)
        self._kept.cache_clear()  # how prompts are written is settled only now

    def prompt(self, question: str) -> str:
        """A question, of one turn or several, as the model sees it, ready for the assistant's turn.

        Raises `CasehardenError` if the template refuses a turn, or leaves one out.
        """
        return self._kept(question)

    def _prompt(self, question: str) -> str:
        said = turns(question)
        try:
            text = self._render(*said)
        except TemplateError as error:
            raise CasehardenError(
                f"the chat template of {self.name!r} refuses turns of {', '.join(who for who, _ in said)}: "
                f"{error}. Leave such prompts out, or put what the system says into the user's turn."
            ) from error
        if lost := [who for who, content in said if who != "assistant" and content.strip() not in text]:
            raise CasehardenError(
                f"the chat template of {self.name!r} does not show all that {lost[0]} says: the model would be "
                "asked something else. Leave such prompts out, or put what the system says into the user's turn."
            )
        return text

    @cached_property
    def turn(self) -> tuple[str, str]:
        """What the template writes before and after an answer, beyond `prompt`.

        Before it, thinking that the prompt begins is ended. Both are empty where the template shows no answer.
        """
        prompt = self.prompt(QUESTION)
        closed = f"\n{self.marks[1]}\n\n" if self.marks and self._thinking else ""
        try:
            whole = self._render(("user", QUESTION), ("assistant", ANSWER))
        except TemplateError:
            return closed, ""
        before, shown, after = whole.rpartition(ANSWER)
        if not shown:
            return closed, ""
        return before[len(prompt) :] if before.startswith(prompt) else closed, after

    @cached_property
    def end(self) -> list[int]:
        """The tokenizer's own tokens that end the assistant's turn; none where the template ends it with text."""
        ids: list[int] = self.tokenizer(self.turn[1].lstrip(), add_special_tokens=False)["input_ids"]
        marks = {*self.tokenizer.get_added_vocab().values(), *self.tokenizer.all_special_ids}
        marks -= {self.tokenizer.unk_token_id}
        return ids[: next((i for i, token in enumerate(ids) if token not in marks), len(ids))]

    def read(self, tokens: Sequence[int], prefix: str = "") -> Text:
        """The text of an answer, its `prefix` before it; special tokens and thoughts are left out."""
        begun = self.tokenizer(prefix, add_special_tokens=False)["input_ids"] if prefix else []
        whole = [*begun, *tokens]  # by itself what goes on might lose the space before its first word
        text = str(self.tokenizer.decode(whole, skip_special_tokens=True))
        if self.marks is None:
            return Text(text, True)
        begin, end = self.marks
        rest = str(self.tokenizer.decode(whole, skip_special_tokens=False))
        if self._thinking and not prefix:
            rest = begin + rest
        if begin not in rest and end not in rest:
            return Text(text, True)
        said = ""
        while begin in rest:
            before, _, thought = rest.partition(begin)
            _, ended, rest = thought.partition(end)
            said += before
            if not ended:
                return Text(text, False)
        said += rest.replace(end, "")  # one that ends no thought: what stands before it is judged
        for special in self.tokenizer.all_special_tokens:
            said = said.replace(special, "")
        return Text(said.strip(), True)

    @cached_property
    def _thinking(self) -> bool:
        """Whether prompts end in the midst of thinking."""
        after = self.prompt(QUESTION).rpartition(QUESTION)[2]
        return self.marks is not None and after.rfind(self.marks[0]) > after.rfind(self.marks[1])

    def _turn_thinking(self, on: bool) -> None:
        """Turn the switch for thinking. One that changes no prompt is none: it may only be spoken of."""
        shown = []
        for turned in (not on, on):
            self._given |= dict.fromkeys(SWITCHES, turned)
            shown.append(self._prompt(QUESTION))
        if shown[0] == shown[1]:
            raise CasehardenError(
                f"the chat template of {self.name!r} has no switch for thinking. Leave `thinking` out, or name a "
                "model whose template has one."
            )

    def _problem(self) -> str:
        """Why a question would not reach the model; empty if it does."""
        try:
            text = self._render(("user", QUESTION))
        except TemplateError as error:
            return f"it fails ({error})"
        return "" if QUESTION in text else f"{QUESTION!r} becomes {shorten(text, 120)!r}"

    def _render(self, *said: tuple[str, str]) -> str:
        """Messages, each of a role, in the template; ready for the assistant's turn after a user's.

        Raises `TemplateError` for whatever goes wrong: a template is a program.
        """
        messages = [
            {"role": role, "content": [{"type": "text", "text": text}] if self._as_parts else text}
            for role, text in said
        ]
        try:
            text: str = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=said[-1][0] == "user", **self._given
            )
        except Exception as error:
            raise TemplateError(str(error) or type(error).__name__) from error
        if not is_text(text):
            raise TemplateError("it writes half a character (a lone surrogate)")
        return text
