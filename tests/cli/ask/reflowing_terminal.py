"""A terminal that does what most do when its size changes: it breaks long lines anew.

It knows the sequences that answers are written with, and raises on any other.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from rich.cells import cell_len as cells

_SEQUENCE = re.compile(r"\x1b(?:\[([?0-9;]*)([A-Za-z])|([78]))")
_MODES = {"?25h", "?25l", "?2026h", "?2026l"}


@dataclass
class _Row:
    cells: list[str] = field(default_factory=list)  # "" is the right half of a wide character
    continues: bool = False  # the row before it


class ReflowingTerminal:
    """Rows of cells, those above the screen included, and a cursor.

    Args:
        columns: of the screen.
        lines: of the screen.
    """

    def __init__(self, columns: int, lines: int) -> None:
        self.columns, self.lines = columns, lines
        self.rows = [_Row()]
        self.row = self.column = 0
        self._top = 0  # the first row of the screen; those above are the scrollback
        self._saved = 0, 0

    @property
    def text(self) -> str:
        """All lines, those joined that only the terminal has broken."""
        return "\n".join("".join(line).rstrip() for line in self._logical_lines()).rstrip()

    def feed(self, data: bytes) -> None:
        text = data.decode()
        position = 0
        while position < len(text):
            if text[position] == "\x1b":
                match = _SEQUENCE.match(text, position)
                assert match is not None, text[position : position + 10]
                self._obey(match[1] or "", match[2] or match[3])
                position = match.end()
            else:
                self._put(text[position])
                position += 1

    def resize(self, columns: int, lines: int) -> None:
        """Break all lines anew; the cursor stays at its character, and on the screen."""
        cursor_line, offset = self._locate_cursor()
        lines_before = [*self._logical_lines()]
        self.columns, self.lines = columns, lines
        self.rows = []
        for number, line in enumerate(lines_before):
            first_row = len(self.rows)
            self._break(line)
            if number == cursor_line:
                self._place_cursor(first_row, offset)
        del self.rows[self.row + self.lines :]
        self._top = max(0, len(self.rows) - self.lines)

    def _obey(self, parameters: str, final: str) -> None:
        if final == "7":
            self._saved = self.row - self._top, self.column
        elif final == "8":
            self.row, self.column = self._saved[0] + self._top, self._saved[1]
        elif final in "JK":
            assert parameters == ""
            at_home = (self.row, self.column) == (self._top, 0)
            assert final == "K" or not at_home, "tmux would keep what is erased"
            del self.rows[self.row].cells[self._erased_from() :]
            if final == "J":
                del self.rows[self.row + 1 :]
        elif final == "B":
            assert parameters == ""
            if self.row + 1 < self._top + self.lines:
                self.row += 1
                if self.row == len(self.rows):
                    self.rows.append(_Row())
        elif final == "A":
            self.row = max(self._top, self.row - int(parameters))
        elif final == "G":
            self.column = min(int(parameters), self.columns) - 1
        else:
            assert final == "m" or parameters + final in _MODES, parameters + final

    def _put(self, character: str) -> None:
        if character == "\r":
            self.column = 0
        elif character == "\n":
            self.row += 1
            if self.row == len(self.rows):
                self.rows.append(_Row())
            self._top = max(self._top, self.row + 1 - self.lines)
        else:
            assert character.isprintable() or cells(character) == 0, repr(character)
            self._put_cells(character, cells(character))

    def _put_cells(self, character: str, width: int) -> None:
        row = self.rows[self.row]
        if not width:  # joins the character before it
            place = max(self.column - 1, 0)
            while place and row.cells[place] == "":
                place -= 1
            if row.cells:
                row.cells[place] += character
            return
        if self.column + width > self.columns:
            self._put("\r")
            self._put("\n")
            row = self.rows[self.row]
            row.continues = True
        row.cells += [" "] * (self.column - len(row.cells))
        row.cells[self.column : self.column + width] = [character, *[""] * (width - 1)]
        self.column += width

    def _erased_from(self) -> int:
        """A cursor that waits behind the last column is on it."""
        return min(self.column, self.columns - 1)

    def _logical_lines(self) -> Iterator[list[str]]:
        line: list[str] | None = None
        for row in self.rows:
            if line is not None and row.continues:
                line += row.cells
                continue
            if line is not None:
                yield line
            line = [*row.cells]
        assert line is not None
        yield line

    def _locate_cursor(self) -> tuple[int, int]:
        first = self.row
        while self.rows[first].continues:
            first -= 1
        number = sum(not row.continues for row in self.rows[: first + 1]) - 1
        offset = sum(len(row.cells) for row in self.rows[first : self.row])
        return number, offset + self.column

    def _break(self, line: list[str]) -> None:
        row = _Row()
        self.rows.append(row)
        for index, cell in enumerate(line):
            width = 2 if index + 1 < len(line) and line[index + 1] == "" else 1
            if cell and len(row.cells) + width > self.columns:
                row = _Row(continues=True)
                self.rows.append(row)
            row.cells.append(cell)

    def _place_cursor(self, first_row: int, offset: int) -> None:
        self.row = first_row
        while self.row + 1 < len(self.rows) and offset >= len(self.rows[self.row].cells):
            offset -= len(self.rows[self.row].cells)
            self.row += 1
        self.column = min(offset, self.columns - 1)
