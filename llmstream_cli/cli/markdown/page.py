"""A markdown text that grows, as rows of a terminal.

What a `Page` has written is certain: it depends on the text alone, not on how it was cut. The rest
waits in it, and a fork of the page shows how that would look if nothing came after it.
"""

import copy
import re
from collections.abc import Iterable
from dataclasses import replace

from llmstream_cli.cli.markdown.blocks import (
    BlockState,
    Container,
    Fence,
    Kind,
    Line,
    Quote,
    is_settled,
    read_line,
)
from llmstream_cli.cli.markdown.flow import Pen, cells, words
from llmstream_cli.cli.markdown.highlight import Highlighter
from llmstream_cli.cli.markdown.inline import certain_chars, read_inline
from llmstream_cli.cli.markdown.style import BOLD, DIM, UNDERLINE, Palette, Run, combined
from llmstream_cli.cli.markdown.table import Cell, Table, is_delimiter, put_row, put_rule

# So that what waits is bounded. Markup that is longer is not seen as such, a longer line of code
# has no colours, and the columns of a longer table keep their widths.
_SEGMENT_CHARS = 1000
_SEGMENT_END_CHARS = 200  # in which its last word ends, or is cut
_LONG_WORD = re.compile(r"[!-~]{400}")
_MAX_CODE_CHARS = 400
_MAX_TABLE_CHARS = 2000

_WHITE_SPACE = re.compile(r"[ \t]")
_RULE_CELLS = 40
_MIN_TEXT_CELLS = 8  # that indentation leaves in a row


