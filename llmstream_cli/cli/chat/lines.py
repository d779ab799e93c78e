"""Where the lines of a chat come from: an editor on a terminal, or whatever is piped in.

Text of several lines stands between triple quotes. What `read` returns may be that, or one line.
"""

from typing import BinaryIO, TextIO

from llmstream_cli.cli.terminal import write_stderr
from llmstream_cli.files import decode, notice_wait

PROMPT, CONTINUATION = ">>> ", "... "
MAX_LINE_BYTES = 16 * 1024 * 1024

_QUOTES = '"""'


class PipedLines:
    """Lines from a pipe or a file, in UTF-8, or from a terminal that can do no more.

    Args:
        stream: what they are read from.
        prompt_on: a terminal that is told when a line is wanted.
    """

    def __init__(self, stream: BinaryIO, prompt_on: TextIO | None = None) -> None:
        self._stream = stream
        self._screen = prompt_on
        self._is_told = prompt_on is not None  # of the wait for the first line

    def read(self) -> str:
        """Return the next text; quotes that are never closed end with the input.

        Raises:
            EOFError: there is no more.
            InvalidValueError: it is no text, or too long.
        """
        text = self._read_line(PROMPT)
        while is_open(text):
            try:
                text += "\n" + self._read_line(CONTINUATION)
            except EOFError:
                break
        return text

    def _read_line(self, prompt: str) -> str:
        if self._screen is not None:
            self._screen.write(prompt)
            self._screen.flush()
        with notice_wait(self._tell_wait):
            data = self._stream.readline(MAX_LINE_BYTES + 1)
        self._is_told = True
        if not data:
            raise EOFError
        return decode(data, MAX_LINE_BYTES, "a line").rstrip("\r\n")

    def _tell_wait(self) -> None:
        if not self._is_told:
            write_stderr("llmstream: waiting for a question on standard input\n")


def is_open(text: str) -> bool:
    """Tell whether a text begins with triple quotes and has not come to those that close it."""
    bare = text.strip()
    is_closed = len(bare) >= 2 * len(_QUOTES) and bare.endswith(_QUOTES)
    return bare.startswith(_QUOTES) and not is_closed


def without_quotes(text: str) -> str:
    """Return what stands between triple quotes, or the text itself where there are none."""
    bare = text.strip()
    if not bare.startswith(_QUOTES):
        return bare
    return bare.removeprefix(_QUOTES).removesuffix(_QUOTES).strip("\r\n")
