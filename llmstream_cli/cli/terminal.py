"""Standard input and output: what a terminal may see, and what a pipe gets."""

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import TextIO

from llmstream_cli.cli.process import cancelled_by_interrupt
from llmstream_cli.errors import InvalidValueError, LLMStreamError, OutputError, one_line
from llmstream_cli.files import decode, notice_wait, read_text

MAX_INPUT_BYTES = 16 * 1024 * 1024
_MAX_COLUMN_WIDTH = 24

_WAITING = (
    "llmstream: waiting for the end of standard input, which belongs to the question; "
    "`</dev/null` leaves it out\n"
)

# A model, or the text it was given, can hold the sequences that move a terminal's cursor, set its
# title or fill its clipboard. What is shown there keeps its line breaks and tabs, and no controls.
_UNSAFE = dict.fromkeys((*range(9), *range(11, 32), *range(127, 160)), None)
_ESCAPED = {code: f"\\u{code:04x}" for code in range(127, 160)}  # json does so with the others


def without_controls(text: str) -> str:
    """Return what of a text may be shown on a terminal."""
    return text.translate(_UNSAFE)


def shows_sequences(stream: TextIO | None) -> bool:
    """Tell whether a stream is a terminal that obeys control sequences."""
    if stream is None or not stream.isatty():
        return False
    if os.name == "nt":  # the old console window only does when it is told to
        return any(name in os.environ for name in ("WT_SESSION", "TERM_PROGRAM", "ConEmuANSI"))
    return os.environ.get("TERM", "dumb") not in {"dumb", "unknown"}


def print_json(content: object) -> None:
    """Print what a program reads, indented for people as well."""
    import json

    text = json.dumps(content, ensure_ascii=False, indent=2, allow_nan=False)
    sys.stdout.write(text.translate(_ESCAPED) + "\n")


def write_stderr(text: str) -> None:
    """Write to standard error. Nobody may listen there: the answer matters more."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # full, closed, or None
        sys.stderr.write(text)
        sys.stderr.flush()


def check_text(text: str, name: str, error: type[LLMStreamError] = InvalidValueError) -> str:
    """Return a text from outside; bytes that were no UTF-8, which lone surrogates tell, raise."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as problem:
        raise error(f"{name} is not UTF-8 text: character {problem.start + 1}") from problem
    return text


def read_file(
    name: str,
    max_bytes: int,
    *,
    prefix: str = "",
    error: type[LLMStreamError] = InvalidValueError,
) -> str:
    """Return the text of a file that an option names, which may be a pipe; see `read_text`."""

    def tell() -> None:
        write_stderr(f"llmstream: {prefix}waiting for the end of {one_line(name)}\n")

    return read_text(name, max_bytes, prefix=prefix, error=error, on_wait=tell)


def read_piped_input(*, strip: bool = True) -> str:
    """Return what is piped to standard input.

    A terminal, or an input that cannot be read (closed, or opened by nohup for writing), is none.
    """
    if sys.stdin is None or sys.stdin.isatty():
        return ""
    try:
        with notice_wait(lambda: write_stderr(_WAITING)):
            data = sys.stdin.buffer.read(MAX_INPUT_BYTES + 1)
    except OSError:
        return ""
    text = decode(data, MAX_INPUT_BYTES, "standard input")
    return text.strip() if strip else text


def discard_output() -> None:
    """Send what is still buffered nowhere, else the interpreter complains when it flushes it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def write_through(stream: TextIO, data: bytes) -> None:
    """Write a part of an answer, past all buffers.

    Raises:
        BrokenPipeError: the reader of the pipe has left.
        OutputError: it cannot be written, to a full disk for one.
    """
    try:
        with cancelled_by_interrupt(stream):
            stream.buffer.write(data)
            stream.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        discard_output()
        raise OutputError(f"cannot write the answer: {error.strerror}") from error


class AnswerWriter:
    """Writes an answer piece by piece, each flushed.

    A pipe or a file gets the text as it is, in UTF-8. A terminal gets it without control
    characters, in its own encoding, and at the end the cursor at the beginning of a line.
    """

    def __init__(self, stream: TextIO | None) -> None:
        if stream is None:
            raise OutputError("cannot write the answer: standard output is closed")
        self._stream = stream
        self._terminal = stream.isatty()
        self._at_line_start = True

    def write(self, text: str) -> None:
        if not text:
            return
        if self._terminal:
            text = without_controls(text)
        self._at_line_start = text.endswith("\n") if text else self._at_line_start
        encoding = self._stream.encoding if self._terminal else "utf-8"
        write_through(self._stream, text.encode(encoding, "replace"))

    def end(self, *, cut: bool = False) -> None:
        """Leave a terminal's cursor at the beginning of a line; it has shown ^C after a `cut`."""
        if self._terminal and (cut or not self._at_line_start):
            write_through(self._stream, os.linesep.encode())
            self._at_line_start = True


# ---- tables ---------------------------------------------------------------------------------


def aligned(rows: Sequence[Sequence[str]], *, gap: int = 2, right: bool = False) -> str:
    """Return rows as lines, their cells under each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        (" " * gap).join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width in zip(row, widths, strict=True)
        )
        for row in rows
    )
    return "".join(f"{line.rstrip()}\n" for line in lines)


def print_table(headings: list[str], rows: list[list[str]]) -> None:
    """Print a table to a terminal; elsewhere columns of words, of which the last has spaces."""
    rows = [[without_controls(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        words = [[cell.replace(" ", "_") for cell in row[:-1]] + row[-1:] for row in rows]
        AnswerWriter(sys.stdout).write(aligned([headings, *words]))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in headings[:-1]:
        table.add_column(heading, no_wrap=True, overflow="ellipsis", max_width=_MAX_COLUMN_WIDTH)
    table.add_column(headings[-1])  # the only one that may become narrower
    for row in rows:
        table.add_row(*map(Text, row[:-1]), Text(row[-1], no_wrap=True, overflow="ellipsis"))
    Console(file=sys.stdout, highlight=False, markup=False).print(table)
