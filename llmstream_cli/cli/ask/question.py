"""What is asked: the words of a command line, files, standard input, a text from an editor."""

import contextlib
import sys
from collections.abc import Iterator, Sequence

from llmstream_cli.cli.options import AskOptions
from llmstream_cli.cli.terminal import read_piped_input
from llmstream_cli.errors import InvalidValueError


def nobody_asks(words: Sequence[str], how: AskOptions) -> bool:
    """Tell whether a person sits at a terminal and has not asked yet."""
    given = words or how.attach or how.edit
    return not given and sys.stdin is not None and sys.stdin.isatty()


@contextlib.contextmanager
def whole_question(words: Sequence[str], how: AskOptions) -> Iterator[str]:
    """Give the block the whole question, which the editor keeps if the block fails.

    Raises:
        InvalidValueError: there is none, or a part of it is too long or no text.
        EditorError: the editor failed, or left nothing.
    """
    piped = read_piped_input(strip=not how.raw)
    text = "\n\n".join(filter(None, (" ".join(words), piped)))
    if how.attach:
        from llmstream_cli.cli.ask.attachments import attach

        text = attach(text, how.attach)
    if how.edit:
        from llmstream_cli.cli.ask.editor import edited

        with edited(text) as question:
            yield question
    elif not (text if how.raw else text.strip()):
        raise InvalidValueError("there is no question; give one or pipe it to standard input")
    else:
        yield text
