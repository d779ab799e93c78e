"""What is kept of a conversation, and how it is written as JSON and as markdown."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import zip_longest
from typing import Any

from llmstream_cli.api import FinishReason, Usage
from llmstream_cli.prompts.messages import Role

_SPEAKERS = {"system": "System", "user": "Question", "assistant": "Answer"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What one side said; the fields after `content` tell of an answer only."""

    role: Role
    content: str
    reasoning: str = ""
    model: str = ""
    finish_reason: FinishReason | None = None  # CANCELLED: `content` is what had come by then
    usage: Usage | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)  # by the names of SamplingParams
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    id: int = 0  # grows from turn to turn; 0 until it is kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A conversation, without its turns."""

    id: int  # no other conversation ever had it
    name: str | None
    title: str  # the first question as one line, cut; "" before it is asked
    model: str  # that answered last; "" before it did
    created: datetime
    updated: datetime
    num_turns: int


@dataclass(frozen=True, slots=True)
class Hit:
    """A turn that a search found, and a line of it around the first word that was sought."""

    session: Session
    turn: Turn
    excerpt: str


def answered(turns: Sequence[Turn]) -> list[Turn]:
    """Leave out questions without an answer, and answers without a word.

    After a crash or an interruption the user asks anew, and chat templates want the roles to take
    turns.
    """
    shown: list[Turn] = []
    for turn, following in zip_longest(turns, turns[1:]):
        is_question = turn.role == "user"
        answer = following if is_question else turn
        if turn.role == "system" or (answer and answer.role == "assistant" and answer.content):
            shown.append(turn)
    return shown


def as_json(record: Turn | Session | Hit) -> dict[str, Any]:
    """Return a record by the names of its fields; times are ISO 8601, in UTC."""

    def plain(value: object) -> object:
        return value.isoformat(timespec="seconds") if isinstance(value, datetime) else value

    return asdict(record, dict_factory=lambda pairs: {name: plain(value) for name, value in pairs})


def as_markdown(session: Session, turns: Iterable[Turn]) -> str:
    """Return a conversation as markdown, what was said as it was said."""
    blocks = [f"# {session.name or session.title or f'Conversation {session.id}'}"]
    for turn in turns:
        model = f" ({turn.model})" if turn.model else ""
        blocks += [f"## {_SPEAKERS[turn.role]}{model}", turn.content.strip("\n")]
        if turn.finish_reason is FinishReason.CANCELLED:
            blocks.append("*(interrupted)*")
    return "\n\n".join(block for block in blocks if block) + "\n"
