"""One answer as a terminal shows it: what is waited for, what the model thinks, what it says."""

import sys
from typing import TYPE_CHECKING

from llmstream_cli.cli.process import write_at_interrupt
from llmstream_cli.cli.thoughts import ThoughtWriter
from llmstream_cli.cli.waiting import WaitingLine

if TYPE_CHECKING:
    from llmstream_cli.cli.markdown.writer import MarkdownWriter
    from llmstream_cli.cli.terminal import AnswerWriter
    from llmstream_cli.core.api import Chunk


class AnswerView:
    """Shows an answer while its chunks come; the three never mix on one terminal.

    Ctrl-C leaves all that was shown of it, and erases the wait.

    Args:
        writer: of the text; see `markdown.answer_writer`.
        waiting: has begun to wait.
        shows_thoughts: write the reasoning to standard error; else it is waited for.
    """

    def __init__(
        self,
        writer: "AnswerWriter | MarkdownWriter",
        waiting: WaitingLine,
        *,
        shows_thoughts: bool = True,
    ) -> None:
        self._writer = writer
        self._waiting = waiting
        self._thoughts = ThoughtWriter(sys.stderr) if shows_thoughts else None
        self._is_thinking = False
        write_at_interrupt(1, writer.last_words)
        write_at_interrupt(2, waiting.last_words)

    def show(self, chunk: "Chunk") -> None:
        """Show what a chunk brings.

        Raises:
            BrokenPipeError: the reader of the pipe has left.
            OutputError: the text cannot be written.
        """
        if chunk.progress is not None:
            self._waiting.follow(chunk.progress)
        if chunk.reasoning:
            self._think(chunk.reasoning)
        if chunk.text:
            self._settle()
            self._writer.write(chunk.text)

    def end(self) -> None:
        """End the answer, complete or not, with the cursor at the beginning of a line."""
        self._settle()
        self._writer.end()

    def _think(self, text: str) -> None:
        if self._thoughts is not None:
            self._waiting.end()
            self._thoughts.write(text)
        elif not self._is_thinking:
            self._waiting.begin("thinking")
        self._is_thinking = True

    def _settle(self) -> None:
        """Leave standard error, as the text comes now. Void when called again."""
        self._waiting.end()
        if self._thoughts is not None:
            self._thoughts.end()
