"""What was said, and what is taken back."""

from hypothesis import given
from hypothesis import strategies as st

from llmstream_cli.cli.chat.conversation import Conversation
from llmstream_cli.history.records import Turn
from llmstream_cli.prompts.messages import Message

words = st.text(min_size=1)
exchanges = st.lists(st.tuples(words, words))


def conversation(system: str | None, said: list[tuple[str, str]]) -> Conversation:
    turns = [
        turn
        for asked, answer in said
        for turn in (Turn(role="user", content=asked), Turn(role="assistant", content=answer))
    ]
    return Conversation(system, turns)


@given(system=st.none() | words, said=exchanges, question=words)
def test_a_question_follows_all_that_was_said(
    system: str | None, said: list[tuple[str, str]], question: str
) -> None:
    made = conversation(system, said)
    before = made.messages
    messages = made.asking(question)
    assert messages == (*before, Message("user", question))
    assert made.messages == before
    assert [m.content for m in messages if m.role == "system"] == ([system] if system else [])
    assert len(messages) == 2 * len(said) + 1 + (system is not None)


@given(system=st.none() | words, said=exchanges)
def test_a_conversation_can_be_made_of_what_was_kept(
    system: str | None, said: list[tuple[str, str]]
) -> None:
    made = conversation(system, said)
    kept = [Turn(role=message.role, content=message.content) for message in made.messages]
    assert Conversation.of(kept).messages == made.messages


def test_the_last_system_message_holds() -> None:
    first, second = (Turn(role="system", content=text) for text in ("be brief", "be long"))
    question, answer = conversation(None, [("hi", "yes")]).turns
    assert Conversation.of([first, question, answer, second]).system == "be long"
    assert Conversation.of([first, question, answer, second]).turns == [question, answer]
    assert Conversation.of([first, Turn(role="system", content="")]).system is None


@given(said=exchanges)
def test_undoing_takes_back_one_question_after_the_other(said: list[tuple[str, str]]) -> None:
    made = conversation("be brief", said)
    for asked, _ in reversed(said):
        assert made.undo() == asked
    assert made.undo() is None
    assert made == Conversation("be brief")
