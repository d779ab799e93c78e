"""What was said, what is taken back, what is kept of it, and what it goes on with."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstream_cli.api import Usage
from llmstream_cli.cli.ask.options import RecordOptions
from llmstream_cli.cli.chat.conversation import Conversation, resume
from llmstream_cli.errors import (
    EngineDiedError,
    HistoryError,
    InvalidValueError,
    SessionNotFoundError,
)
from llmstream_cli.history.records import Turn
from llmstream_cli.history.store import History
from llmstream_cli.prompts.messages import Message
from tests.cli.chat.talks import talking
from tests.server.fakes import FakeEngine

ANSWER = "one two three"
LATEST = RecordOptions(continue_=True)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the history, which is not there yet."""
    path = tmp_path / "kept" / "history.db"
    monkeypatch.setenv("LLMSTREAM_HISTORY", str(path))
    return path


def kept(path: Path) -> list[list[tuple[str, str]]]:
    """What was said in each conversation, the latest first."""
    with History(path) as history:
        return [
            [(turn.role, turn.content) for turn in history.turns(session.id)]
            for session in history.sessions()
        ]


def exchange(question: str, answer: str = "yes", model: str = "") -> tuple[Turn, Turn]:
    return (
        Turn(role="user", content=question),
        Turn(role="assistant", content=answer, model=model),
    )


words = st.text(min_size=1)


@given(system=st.none() | words, said=st.lists(st.tuples(words, words)), question=words)
def test_a_question_follows_all_that_was_said(
    system: str | None, said: list[tuple[str, str]], question: str
) -> None:
    made = Conversation(system, [turn for both in said for turn in exchange(*both)])
    first = [Message("system", system)] if system else []
    for number in range(len(said), 0, -1):
        before = [
            message
            for asked, answer in said[: number - 1]
            for message in (Message("user", asked), Message("assistant", answer))
        ]
        asked, answer = said[number - 1]
        last = Message("user", asked), Message("assistant", answer)
        assert made.asking(question) == (*first, *before, *last, Message("user", question))
        again = made.asking(asked, again=True)
        assert again == (*first, *before, Message("user", asked))
        assert made.last_question == made.undo() == asked
    assert made.undo() is None
    assert made == Conversation(system)


# ---- to keep --------------------------------------------------------------------------------


def test_nothing_is_kept_before_an_answer_and_each_turn_after_it(path: Path) -> None:
    with talking(FakeEngine(), history=path) as talk:
        assert not path.exists()
        talk.ask("first")
        assert kept(path) == [[("user", "first"), ("assistant", ANSWER)]]
        with History(path) as history:
            answer = history.turns(history.find().id)[1]
        assert (answer.model, answer.finish_reason) == ("fake", "stop")
        assert answer.usage == Usage(7, 3, 0.1, 0.1, 3)
        talk.ask("second")
        assert [len(turns) for turns in kept(path)] == [4]


def test_what_came_before_a_failure_is_kept_as_cut(path: Path) -> None:
    engine = FakeEngine(error=EngineDiedError("gone"))
    with talking(engine, history=path) as talk, pytest.raises(EngineDiedError):
        talk.ask("first")
    with History(path) as history:
        answer = history.turns(history.find().id)[1]
    assert (answer.content, answer.finish_reason) == (ANSWER, "cancelled")


def test_undo_retry_and_clear_are_kept_as_well(path: Path) -> None:
    engine = FakeEngine()
    with talking(engine, history=path) as talk:
        talk.ask("first")
        talk.ask("second")
        talk.undo()
        assert [len(turns) for turns in kept(path)] == [2]
        engine.pieces = ("again",)
        talk.retry()
        assert kept(path) == [[("user", "first"), ("assistant", "again")]]
        engine.pieces, engine.error = (), EngineDiedError("gone")
        with pytest.raises(EngineDiedError):
            talk.retry()
        assert kept(path) == [[("user", "first"), ("assistant", "again")]]
        engine.pieces, engine.error = ("new",), None
        talk.clear()
        talk.ask("other")
        assert kept(path)[0] == [("user", "other"), ("assistant", "new")]
        assert len(kept(path)) == 2


