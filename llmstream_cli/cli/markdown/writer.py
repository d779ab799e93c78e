"""The answer on a terminal: what is certain is printed, what is not is drawn behind the cursor.

The cursor stays where the certain text ends, and what is drawn from there on is erased before the
next piece: from the cursor to the end of the screen. So nothing has to be counted that a terminal
may break differently after a change of its size, and a line that was printed is never touched.
"""

import os
from collections.abc import Callable
from typing import TextIO

from llmstream_cli.cli.markdown.flow import Pen
from llmstream_cli.cli.markdown.page import Page
from llmstream_cli.cli.markdown.style import Palette
from llmstream_cli.cli.terminal import without_controls, write_through

_ERASE_RIGHT, _ERASE_BELOW = "\x1b[K", "\x1b[J"  # ECMA-48: EL, ED
# The same for a cursor at the beginning of a row: where that is the first one of the screen, tmux
# takes ED for an order to clear it, and keeps what is erased in the scrollback.
_ERASE_ROWS = "\x1b7\x1b[K\x1b[B\x1b[J\x1b8"
_SAVE_CURSOR, _RESTORE_CURSOR = "\x1b7", "\x1b8"  # DEC: DECSC, DECRC
# No frame in between is shown; terminals that do not know the first ignore it.
_BEGIN_UPDATE = "\x1b[?2026h\x1b[?25l"
_END_UPDATE = "\x1b[?25h\x1b[?2026l"

_DEFAULT_SIZE = os.terminal_size((80, 24))
_MIN_COLUMNS, _MIN_LINES = 10, 3  # below, nothing is drawn that is not certain


class MarkdownWriter:
    """Writes an answer piece by piece, rendered; the counterpart of `terminal.AnswerWriter`.

    Args:
        stream: a terminal that understands ECMA-48's control sequences.
        palette: the styles.
        size: tells the terminal's size.
    """

    def __init__(
        self,
        stream: TextIO,
        palette: Palette,
        size: Callable[[], os.terminal_size] | None = None,
    ) -> None:
        self._stream = stream
        self._get_size = size or (lambda: _terminal_size(stream))
        self._size = self._get_size()
        self._page = Page(palette, Pen(self._row_width()))
        self._drawn = ""  # behind the cursor
        self._resized = False  # since then
        self._column = 0  # of the cursor
        self._draft = ""  # all that is not certain, drawn or not
        self._in_flight = ""

    def write(self, text: str) -> None:
        """Write a piece.

        Raises:
            OutputError: it cannot be written.
        """
        text = without_controls(text)
        if not text:
            return
        self._follow_size()
        self._page.write(text)
        self._show()

    def end(self) -> None:
        """End the answer; leave the cursor at the beginning of a line."""
        self._follow_size()
        self._page.end()
        if self._page.pen.column:
            self._page.pen.end_row()
        self._show()

    def last_words(self) -> bytes:
        """Return what a signal handler writes before it ends the process.

        All of the answer is on the screen then, and the cursor below it, also when the handler
        has interrupted `write`. The terminal may have shown `^C` at the cursor.
        """
        if self._in_flight:
            text = f"{_END_UPDATE}\r\n{_ERASE_BELOW}{self._in_flight}{self._draft}\r\n"
        else:
            column = self._page.pen.column
            end = "\r\n" if column or self._draft else ""
            erase = _ERASE_BELOW if column else _ERASE_ROWS
            text = f"\x1b[{column + 1}G{erase}{self._draft}{end}"
        return self._encode(text)

    def _show(self) -> None:
        """Print what has become certain, and draw the rest."""
        erase = self._erasing()
        pen = self._page.pen
        certain, pen.text, pen.num_breaks = pen.text, "", 0
        draft = self._page.fork()
        draft.end()
        self._draft = draft.pen.text.removesuffix("\r\n")
        drawn = self._fitted(self._draft)
        if not certain and drawn == self._drawn and not self._resized:
            return
        frame = erase + certain + self._placed(drawn)
        if "\r\n" in self._drawn + drawn:
            frame = _BEGIN_UPDATE + frame + _END_UPDATE
        self._in_flight = certain or " "
        write_through(self._stream, self._encode(frame))
        self._in_flight = ""
        self._drawn, self._resized, self._column = drawn, False, pen.column

    def _erasing(self) -> str:
        """Return the sequence that erases what is drawn behind the cursor."""
        if not self._drawn:
            return ""
        if "\r\n" not in self._drawn and not self._resized:
            return _ERASE_RIGHT
        return _ERASE_BELOW if self._column else _ERASE_ROWS

    def _placed(self, drawn: str) -> str:
        """Return the sequence that draws behind the cursor and comes back."""
        if not drawn:
            return ""
        num_breaks = drawn.count("\r\n")
        if not num_breaks:
            return f"{_SAVE_CURSOR}{drawn}{_RESTORE_CURSOR}"
        return f"{drawn}\x1b[{num_breaks}A\x1b[{self._page.pen.column + 1}G"

    def _fitted(self, draft: str) -> str:
        """Return the last rows of what is not certain, as many as the screen can hold."""
        columns, lines = self._size
        if columns < _MIN_COLUMNS or lines < _MIN_LINES:
            return ""
        rows = draft.split("\r\n")
        if len(rows) < lines:
            return draft
        return "\r\n".join(["", *rows[2 - lines :]])

    def _follow_size(self) -> None:
        """Go on in a new row where the terminal has become too narrow for the current one."""
        size = self._get_size()
        if size == self._size:
            return
        self._size = size
        self._resized = True
        pen = self._page.pen
        pen.width = self._row_width()
        if pen.column > pen.width:
            pen.break_row()

    def _row_width(self) -> int:
        return max(self._size.columns, 2) - 1

    def _encode(self, text: str) -> bytes:
        return text.encode(self._stream.encoding, "replace")


def _terminal_size(stream: TextIO) -> os.terminal_size:
    try:
        size = os.get_terminal_size(stream.fileno())
    except OSError:
        return _DEFAULT_SIZE
    return size if size.columns and size.lines else _DEFAULT_SIZE
