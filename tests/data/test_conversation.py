"""Conversations: prompts of several turns, which are texts as well."""

import copy
import pickle

from caseharden.data.conversation import Conversation, asked, turns

SAID = (("system", "Be brief."), ("user", "a"), ("assistant", "b"), ("user", "c?"))


def test_it_reads_as_its_transcript_and_keeps_its_turns():
    talk = Conversation(SAID)
    assert "".join(talk) == "system: Be brief.\n\nuser: a\n\nassistant: b\n\nuser: c?"
    assert turns(talk) == SAID and asked(talk) == "a\nc?"
    assert turns("plain") == (("user", "plain"),) and asked("plain") == "plain"
    for copied in (pickle.loads(pickle.dumps(talk)), copy.deepcopy(talk)):
        assert copied == talk and turns(copied) == SAID


def test_the_same_text_in_other_turns_is_another_prompt():
    one, other = Conversation(SAID), Conversation([("system", "Be brief.\n\nuser: a\n\nassistant: b"), SAID[-1]])
    assert "".join(one) == "".join(other)
    assert one != other and repr(one) != repr(other) and one != "".join(one) and "".join(one) != one
    assert len({one, other, "".join(one), Conversation(SAID)}) == 3
