"""What is kept of a conversation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import zip_longest
from typing import Any

from llmstream_cli.api import FinishReason, Usage
from llmstream_cli.prompts.messages import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What one side said.

    Attributes:
        role: who.
        content: what.
        reasoning: what the model thought before it answered.
        model: the name of the model that answered; "" for other turns.
        finish_reason: why the answer ended; `CANCELLED` is one that was interrupted, of which
            `content` is what had come. None for other turns.
        usage: what the answer cost, where that is known.
        sampling: how the answer was drawn, by the names of `SamplingParams`; what the user set, or
            all that held.
        created: when it was said.
        id: grows from turn to turn; 0 until it is kept.
    """

    role: Role
    content: str
    reasoning: str = ""
    model: str = ""
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    id: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A conversation, without its turns.

    Attributes:
        id: a number that no other conversation ever had.
        name: what the user calls it; None if nothing.
        title: the first question in a line, cut; "" before it is asked.
        model: the name of the model that answered last; "" before it did.
        created: when it began.
        updated: when it last changed.
        num_turns: how many turns it has.
    """

    id: int
    name: str | None
    title: str
    model: str
    created: datetime
    updated: datetime
    num_turns: int


@dataclass(frozen=True, slots=True)
class Hit:
    """A turn that a search found.

    Attributes:
        session: where it was said.
        turn: the whole turn.
        excerpt: a line of it, around the first word that was sought.
    """

    session: Session
    turn: Turn
    excerpt: str


def answered(turns: Sequence[Turn]) -> list[Turn]:
    """Return what a model is shown of a conversation that goes on.

    A question that got no word of an answer is left out: after a crash or an interruption the user
    asks it anew, and chat templates want the roles to take turns.
    """
    shown = []
    for turn, following in zip_longest(turns, turns[1:]):
        is_answered = (
            following is not None and following.role == "assistant" and following.content != ""
        )
        if {"system": True, "user": is_answered, "assistant": turn.content != ""}[turn.role]:
            shown.append(turn)
    return shown
