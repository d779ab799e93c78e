"""Words in rows: where a line of text is broken to fit, and where the cursor is then."""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

from llmstream_cli.cli.markdown.style import Run

_WHITE_SPACE = " \t\n"
_WIDE = 2  # cells
# What must not stand at the beginning of a row: punctuation that closes, marks of repetition.
_CLOSING = {"Pe", "Pf", "Po", "Lm"}
_PARTS = re.compile(r"[ \t\n]+|[^ \t\n]+")


def cells(text: str) -> int:
    """Return how many columns a text takes.

    Each character counts alone: terminals do not agree on which sequences of emoji they join, and
    a row that is thought too long only breaks early.
    """
    if text.isascii():
        return len(text)
    return sum(map(_character_cells, text))


@lru_cache(8192)
def _character_cells(character: str) -> int:
    from rich.cells import get_character_cell_size  # with the first character that needs it

    return get_character_cell_size(character)


def may_break(text: str, position: int) -> bool:
    """Tell whether a row may end before that position; white space belongs to the row before."""
    if position == 0 or text[position - 1] in _WHITE_SPACE:
        return True
    if position == len(text) or text[position].isascii() or text[position - 1].isascii():
        return False
    return (
        cells(text[position - 1]) == cells(text[position]) == _WIDE
        and unicodedata.category(text[position]) not in _CLOSING
    )


class Word(NamedTuple):
    """What a row is not broken in, if it fits into one.

    Attributes:
        runs: its text.
        width: in cells.
        spaced: whether white space stands before it.
    """

    runs: tuple[Run, ...]
    width: int
    spaced: bool


def words(runs: Iterable[Run], *, spaced: bool = False) -> tuple[list[Word], bool]:
    """Split text into words.

    Args:
        runs: the text.
        spaced: whether white space stands before it.

    Returns:
        The words, and whether white space stands behind them.
    """
    found: list[Word] = []
    parts: list[Run] = []
    last = ""

    def end() -> None:
        if parts:
            width = sum(cells(part.text) for part in parts)
            found.append(Word(tuple(parts), width, spaced))
            parts.clear()

    for run in runs:
        for piece in _PARTS.findall(run.text):
            if piece[0] in _WHITE_SPACE:
                end()
                spaced, last = True, ""
                continue
            for unit in _units(piece):
                if last and may_break(last + unit, 1):
                    end()
                    spaced = False
                parts.append(Run(unit, run.style))
                last = unit[-1]
    end()
    return found, spaced and not last


def _units(text: str) -> Iterator[str]:
    """Cut a text without white space where a row may be broken."""
    if text.isascii():
        yield text
        return
    start = 0
    for position in range(1, len(text)):
        if may_break(text, position):
            yield text[start:position]
            start = position
    yield text[start:]


def chop(text: str, width: int, first_width: int) -> Iterator[str]:
    """Cut a text into parts of at most so many cells; the first may have fewer."""
    if text.isascii():  # one cell for each character
        first_end = max(first_width, 1)
        yield text[:first_end]
        for start in range(first_end, len(text), max(width, 1)):
            yield text[start : start + max(width, 1)]
        return
    start = used = 0
    limit = first_width
    for position, character in enumerate(text):
        size = cells(character)
        if used and size and used + size > limit:  # an accent stays with its letter
            yield text[start:position]
            start, used, limit = position, 0, width
        used += size
    yield text[start:]


@dataclass(slots=True)
class Pen:
    """Writes rows, and knows where it is.

    Attributes:
        width: cells of a row; one less than the terminal's, so that its cursor never waits behind
            the last column, where an erasing sequence would take the last character.
        column: where the next cell goes.
        fresh: nothing but the prefix stands in the row.
        prefix: what further rows of the line begin with.
        text: what was written, with its sequences.
        num_breaks: ends of rows in it.
    """

    width: int
    column: int = 0
    fresh: bool = True
    prefix: tuple[Run, ...] = ()
    text: str = ""
    num_breaks: int = 0

    def fork(self) -> "Pen":
        """Return another at the same place that has written nothing."""
        return replace(self, text="", num_breaks=0)

    def begin(self, first: Iterable[Run], rest: Iterable[Run]) -> None:
        """Begin a line in a row of its own.

        Args:
            first: what its first row begins with.
            rest: what its further rows begin with.
        """
        if self.column:
            self.end_row()
        self.prefix = tuple(rest)
        self.fresh = True
        self.put_text(first)
        self.fresh = True

    def end_row(self) -> None:
        """Go to the next row."""
        self.text += "\r\n"
        self.num_breaks += 1
        self.column = 0
        self.fresh = True

    def put(self, run: Run) -> None:
        """Write text where the pen is, whether it fits or not."""
        if run.text:
            self.text += f"\x1b[{run.style}m{run.text}\x1b[m" if run.style else run.text
            self.column += cells(run.text)
            self.fresh = False

    def put_styled(self, text: str, width: int) -> None:
        """Write text that another pen has written, of that width."""
        self.text += text
        self.column += width
        self.fresh = False

    def break_row(self) -> None:
        """Go on in the next row of the same line."""
        self.end_row()
        self._put_prefix(self.prefix)

    def put_words(self, found: Iterable[Word]) -> None:
        """Write words, in as many rows as they take."""
        for word in found:
            self._put_word(word)

    def put_text(self, runs: Iterable[Run]) -> None:
        """Write text as it is, broken wherever a row is full."""
        for run in runs:
            self._put_chopped(run)

    def _put_word(self, word: Word) -> None:
        gap = int(word.spaced and not self.fresh)
        if self.column + gap + word.width > self.width and not self.fresh:
            self.break_row()
            gap = 0
        if gap:
            self.text += " "
            self.column += 1
        if self.column + word.width > self.width:
            self.put_text(word.runs)
            return
        for run in word.runs:
            self.put(run)

    def _put_chopped(self, run: Run) -> None:
        if self.column >= self.width and not self.fresh:
            self.break_row()
        room = self.width - sum(cells(part.text) for part in self.prefix)
        for index, part in enumerate(chop(run.text, room, self.width - self.column)):
            if index:
                self.break_row()
            self.put(Run(part, run.style))

    def _put_prefix(self, runs: Iterable[Run]) -> None:
        for run in runs:
            self.put(run)
        self.fresh = True
