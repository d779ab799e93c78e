"""The turns of a conversation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant"]


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