class Page:
    """Writes a text with a pen.

    Args:
        palette: the styles.
        pen: writes the rows.
    """

    def __init__(self, palette: Palette, pen: Pen) -> None:
        self.pen = pen
        self._palette = palette
        self._is_draft = False
        self._state = BlockState()
        self._source = ""  # of a line whose kind is not certain
        self._rest: str | None = None  # of a line whose kind is: what is not written yet
        self._is_raw = False  # that line is code
        self._spaced = False  # white space stands before `_rest`
        self._segment = 0  # characters of that line since it was last cut
        self._begun = False
        self._blank = False  # an empty row is due
        self._header: Line | None = None  # or what may become the header of a table
        self._table: Table | None = None
        self._is_frozen = False  # the table's rows so far are written
        self._code: Highlighter | None = None

    def fork(self) -> "Page":
        """Return a copy at the same place that has written nothing, to be ended and shown."""
        draft = copy.copy(self)
        draft.pen = self.pen.fork()
        draft._table = self._table and self._table.fork()  # noqa: SLF001
        draft._is_draft = True  # noqa: SLF001
        return draft

    def write(self, text: str) -> None:
        """Add text without control characters."""
        first, *lines = text.split("\n")
        self._feed(first)
        for line in lines:
            self._end_line()
            self._feed(line)

    def end(self) -> None:
        """End the text."""
        if self._source or self._rest is not None:
            self._end_line()
        self._end_table()

    # ---- lines in the making ------------------------------------------------------------------

    def _feed(self, text: str) -> None:
        """Add text that ends no line; write what is certain."""
        if not text:
            return
        if self._rest is not None:
            self._rest += text
        else:
            self._source += text
            self._settle()
        if self._rest is not None and not self._is_draft:
            self._write_certain()

    def _settle(self) -> None:
        """Begin the line if its kind is certain."""
        state, line = read_line(self._state, self._source)
        is_raw = line.kind is Kind.CODE and len(line.text) > _MAX_CODE_CHARS
        space = " " if self._source[-1] in " \t" else ""
        if is_raw or is_settled(line, has_word=" " in (line.text + space).lstrip(" ")):
            self._end_table()
            self._begin(line)
            self._state, self._source, self._is_raw = state, "", is_raw
            self._segment, self._spaced = 0, False
            self._rest = line.text + space

    def _write_certain(self) -> None:
        assert self._rest is not None
        if self._is_raw:
            self.pen.put(Run(self._rest))
            self._rest = ""
            return
        self._write_segments()
        count = certain_chars(self._rest)
        if count:
            self._write_inline(self._rest[:count])
            self._segment += count
            self._rest = self._rest[count:]

    def _write_segments(self) -> None:
        """Write of a long line what comes before the places where it has to be cut."""
        assert self._rest is not None
        while (end := self._segment_end(self._rest)) is not None:
            self._write_inline(self._rest[:end])
            self._segment, self._rest = 0, self._rest[end:]

    def _segment_end(self, rest: str) -> int | None:
        """Return where a line is to be cut; it depends on nothing but the line."""
        ends = []
        if long_word := _LONG_WORD.search(rest):
            ends.append(long_word.end())
        first = max(0, _SEGMENT_CHARS - self._segment)
        last = first + _SEGMENT_END_CHARS
        if space := _WHITE_SPACE.search(rest, first, last):
            ends.append(space.end())
        elif len(rest) >= last:
            ends.append(last)
        return min(ends, default=None)

    def _write_inline(self, text: str, style: str = "") -> None:
        runs = (
            Run(run.text, combined(style, run.style)) for run in read_inline(text, self._palette)
        )
        found, self._spaced = words(runs, spaced=self._spaced)
        self.pen.put_words(found)

    def _end_line(self) -> None:
        if self._rest is None:
            self._state, line = read_line(self._state, self._source)
            self._source = ""
            self._put_line(line)
            return
        if self._is_raw:
            self._put_code([Run(self._rest)])
        else:
            self._write_segments()
            self._write_inline(self._rest)
        self._rest = None
        self.pen.end_row()

    # ---- whole lines --------------------------------------------------------------------------

    def _put_line(self, line: Line) -> None:
        if line.kind is Kind.TABLE:
            self._put_table_line(line)
            return
        self._end_table()
        if line.kind is Kind.BLANK:
            self._blank = True
            return
        self._begin(line)
        match line.kind:
            case Kind.TEXT:
                self._put_text(line.text)
            case Kind.HEADING:
                self._put_text(line.text, BOLD if line.level > 1 else combined(BOLD, UNDERLINE))
            case Kind.RULE:
                room = self.pen.width - self.pen.column
                self.pen.put(Run(self._palette.rule * min(room, _RULE_CELLS), DIM))
            case Kind.FENCE:
                self.pen.put_text([Run(line.text, DIM)])
                self._code = self._highlighter()
            case _:
                runs = [Run(line.text)]
                if self._code is not None and len(line.text) <= _MAX_CODE_CHARS:
                    runs = self._code.line(line.text, complete=not self._is_draft)
                self._put_code(runs)
        self.pen.end_row()

    def _highlighter(self) -> Highlighter | None:
        """Return what colours the code that has just been opened; None if it was closed."""
        leaf = self._state.leaf
        return Highlighter(leaf.language, self._palette) if isinstance(leaf, Fence) else None

    def _put_text(self, text: str, style: str = "") -> None:
        self._segment, self._spaced, self._rest = 0, False, text
        if not style:
            self._write_segments()
        self._write_inline(self._rest, style)
        self._rest = None

    def _put_code(self, runs: Iterable[Run]) -> None:
        """Write code. The terminal breaks its lines, so that they are copied as they were."""
        if self._is_draft:
            self.pen.put_text(runs)
        else:
            for run in runs:
                self.pen.put(run)

    def _begin(self, line: Line) -> None:
        """Begin a line: what stands above it and before it."""
        if self._blank and self._begun:
            self.pen.end_row()
        self._blank, self._begun = False, True
        rest = [self._margin(container) for container in line.containers]
        num_known = len(rest) - line.num_new
        new = [self._mark(container) for container in line.containers[num_known:]]
        room = self.pen.width - _MIN_TEXT_CELLS
        room_before = room - sum(cells(run.text) for run in new)
        first = [*_clipped(rest[:num_known], room_before), *new]
        self.pen.begin(first, _clipped(rest, room))

    def _mark(self, container: Container) -> Run:
        """Return what stands where a container begins."""
        if isinstance(container, Quote):
            return self._margin(container)
        is_numbered = container.marker[-1] in ".)"
        return Run(f"{container.marker if is_numbered else self._palette.bullet} ")

    def _margin(self, container: Container) -> Run:
        """Return what stands before the further rows of a container."""
        if isinstance(container, Quote):
            return Run(f"{self._palette.bar} ", DIM)
        return Run(" " * cells(self._mark(container).text))

    # ---- tables -------------------------------------------------------------------------------

    def _put_table_line(self, line: Line) -> None:
        header = self._header
        if header is not None and header.containers != line.containers:
            self._end_table()
            header = None
        if self._table is not None:
            if self._is_frozen:
                self._put_row(line, self._table.read(line.text))
                return
            self._table.add(line.text)
            if self._table.num_chars > _MAX_TABLE_CHARS:
                self._put_table(line)
                self._is_frozen = True
        elif header is not None and is_delimiter(line.text, header.text):
            self._table = Table(header.text, line.text, self._palette)
        else:
            self._end_table()
            self._header = line

    def _put_table(self, line: Line) -> None:
        assert self._table is not None
        assert self._header is not None
        header, *rows = self._table.rows
        self._put_row(self._header, header)
        for row in rows:
            self._put_row(replace(line, num_new=0), row)

    def _put_row(self, line: Line, row: list[Cell]) -> None:
        assert self._table is not None
        self._begin(line)
        prefix_cells = sum(cells(run.text) for run in self.pen.prefix)
        columns = self._table.columns(self.pen.width - prefix_cells)
        put_row(self.pen, row, columns, self._palette)
        if line is self._header and columns is not None:
            put_rule(self.pen, columns, self._palette)
        self.pen.end_row()

    def _end_table(self) -> None:
        """Write the table that is complete now, or what proved to be none."""
        header, table, frozen = self._header, self._table, self._is_frozen
        if header is None:
            return
        if table is None:
            self._begin(header)
            self._put_text(header.text)
            self.pen.end_row()
        elif not frozen:
            self._put_table(header)
        self._header, self._table, self._is_frozen = None, None, False


def _clipped(prefix: list[Run], room: int) -> list[Run]:
    """Leave out the outermost margins where there is no room for all of them."""
    while prefix and sum(cells(run.text) for run in prefix) > room:
        prefix = prefix[1:]
    return prefix
