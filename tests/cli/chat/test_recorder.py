"""What is kept of a chat, and what it goes on with."""

from pathlib import Path

import pytest

from llmstream_cli.cli.chat.conversation import Conversation
from llmstream_cli.cli.chat.recorder import Recorder, resume
from llmstream_cli.cli.options import RecordOptions
from llmstream_cli.errors import (
    EngineDiedError,
    HistoryError,
    InvalidValueError,
    SessionNotFoundError,
)
from llmstream_cli.history.records import Turn
from llmstream_cli.history.store import History
from tests.cli.chat.talks import talking
from tests.server.fakes import FakeEngine

ANSWER = "one two three"


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the history, which is not there yet."""
    path = tmp_path / "kept" / "history.db"
    monkeypatch.setenv("LLMSTREAM_HISTORY", str(path))
    return path


def kept(path: Path) -> list[list[tuple[str, str]]]:
    """What was said in each conversation, the latest first."""
    with History.open(path) as history:
        return [
            [(turn.role, turn.content) for turn in history.turns(session.id)]
            for session in history.sessions()
        ]


def test_nothing_is_kept_before_an_answer_and_each_turn_after_it(path: Path) -> None:
    with talking(FakeEngine(), history=path) as talk:
        assert not path.exists()
        talk.ask("first")
        assert kept(path) == [[("user", "first"), ("assistant", ANSWER)]]
        talk.ask("second")
        assert [len(turns) for turns in kept(path)] == [4]


def test_an_answer_is_kept_with_all_that_belongs_to_it(path: Path) -> None:
    with talking(FakeEngine(), history=path) as talk:
        talk.ask("first")
    with History.open(path) as history:
        answer = history.turns(history.sessions()[0].id)[1]
    assert (answer.model, answer.finish_reason) == ("fake", "stop")
    assert answer.usage is not None
    assert answer.usage.cached_tokens == 3


def test_what_came_before_a_failure_is_kept_as_cut(path: Path) -> None:
    engine = FakeEngine(error=EngineDiedError("gone"))
    with talking(engine, history=path) as talk, pytest.raises(EngineDiedError):
        talk.ask("first")
    with History.open(path) as history:
        answer = history.turns(history.sessions()[0].id)[1]
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
    with talking(FakeEngine(), history=path, conversation=Conversation("be brief")) as talk:
        talk.ask("first")
        talk.ask("second")
        talk.conversation.system = None
        talk.ask("third")
    roles = [role for role, _ in kept(path)[0]]
    assert roles == ["system", "user", "assistant", "user", "assistant", "system", *roles[1:3]]
    resumed = resume(RecordOptions(continue_=True))
    assert resumed.conversation.system is None
    assert len(resumed.conversation.turns) == 6


def test_a_history_that_cannot_be_written_costs_a_line_and_no_answer(
    path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path.parent.mkdir()
    path.write_bytes(b"something else" * 100)
    with talking(FakeEngine(), history=path) as talk:
        talk.ask("first")
        assert len(talk.conversation.turns) == 2
    out, err = capfd.readouterr()
    assert out == ANSWER
    assert err.startswith("llmstream: this is not kept: ")
    assert err.removesuffix("\n").count("\n") == 1
    assert Recorder(path).recent_questions() == []


# ---- to go on -------------------------------------------------------------------------------


def keep(path: Path, name: str | None, question: str, model: str = "tiny") -> None:
    turns = (
        Turn(role="user", content=question),
        Turn(role="assistant", content="yes", model=model),
    )
    Recorder(path, name).keep("be brief", turns)


def test_the_latest_conversation_goes_on_with_its_model_and_system(path: Path) -> None:
    keep(path, "old", "one")
    keep(path, None, "two", model="user/repo:Q8_0")
    resumed = resume(RecordOptions(continue_=True))
    assert [turn.content for turn in resumed.conversation.turns] == ["two", "yes"]
    assert resumed.conversation.system == "be brief"
    assert resumed.model == "user/repo:Q8_0"
    resumed.recorder.keep("be brief", [Turn(role="user", content="three")])
    assert [text for _, text in kept(path)[0]] == ["be brief", "two", "yes", "three"]


def test_a_conversation_has_a_name(path: Path) -> None:
    assert resume(RecordOptions(session="mine")).conversation == Conversation()
    assert not path.exists()
    resume(RecordOptions(session="mine")).recorder.keep(None, [Turn(role="user", content="hi")])
    keep(path, None, "another")
    for options in (
        RecordOptions(session="MINE"),
        RecordOptions(session="mine", continue_=True),
        RecordOptions(session="1"),
    ):
        assert resume(options).recorder.session_id == 1


def test_a_conversation_can_be_gone_on_with_and_not_be_kept(path: Path) -> None:
    keep(path, "mine", "one")
    before = kept(path)
    resumed = resume(RecordOptions(session="mine", no_history=True))
    assert len(resumed.conversation.turns) == 2
    resumed.recorder.keep(None, [Turn(role="user", content="secret")])
    resumed.recorder.undo()
    assert kept(path) == before


def test_nothing_is_kept_when_that_is_off(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resume(RecordOptions(no_history=True)).recorder == Recorder(None)
    monkeypatch.setenv("LLMSTREAM_HISTORY", "off")
    assert resume(RecordOptions()).recorder == Recorder(None)
    for options in (RecordOptions(continue_=True), RecordOptions(session="mine")):
        with pytest.raises(HistoryError, match="the history is switched off"):
            resume(options)
    assert not path.exists()


def test_what_there_is_not_is_refused(path: Path) -> None:
    with pytest.raises(SessionNotFoundError, match="no conversations are kept"):
        resume(RecordOptions(continue_=True))
    with pytest.raises(InvalidValueError, match="a conversation's name"):
        resume(RecordOptions(session="a b"))
    keep(path, "mine", "one")
    with pytest.raises(SessionNotFoundError, match="did you mean mine"):
        resume(RecordOptions(session="mien", continue_=True))
    with pytest.raises(InvalidValueError, match="a conversation's name"):
        resume(RecordOptions(session="a b"))


def test_questions_of_late_are_found(path: Path) -> None:
    assert Recorder(path).recent_questions() == []
    for question in ("one", "two", "three"):
        keep(path, None, question)
    assert Recorder(path).recent_questions() == ["one", "two", "three"]
    assert Recorder(None).recent_questions() == []
