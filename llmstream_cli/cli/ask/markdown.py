"""An answer in Markdown on a terminal, rendered by rich while it streams.

Blocks (paragraphs, lists, tables, code) that are complete are printed once and stay in the
scrollback. The block in the making is drawn below the cursor, which stays where it begins, and is
erased from there to the end of the screen before the next frame. So a line that was printed is
never touched, and nothing has to be counted that a terminal breaks differently after a resize.
"""

import io
import itertools
import os
import re
import time
from collections.abc import Callable
from typing import ClassVar, TextIO

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderResult
from rich.markdown import (
    CodeBlock,
    Heading,
    HorizontalRule,
    ListItem,
    Markdown,
    MarkdownElement,
)
from rich.rule import Rule
from rich.segment import Segment
from rich.syntax import Syntax
from rich.text import Text
from rich.theme import Theme

from llmstream_cli.cli.terminal import without_controls, write_through

# Text that looks like HTML or like the definition of a link is text: nothing of an answer is
# hidden. Without definitions, a block does not change with what comes after it.
_PARSER = MarkdownIt("commonmark", {"html": False, "linkify": False}).enable(
    ["strikethrough", "table"]
)
_PARSER.disable("reference")

# The terminal's own sixteen colours, and none as a background: legible on light and on dark.
_STYLES = {
    **{f"markdown.h{level}": "bold" for level in range(2, 7)},
    "markdown.h1": "bold underline",
    "markdown.block_quote": "dim",
    "markdown.code": "cyan",
    "markdown.code_block": "none",
    "markdown.hr": "dim",
    "markdown.item.bullet": "none",
    "markdown.item.number": "none",
    "markdown.link": "none",
    "markdown.link_url": "underline",
    "markdown.table.border": "dim",
    "markdown.table.header": "bold",
}
_CODE_THEME = "ansi_dark"

_ERASE_BELOW = "\x1b[J"  # ECMA-48: ED
# The same for a cursor that may be on the first row of the screen: there tmux takes ED for an order
# to clear the screen, and keeps what is erased in the scrollback.
_ERASE_ROWS = f"\x1b7\x1b[K\x1b[B{_ERASE_BELOW}\x1b8"
# Terminals that know the first sequence show no frame in between.
_BEGIN_UPDATE, _END_UPDATE = "\x1b[?2026h\x1b[?25l", "\x1b[?25h\x1b[?2026l"
_STYLE = re.compile(r"\x1b\[[0-9;]*m")  # ECMA-48: SGR
_TRAILING_SPACE = re.compile(rf" +((?:{_STYLE.pattern})*)$")

_DEFAULT_SIZE = os.terminal_size((80, 24))
_MIN_COLUMNS, _MIN_LINES = 24, 3  # on a smaller screen complete blocks are printed, as plain text
_COLUMNS_PER_LEVEL = 4  # at most, by which rich indents what is nested
_FRAME_SECONDS = 1 / 20


