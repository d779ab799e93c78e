"""What is said, kept for later; and what was kept, gone on with."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmstream_cli.cli.chat.conversation import Conversation
from llmstream_cli.cli.process import uninterrupted
from llmstream_cli.cli.terminal import complain
from llmstream_cli.config import history_path, load_config, why_no_history
from llmstream_cli.errors import HistoryError, InvalidValueError, SessionNotFoundError, one_line
from llmstream_cli.files import exists
from llmstream_cli.history.records import Turn

if TYPE_CHECKING:
    from llmstream_cli.cli.options import RecordOptions
    from llmstream_cli.history.records import Session
    from llmstream_cli.history.store import History

_RECENT_SESSIONS = 50


@dataclass(slots=True)
class Recorder:
    """Keeps a conversation, each turn when its answer has ended.

    A conversation begins in the file with its first answer. What fails here is told in a line and
    ends nothing: the answer is there. SQLite is imported with the first answer, and not before.

    Attributes:
        path: the file; None keeps nothing.
        name: of the conversation, where it has one.
        session_id: its number; None while nothing of it is kept.
        system: the system message that is kept.
    """

    path: Path | None
    name: str | None = None
    session_id: int | None = None
    system: str | None = None

    def keep(self, system: str | None, turns: Sequence[Turn], *, again: bool = False) -> None:
        """Keep what was said.

        Args:
            system: the system message that held.
            turns: the question and its answer.
            again: the last question was asked again, and what was kept of it goes.
        """
        if self.path is None:
            return
        try:
            self._keep(self.path, system, turns, again=again)
        except (HistoryError, InvalidValueError) as error:
            complain(f"llmstream: this is not kept: {one_line(error)}\n")

    def undo(self) -> None:
        """Delete the last question and its answer."""
        if self.path is None or self.session_id is None:
            return
        from llmstream_cli.history.store import History

        with uninterrupted():
            try:
                with History.open(self.path) as history:
                    history.undo(self.session_id)
            except HistoryError as error:
                complain(f"llmstream: this is still kept: {one_line(error)}\n")

    def begin_anew(self) -> None:
        """Keep what follows as another conversation."""
        self.name = self.session_id = self.system = None

    def recent_questions(self) -> list[str]:
        """Return what was asked in the conversations of late, the latest last."""
        if self.path is None or not exists(self.path):
            return []
        from llmstream_cli.history.store import History

        try:
            with History.open(self.path) as history:
                sessions = history.sessions(limit=_RECENT_SESSIONS)
                turns = [turn for session in sessions for turn in history.turns(session.id)]
        except HistoryError:  # which is told when something is to be kept
            return []
        asked = [turn for turn in turns if turn.role == "user"]
        return [turn.content for turn in sorted(asked, key=lambda turn: turn.id)]

    def _keep(self, path: Path, system: str | None, turns: Sequence[Turn], *, again: bool) -> None:
        from llmstream_cli.history.store import History

        with History.open(path) as history:
            if self.session_id is None:
                self.session_id = history.begin(self.name).id
            elif again:
                history.undo(self.session_id)
            said = [*turns]
            if system != self.system:
                said.insert(0, Turn(role="system", content=system or ""))
            for turn in said:
                history.append(self.session_id, turn)
        self.system = system


@dataclass(frozen=True, slots=True)
class Resumed:
    """A conversation to go on with.

    Attributes:
        conversation: what was said; nothing where it begins.
        model: what answered last, as `--model` takes it; "" where that is unknown.
        recorder: keeps what follows.
    """

    conversation: Conversation
    model: str
    recorder: Recorder


def resume(options: "RecordOptions") -> Resumed:
    """Return the conversation to go on with, or a new one.

    Raises:
        SessionNotFoundError: there is none to go on with.
        InvalidValueError: the name cannot be one.
        HistoryError: the file cannot be used.
    """
    config = load_config()
    path = None if options.no_history and not options.goes_on else history_path(config)
    if not options.goes_on:
        return Resumed(Conversation(), "", Recorder(path))
    if path is None:
        raise HistoryError(f"no conversations are kept: {why_no_history(config)}")
    session, turns = _read(options, path)
    conversation = Conversation.of(turns)
    recorder = Recorder(
        path=None if options.no_history else path,
        name=options.session,
        session_id=None if session is None else session.id,
        system=conversation.system,
    )
    return Resumed(conversation, "" if session is None else session.model, recorder)


def _read(options: "RecordOptions", path: Path) -> "tuple[Session | None, list[Turn]]":
    """Return the conversation and its turns; nothing of one that only has a name yet."""
    from llmstream_cli.history.store import History, check_name

    if exists(path):  # else nothing is to be made
        with History.open(path) as history:
            session = _find(options, history)
            if session is not None:
                return session, history.turns(session.id)
    if options.continue_ or options.session is None:
        raise SessionNotFoundError(f"no conversations are kept in {path}")
    check_name(options.session)
    return None, []


def _find(options: "RecordOptions", history: "History") -> "Session | None":
    if options.session is None:
        return history.latest()
    try:
        return history.find(options.session)
    except SessionNotFoundError:
        if options.continue_:
            raise
        return None
