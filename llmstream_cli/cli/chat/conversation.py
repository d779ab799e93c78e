"""A conversation: who said what, and what can be taken back."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from llmstream_cli.history.records import Turn, answered
from llmstream_cli.prompts.messages import Message


@dataclass(slots=True)
class Conversation:
    """The turns so far, of the user and the assistant by turns, the user's first.

    Attributes:
        system: the system message before them; None leaves it to the model's template.
        turns: what was said.
    """

    system: str | None = None
    turns: list[Turn] = field(default_factory=list)

    @classmethod
    def of(cls, turns: Sequence[Turn]) -> "Conversation":
        """Make a conversation of turns that were kept; the last system message holds.

        One without text takes back those before it.
        """
        system = [turn.content for turn in turns if turn.role == "system"]
        said = [turn for turn in turns if turn.role != "system"]
        return cls(system[-1] or None if system else None, answered(said))

    @property
    def messages(self) -> tuple[Message, ...]:
        """All of it, as a model takes it."""
        said = tuple(Message(turn.role, turn.content) for turn in self.turns)
        return said if self.system is None else (Message("system", self.system), *said)

    def asking(self, question: str) -> tuple[Message, ...]:
        """Return all of it and a further question, which does not become a part of it."""
        return *self.messages, Message("user", question)

    def undo(self) -> str | None:
        """Take the last question back, with its answer; return it, or None if there is none."""
        while self.turns:
            turn = self.turns.pop()
            if turn.role == "user":
                return turn.content
        return None
