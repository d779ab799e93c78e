"""Tables: rows of cells, and columns that fit into a terminal."""

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from llmstream_cli.cli.markdown.flow import Pen, Word, cells, words
from llmstream_cli.cli.markdown.inline import read_inline
from llmstream_cli.cli.markdown.style import BOLD, DIM, Palette, Run, combined

_DELIMITER = re.compile(r"[ ]*:?-+:?[ ]*")
_BAR = re.compile(r"(?<!\\)\|")
_STYLING = re.compile(r"\x1b\[[0-9;]*m")
_GAP = 2  # cells between columns
_MIN_COLUMN = 4  # cells; with less, a table is not worth its name

Cell = list[Word]


def split_row(source: str) -> list[str]:
    """Return the texts of a row's cells."""
    inner = source.strip(" ").removeprefix("|")
    if inner.endswith("|") and not inner.endswith("\\|"):
        inner = inner[:-1]
    return [cell.strip(" ").replace("\\|", "|") for cell in _BAR.split(inner)]


def is_delimiter(source: str, header: str) -> bool:
    """Tell whether a line makes the one before it the header of a table."""
    found = split_row(source)
    return len(found) == len(split_row(header)) and all(map(_DELIMITER.fullmatch, found))


@dataclass(frozen=True, slots=True)
class Columns:
    """How the columns of a table lie.

    Attributes:
        widths: in cells.
        right: which of them are aligned to the right.
    """

    widths: tuple[int, ...]
    right: tuple[bool, ...]


class Table:
    """The rows of a table, read once.

    Args:
        header: its first line.
        delimiter: its second line.
        palette: the styles.
    """

    def __init__(self, header: str, delimiter: str, palette: Palette) -> None:
        self.palette = palette
        aligned = split_row(delimiter)
        self._right = tuple(cell.endswith(":") and not cell.startswith(":") for cell in aligned)
        self._natural = [1] * len(aligned)  # widths in which no cell is broken
        self.num_chars = 0
        self.rows: list[list[Cell]] = []
        self.add(header, BOLD)

    def read(self, source: str, style: str = "") -> list[Cell]:
        """Return a row: as many cells as the header has."""
        texts = split_row(source)[: len(self._right)]
        texts += [""] * (len(self._right) - len(texts))
        return [self._cell(text, style) for text in texts]

    def add(self, source: str, style: str = "") -> None:
        """Add a row, and make room for it."""
        row = self.read(source, style)
        self.num_chars += len(source)
        self.rows.append(row)
        self._natural = [*map(max, self._natural, map(_cell_width, row))]

    def fork(self) -> "Table":
        """Return a copy; rows that it gets are its own."""
        other = copy.copy(self)
        other.rows = [*self.rows]
        return other

    def columns(self, width: int) -> Columns | None:
        """Return the columns that the rows need; None if they cannot fit into that width."""
        natural = self._natural
        room = width - _GAP * (len(natural) - 1)
        if room < _MIN_COLUMN * len(natural) and sum(natural) > room:
            return None
        return Columns(tuple(_shrunk(natural, room)), self._right)

    def _cell(self, text: str, style: str) -> Cell:
        runs = read_inline(text, self.palette)
        return words(Run(run.text, combined(style, run.style)) for run in runs)[0]


def put_row(pen: Pen, row: Sequence[Cell], columns: Columns | None, palette: Palette) -> None:
    """Write a row from where the pen is, in as many rows of the terminal as it takes.

    Args:
        pen: has begun a line.
        row: its cells.
        columns: how they lie; None writes one cell after the other.
        palette: the styles.
    """
    if columns is None:
        for index, cell in enumerate(row):
            if index:
                pen.put_words([Word((Run(palette.bar, DIM),), 1, spaced=True)])
            pen.put_words(word._replace(spaced=True) for word in cell)
        return
    wrapped = [_wrap(cell, width) for cell, width in zip(row, columns.widths, strict=True)]
    for index, parts in enumerate(zip_longest(*wrapped, fillvalue="")):
        if index:
            pen.break_row()
        _put_parts(pen, parts, columns)


def put_rule(pen: Pen, columns: Columns, palette: Palette) -> None:
    """Write the line under the header."""
    pen.break_row()
    pen.put(Run((" " * _GAP).join(palette.rule * width for width in columns.widths), DIM))


def _put_parts(pen: Pen, parts: Sequence[str], columns: Columns) -> None:
    """Write one line of each cell, without spaces behind the last."""
    padding = 0
    for part, width, right in zip(parts, columns.widths, columns.right, strict=True):
        missing = max(0, width - cells(_STYLING.sub("", part)))
        if part:
            pen.put(Run(" " * (padding + missing * right)))
            pen.put_styled(part, width - missing)
            padding = 0
        padding += missing * (not right or not part) + _GAP


def _wrap(cell: Cell, width: int) -> list[str]:
    """Return the lines of a cell, with their styles."""
    pen = Pen(width)
    pen.put_words(cell)
    return pen.text.split("\r\n")


def _cell_width(cell: Cell) -> int:
    return sum(word.width for word in cell) + sum(word.spaced for word in cell[1:])


def _shrunk(natural: Sequence[int], room: int) -> list[int]:
    """Take from the widest columns until all fit."""
    widths = [*natural]
    while (excess := sum(widths) - room) > 0:
        widest = max(widths)
        wide = [index for index, width in enumerate(widths) if width == widest]
        next_widest = max((width for width in widths if width < widest), default=0)
        take = min(excess, (widest - next_widest) * len(wide))
        for order, index in enumerate(wide):
            widths[index] -= take // len(wide) + (order < take % len(wide))
    return widths
