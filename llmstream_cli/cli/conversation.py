"""A conversation: who said what, and what can be taken back."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from llmstream_cli.prompts.messages import Message


@dataclass(slots=True)
class Conversation:
    """The turns so far, of the user and the assistant by turns, the user's first.

    Attributes:
        system: the system message before them; None leaves it to the model's template.
        turns: what was said.
    """

    system: str | None = None
    turns: list[Message] = field(default_factory=list)

    @classmethod
    def of(cls, messages: Iterable[Message]) -> "Conversation":
        """Make a conversation of messages, of which the first may be the system's."""
        turns = list(messages)
        system = turns.pop(0).content if turns and turns[0].role == "system" else None
        return cls(system, turns)

    @property
    def messages(self) -> tuple[Message, ...]:
        """All of it, as a model takes it."""
        if self.system is None:
            return tuple(self.turns)
        return Message("system", self.system), *self.turns

    def asking(self, question: str) -> tuple[Message, ...]:
        """Return all of it and a further question, which does not become a part of it."""
        return *self.messages, Message("user", question)

    def add(self, question: str, answer: str) -> None:
        """Add a question and what was answered, be it cut."""
        self.turns += [Message("user", question), Message("assistant", answer)]

    def undo(self) -> str | None:
        """Take the last question back, with its answer; return it, or None if there is none."""
        while self.turns:
            turn = self.turns.pop()
            if turn.role == "user":
                return turn.content
        return None