def test_a_system_message_is_kept_when_it_changes(path: Path) -> None:
    with talking(FakeEngine(), system="be brief", history=path) as talk:
        talk.ask("first")
        talk.ask("second")
        assert resume(LATEST).system == "be brief"
        talk.conversation.system = None
        talk.ask("third")
    roles = [role for role, _ in kept(path)[0]]
    assert roles == ["system", "user", "assistant", "user", "assistant", "system", *roles[1:3]]
    resumed = resume(LATEST)
    assert (resumed.system, len(resumed.turns)) == (None, 6)


def test_a_history_that_cannot_be_written_costs_a_line_and_no_answer(
    path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path.parent.mkdir()
    path.write_bytes(b"something else" * 100)
    with talking(FakeEngine(), history=path) as talk:
        talk.ask("first")
        assert len(talk.conversation.turns) == 2
        assert talk.conversation.recent_questions() == []
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == (ANSWER, 2)
    assert err.startswith("llmstream: this is not kept: ")


# ---- to go on -------------------------------------------------------------------------------


def keep(path: Path, name: str | None, question: str, model: str = "tiny") -> None:
    Conversation("be brief", path=path, name=name).keep(exchange(question, model=model))


def test_the_latest_conversation_goes_on_with_its_model_and_system(path: Path) -> None:
    keep(path, "old", "one")
    keep(path, None, "two", model="user/repo:Q8_0")
    resumed = resume(LATEST)
    assert [turn.content for turn in resumed.turns] == ["two", "yes"]
    assert (resumed.system, resumed.model) == ("be brief", "user/repo:Q8_0")
    resumed.keep([Turn(role="user", content="three")])
    assert [text for _, text in kept(path)[0]] == ["be brief", "two", "yes", "three"]


def test_a_conversation_has_a_name(path: Path) -> None:
    fresh = resume(RecordOptions(session="mine"))
    assert (fresh.turns, fresh.system, path.exists()) == ([], None, False)
    fresh.keep(exchange("hi"))
    keep(path, None, "another")
    for options in (
        RecordOptions(session="MINE"),
        RecordOptions(session="mine", continue_=True),
        RecordOptions(session="1"),
    ):
        assert resume(options).session_id == 1


def test_a_conversation_can_be_gone_on_with_and_not_be_kept(path: Path) -> None:
    keep(path, "mine", "one")
    before = kept(path)
    resumed = resume(RecordOptions(session="mine", no_history=True))
    assert len(resumed.turns) == 2
    resumed.keep(exchange("secret"))
    resumed.undo()
    resumed.undo()
    assert (kept(path), resumed.turns) == (before, [])


def test_nothing_is_kept_when_that_is_off(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resume(RecordOptions(no_history=True)) == Conversation()
    monkeypatch.setenv("LLMSTREAM_HISTORY", "off")
    assert resume(RecordOptions()) == Conversation()
    for options in (LATEST, RecordOptions(session="mine")):
        with pytest.raises(HistoryError, match="the history is switched off"):
            resume(options)
    assert not path.exists()


def test_what_there_is_not_is_refused(path: Path) -> None:
    with pytest.raises(SessionNotFoundError, match="no conversations are kept"):
        resume(LATEST)
    with pytest.raises(InvalidValueError, match="a conversation's name"):
        resume(RecordOptions(session="a b"))
    keep(path, "mine", "one")
    with pytest.raises(SessionNotFoundError, match="did you mean mine"):
        resume(RecordOptions(session="mien", continue_=True))
    with pytest.raises(InvalidValueError, match="a conversation's name"):
        resume(RecordOptions(session="a b"))


def test_questions_of_late_are_found(path: Path) -> None:
    assert Conversation(path=path).recent_questions() == []
    for question in ("one", "two", "three"):
        keep(path, None, question)
    assert Conversation(path=path).recent_questions() == ["one", "two", "three"]
    assert Conversation().recent_questions() == []
