"""A conversation as JSON and as markdown."""

import dataclasses
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from llmstream_cli.api import FinishReason
from llmstream_cli.history.records import Session, Turn

_SPEAKERS = {"system": "System", "user": "Question", "assistant": "Answer"}


def session_as_json(session: Session) -> dict[str, Any]:
    """Return a conversation without its turns, of what JSON knows; times are ISO 8601, in UTC."""
    return {name: _plain(value) for name, value in dataclasses.asdict(session).items()}


def turn_as_json(turn: Turn) -> dict[str, Any]:
    """Return a turn of what JSON knows; see `Turn` for the fields."""
    return {name: _plain(value) for name, value in dataclasses.asdict(turn).items()}


def as_json(session: Session, turns: Iterable[Turn]) -> dict[str, Any]:
    """Return a conversation of what JSON knows."""
    return {**session_as_json(session), "turns": [turn_as_json(turn) for turn in turns]}


def as_markdown(session: Session, turns: Iterable[Turn]) -> str:
    """Return a conversation as markdown, what was said as it was said."""
    blocks = [f"# {session.name or session.title or f'Conversation {session.id}'}"]
    for turn in turns:
        blocks += [_heading(turn), turn.content.strip("\n")]
        if turn.finish_reason is FinishReason.CANCELLED:
            blocks.append("*(interrupted)*")
    return "\n\n".join(block for block in blocks if block) + "\n"


def _heading(turn: Turn) -> str:
    speaker = _SPEAKERS[turn.role]
    return f"## {speaker} ({turn.model})" if turn.model else f"## {speaker}"


def _plain(value: object) -> object:
    return value.isoformat(timespec="seconds") if isinstance(value, datetime) else value
