"""The turns of a conversation."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

Role = Literal["system", "user", "assistant"]

# How a prompt ends: with the assistant's turn opened, with the last message left open for the
# answer to go on with, or with neither.
Ending = Literal["turn", "message", "closed"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `content` is what its author wrote and never becomes a control token."""

    role: Role
    content: str


def fold_system(messages: Sequence[Message]) -> list[Message]:
    """Put each system message before the text of the user's next turn, an empty line between.

    So Mistral and Google do it, whose models know no system role. One that no turn of the user
    follows becomes a turn of its own.
    """
    folded: list[Message] = []
    waiting: list[str] = []
    for message in messages:
        if message.role == "system":
            waiting.append(message.content)
        elif message.role == "user":
            folded.append(Message("user", "\n\n".join([*waiting, message.content])))
            waiting = []
        else:
            folded.append(message)
    if waiting:
        folded.append(Message("user", "\n\n".join(waiting)))
    return folded


def lead_with_system(messages: Sequence[Message]) -> list[Message]:
    """Join the system messages at the beginning to one, and fold those that come later."""
    count = next((n for n, m in enumerate(messages) if m.role != "system"), len(messages))
    return [*merge_neighbours(messages[:count]), *fold_system(messages[count:])]


def merge_neighbours(messages: Sequence[Message]) -> list[Message]:
    """Join messages in a row that have one role, an empty line between."""
    return [
        Message(role, "\n\n".join(message.content for message in turns))
        for role, turns in groupby(messages, key=lambda message: message.role)
    ]
