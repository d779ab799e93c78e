"""What is asked: the words of a command line, files, standard input, a text from an editor."""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from llmstream_cli.cli.prompt import context_message
from llmstream_cli.cli.terminal import read_piped_input
from llmstream_cli.errors import InvalidValueError


class Question(NamedTuple):
    """Where the question comes from; see the options of `ask` for each attribute."""

    words: Sequence[str] = ()
    files: Sequence[str] = ()
    in_editor: bool = False
    raw: bool = False

    @property
    def is_absent(self) -> bool:
        """Whether a person sits at a terminal and has not asked yet."""
        given = self.words or self.files or self.in_editor
        return not given and sys.stdin is not None and sys.stdin.isatty()

    @contextlib.contextmanager
    def written(self) -> Iterator[str]:
        """Give the block the whole question, which the editor keeps if the block fails.

        Raises:
            InvalidValueError: there is none, or a part of it is too long or no text.
            EditorError: the editor failed, or left nothing.
        """
        text = self._text()
        if self.in_editor:
            from llmstream_cli.cli.editor import edited

            with edited(text) as question:
                yield question
        elif not (text if self.raw else text.strip()):
            raise InvalidValueError("there is no question; give one or pipe it to standard input")
        else:
            yield text

    def _text(self) -> str:
        words = " ".join(self.words)
        piped = read_piped_input(strip=not self.raw)
        question = "\n\n".join(filter(None, (words, piped)))
        if not self.files:
            return question
        from llmstream_cli.cli.attachments import attach

        return attach(question, self.files)


def system_message(system: str | None, context: str | None) -> str | None:
    """Return the system message that `--system` or `--context` gives; None where neither does.

    Raises:
        InvalidValueError: both do, or the context is unknown.
    """
    if system is not None and context is not None:
        raise InvalidValueError("--system and --context both give the system message")
    if context is not None:
        return context_message(context)
    return system