class MarkdownWriter:
    """Writes an answer piece by piece, rendered; the counterpart of `terminal.AnswerWriter`.

    The stream is a terminal with UTF-8 that understands ECMA-48's control sequences. Without
    colours, code is bold.
    """

    def __init__(
        self,
        stream: TextIO,
        *,
        color: bool = True,
        size: Callable[[], os.terminal_size] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream
        self._size = size or (lambda: _terminal_size(stream))
        self._clock = clock
        code = {} if color else {"markdown.code": "bold"}
        self._output = io.StringIO()
        self._console = Console(
            file=self._output,
            force_terminal=True,
            color_system="standard",
            no_color=not color,
            legacy_windows=False,
            theme=Theme(_STYLES | code),
            height=1000,
        )
        self._source = ""  # what is not printed yet: at most one block, and the line after it
        self._printed_any = False
        self._in_flight: str | None = None  # printed by a write that an interrupt may cut
        self._drawn = False  # something stands below the cursor
        self._next_frame = 0.0

    def write(self, text: str) -> None:
        text = without_controls(text)
        self._source += text
        printed = self._complete_blocks() if "\n" in text else ""
        now = self._clock()
        if printed or now >= self._next_frame:
            self._show(printed, self._draft())
            self._next_frame = self._clock() + _FRAME_SECONDS

    def end(self, *, cut: bool = False) -> None:
        """Print what is left; leave the cursor at the beginning of a line.

        Args:
            cut: Ctrl-C has ended the answer, maybe in a write. The terminal may have shown `^C` at
                the cursor.
        """
        rest = (self._in_flight or "") + self._print(self._take(len(self._source)))
        if not cut:
            self._show(rest, "")
            return
        # The cursor may be anywhere in a frame that was cut: what follows begins below it.
        begin = f"\r{_ERASE_ROWS}" if self._in_flight is None else f"\r\n{_ERASE_BELOW}"
        write_through(self._stream, f"{_END_UPDATE}{begin}{rest}".encode())
        self._in_flight, self._drawn = None, False

    def _complete_blocks(self) -> str:
        """Take the blocks that no later text can change, and return them rendered."""
        lines = self._source[: self._source.rfind("\n") + 1]
        starts = _block_starts(lines)
        if len(starts) < 2:  # noqa: PLR2004
            return ""
        end = sum(len(line) + 1 for line in lines.split("\n")[: starts[-1]])
        return self._print(self._take(end))

    def _take(self, end: int) -> str:
        taken, self._source = self._source[:end], self._source[end:]
        return taken

    def _print(self, source: str) -> str:
        """Return blocks as rows that are printed for good."""
        rows = self._render(source)
        self._printed_any = self._printed_any or bool(rows)
        return "".join(f"{row}\r\n" for row in rows)

    def _draft(self) -> str:
        """Return the last rows of the block in the making, as many as the screen can hold."""
        columns, lines = self._size()
        if columns < _MIN_COLUMNS or lines < _MIN_LINES:
            return ""
        rows = self._render(self._source)
        return "\r\n".join(rows[-(lines - 1) :])

    def _show(self, printed: str, draft: str) -> None:
        """Print what is complete, and draw the rest below the cursor."""
        if not printed and not draft and not self._drawn:
            return
        erase = _ERASE_ROWS if self._drawn else ""
        back = draft and f"\x1b[{rows}A\r" if (rows := draft.count("\r\n")) else draft and "\r"
        self._in_flight = printed
        frame = f"{_BEGIN_UPDATE}{erase}{printed}{draft}{back}{_END_UPDATE}"
        write_through(self._stream, frame.encode())
        self._in_flight, self._drawn = None, bool(draft)

    def _render(self, source: str) -> list[str]:
        """Return a text as rows, an empty one between two blocks."""
        rows: list[str] = []
        width = self._size().columns - 1
        lines = source.split("\n")
        for start, end in itertools.pairwise([*_block_starts(source), len(lines)]):
            block = self._render_block("\n".join(lines[start:end]), width)
            if block and (rows or self._printed_any):
                rows.append("")
            rows += block
        return rows

    def _render_block(self, source: str, width: int) -> list[str]:
        tokens = _PARSER.parse(source)
        depth = max(token.level for token in tokens)
        if width < max(_MIN_COLUMNS, _COLUMNS_PER_LEVEL * depth):
            return source.expandtabs(4).rstrip().split("\n")
        with self._console.capture() as capture:
            self._console.print(_Answer(tokens), width=width)
        rows = [_TRAILING_SPACE.sub(r"\1", row) for row in capture.get().split("\n")]
        shown = [number for number, row in enumerate(rows) if _STYLE.sub("", row)]
        return rows[shown[0] : shown[-1] + 1] if shown else []


class _Heading(Heading):
    LEVEL_ALIGN: ClassVar[dict[str, JustifyMethod]] = {**Heading.LEVEL_ALIGN, "h1": "left"}


class _CodeBlock(CodeBlock):
    """Code without a margin or a background, so that it can be copied."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        code = self.text.plain.rstrip()
        syntax = Syntax(code, self.lexer_name, theme=_CODE_THEME, background_color="default")
        known = self.lexer_name != "text" and syntax.lexer is not None
        yield syntax.highlight(code) if known else Text(code)


class _Item(ListItem):
    def render_number(
        self, console: Console, options: ConsoleOptions, number: int, last_number: int
    ) -> RenderResult:
        margin = len(str(last_number)) + 3
        narrower = options.update(width=options.max_width - margin)
        lines = console.render_lines(self.elements, narrower)
        for row, line in enumerate(lines):
            yield Segment(" " * margin if row else f"{number}. ".rjust(margin))
            yield from line
            yield Segment.line()


class _Rule(HorizontalRule):
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Rule(style="markdown.hr")


class _Answer(Markdown):
    """One block of an answer."""

    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "heading_open": _Heading,
        "fence": _CodeBlock,
        "code_block": _CodeBlock,
        "hr": _Rule,
        "list_item_open": _Item,
    }

    def __init__(self, tokens: list[Token]) -> None:
        super().__init__("", hyperlinks=False)
        self.parsed = tokens
        for inline in (child for token in tokens for child in token.children or ()):
            # An entity can name a control character.
            inline.content = without_controls(inline.content).translate({9: 32, 10: 32})


def _block_starts(source: str) -> list[int]:
    """Return the line with which each block of a text begins."""
    return [
        token.map[0]
        for token in _PARSER.parse(source)
        if token.level == 0 and token.nesting >= 0 and token.map
    ]


def _terminal_size(stream: TextIO) -> os.terminal_size:
    try:
        size = os.get_terminal_size(stream.fileno())
    except OSError:
        return _DEFAULT_SIZE
    return size if size.columns and size.lines else _DEFAULT_SIZE
