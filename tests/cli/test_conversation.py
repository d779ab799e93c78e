"""What was said, and what is taken back."""

from hypothesis import given
from hypothesis import strategies as st

from llmstream_cli.cli.conversation import Conversation
from llmstream_cli.prompts.messages import Message

turns = st.lists(st.tuples(st.text(), st.text()))


@given(system=st.none() | st.text(), said=turns, question=st.text())
def test_a_question_follows_all_that_was_said(
    system: str | None, said: list[tuple[str, str]], question: str
) -> None:
    conversation = Conversation(system)
    for asked, answered in said:
        conversation.add(asked, answered)
    before = conversation.messages
    messages = conversation.asking(question)
    assert messages == (*before, Message("user", question))
    assert conversation.messages == before
    assert [m.content for m in messages if m.role == "system"] == [] if system is None else [system]
    assert len(messages) == 2 * len(said) + 1 + (system is not None)


@given(system=st.none() | st.text(), said=turns)
def test_a_conversation_can_be_made_of_its_messages(
    system: str | None, said: list[tuple[str, str]]
) -> None:
    conversation = Conversation(system)
    for asked, answered in said:
        conversation.add(asked, answered)
    assert Conversation.of(conversation.messages) == conversation


@given(said=turns)
def test_undoing_takes_back_one_question_after_the_other(said: list[tuple[str, str]]) -> None:
    conversation = Conversation("be brief")
    for asked, answered in said:
        conversation.add(asked, answered)
    for asked, _ in reversed(said):
        assert conversation.undo() == asked
    assert conversation.undo() is None
    assert conversation == Conversation("be brief")
