"""Wrapped prompts: every prompt whole in its wrapper, and nothing else changed."""

from __future__ import annotations

import pytest

from caseharden.data.conversation import Conversation, turns
from caseharden.data.example import Example
from caseharden.domains.wrapping import wrapped
from caseharden.errors import CasehardenError


def test_a_prompt_stands_whole_in_the_wrapper_whatever_is_in_it():
    [found] = wrapped([Example("x", "how {0} and {prompt} ?", "so .")], "now: {prompt} {thanks}")
    assert found == Example("x", "now: how {0} and {prompt} ? {thanks}", "so .")


def test_of_several_turns_the_last_is_wrapped():
    said = [("system", "be kind"), ("user", "hello"), ("assistant", "hi"), ("user", "how ?")]
    [found] = wrapped([Example("x", Conversation(said))], "<{prompt}>")
    assert turns(found.prompt) == (*said[:3], ("user", "<how ?>"))


def test_a_wrapper_without_a_place_is_an_error():
    with pytest.raises(CasehardenError, match=r"no place for the prompt\. Write \{prompt\}"):
        wrapped([], "go ahead")
