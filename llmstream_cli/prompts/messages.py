"""The turns of a conversation."""

from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `content` is what its author wrote and never becomes a control token."""

    role: Role
    content: str
