"""A conversation: what was said, kept in the history whenever an answer has ended."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from llmstream_cli.cli.config.file import history_path, load_config, why_no_history
from llmstream_cli.cli.process import uninterrupted
from llmstream_cli.cli.terminal import write_stderr
from llmstream_cli.errors import HistoryError, InvalidValueError, SessionNotFoundError, one_line
from llmstream_cli.files import exists
from llmstream_cli.history.records import Turn, answered
from llmstream_cli.prompts.messages import Message

if TYPE_CHECKING:
    from llmstream_cli.cli.ask.options import RecordOptions

_RECENT_QUESTIONS = 500


@dataclass(slots=True)
class Conversation:
    """The turns so far, of the user and the assistant in turn, the user's first.

    It begins in the file with its first answer. What fails there is told in a line and ends
    nothing: the answer is there. SQLite is imported with the first answer, and not before.
    """

    system: str | None = None  # None leaves it to the model's template
    turns: list[Turn] = field(default_factory=list)
    path: Path | None = None  # the file; None keeps nothing
    name: str | None = None
    session_id: int | None = None  # None while nothing of it is kept
    model: str = ""  # that answered last, as `--model` takes it; "" where that is unknown
    kept_system: str | None = None  # the system message in the file

    def asking(self, question: str, *, again: bool = False) -> tuple[Message, ...]:
        """Return all that was said, and a question; asked again, it replaces the last one."""
        turns = self.turns[: self._last_question()] if again else self.turns
        system = () if self.system is None else (Message("system", self.system),)
        said = (Message(turn.role, turn.content) for turn in turns)
        return *system, *said, Message("user", question)

    @property
    def last_question(self) -> str | None:
        """What was asked last; None before the first question."""
        at = self._last_question()
        return None if at is None else self.turns[at].content

    def keep(self, turns: Sequence[Turn], *, again: bool = False) -> None:
        """Add a question and its answer; asked again, they replace the last ones."""
        if again:
            del self.turns[self._last_question() :]
        self.turns += turns
        if self.path is None:
            return
        from llmstream_cli.history.store import History

        try:
            with History(self.path) as history:
                if self.session_id is None:
                    self.session_id = history.begin(self.name)
                elif again:
                    history.undo(self.session_id)
                if self.system != self.kept_system:
                    history.append(self.session_id, Turn(role="system", content=self.system or ""))
                for turn in turns:
                    history.append(self.session_id, turn)
            self.kept_system = self.system
        except (HistoryError, InvalidValueError) as error:
            write_stderr(f"llmstream: this is not kept: {one_line(error)}\n")

    def undo(self) -> str | None:
        """Take the last question back, with its answer; return it, or None if there is none."""
        question = self.last_question
        if question is None:
            return None
        del self.turns[self._last_question() :]
        if self.path is not None and self.session_id is not None:
            from llmstream_cli.history.store import History

            try:
                with uninterrupted(), History(self.path) as history:
                    history.undo(self.session_id)
            except HistoryError as error:
                write_stderr(f"llmstream: this is still kept: {one_line(error)}\n")
        return question

    def clear(self) -> None:
        """Begin another conversation, with the same system message."""
        self.turns = []
        self.name = self.session_id = self.kept_system = None

    def recent_questions(self) -> list[str]:
        """Return what was asked of late, in all conversations, the latest last."""
        if self.path is None or not exists(self.path):
            return []
        from llmstream_cli.history.store import History

        try:
            with History(self.path) as history:
                return history.recent_questions(_RECENT_QUESTIONS)
        except HistoryError:  # which is told when something is to be kept
            return []

    def _last_question(self) -> int | None:
        return next((at for at in reversed(range(len(self.turns))) if self._asks(at)), None)

    def _asks(self, at: int) -> bool:
        return self.turns[at].role == "user"


def resume(options: "RecordOptions") -> Conversation:
    """Return the conversation to go on with, or a new one.

    Raises:
        SessionNotFoundError: there is none to go on with.
        InvalidValueError: the name cannot be one.
        HistoryError: the file cannot be used.
    """
    config = load_config()
    path = None if options.no_history and not options.goes_on else history_path(config)
    if not options.goes_on:
        return Conversation(path=path)
    if path is None:
        raise HistoryError(f"no conversations are kept: {why_no_history(config)}")
    from llmstream_cli.history.store import History, check_name

    conversation = Conversation(path=None if options.no_history else path, name=options.session)
    try:
        if not exists(path):  # to read the history does not make one
            raise SessionNotFoundError(f"no conversations are kept in {path}")
        with History(path) as history:
            session = history.find(options.session)
            turns = history.turns(session.id)
    except SessionNotFoundError:
        if options.continue_ or options.session is None:
            raise
        check_name(options.session)
        return conversation
    system = [turn.content for turn in turns if turn.role == "system"]
    if system:  # the last one holds; one without text takes back those before it
        conversation.system = conversation.kept_system = system[-1] or None
    conversation.turns = answered([turn for turn in turns if turn.role != "system"])
    conversation.session_id, conversation.model = session.id, session.model
    return conversation
