"""The markup inside a line, and how much of an unfinished line is certain.

Lines are parsed by markdown-it, by CommonMark's rules and with strikethrough; raw HTML is text.
`certain_chars` finds where a line may be cut so that both parts mean alone what they mean together.
It decides on its own what is still open, and where it has doubts it calls more open than is.
"""

import re
import unicodedata
from functools import cache
from typing import TYPE_CHECKING

from llmstream_cli.cli.markdown.flow import may_break
from llmstream_cli.cli.markdown.style import (
    BOLD,
    DIM,
    ITALIC,
    STRIKE,
    UNDERLINE,
    Palette,
    Run,
    combined,
)
from llmstream_cli.cli.terminal import without_controls

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

_SPECIAL = re.compile(r"[\\`*_~\[<&!]")
_OPENING = re.compile(r"[\\`*_~\[<]")
_BACKTICKS = re.compile(r"`+")
# With plain text in it, and a plain target or none.
_LINK = re.compile(r"\[[^\[\]\\`*_~<]*\](?:\([^\s()<>\\]*\)|(?=[^(]))")
_ANGLE = re.compile(r"<[^\s<>*_~`\[\\]*>")
_NO_AUTOLINK = re.compile(r"<(?![A-Za-z])|<[^\s<>]*[\s<]")

_PAIR = 2  # delimiters that make strong emphasis, or strike through

_STYLES = {"strong": BOLD, "em": ITALIC, "s": STRIKE}


def read_inline(text: str, palette: Palette) -> list[Run]:
    """Return a text with its markup as styles.

    Args:
        text: of one line.
        palette: the styles.
    """
    if not _SPECIAL.search(text):
        return [Run(text)]
    (root,) = _parser().parseInline(text)
    return [
        # An entity can name a control character.
        Run(without_controls(run.text).replace("\n", " "), run.style)
        for run in _runs(root.children or [], palette)
    ]


@cache
def _parser() -> "MarkdownIt":
    # Imported with the first markup: it takes longer than the first tokens do.
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"html": False}).enable("strikethrough")


def _runs(tokens: "list[Token]", palette: Palette) -> list[Run]:
    runs: list[Run] = []
    styles: list[str] = []
    links: list[tuple[str, int]] = []  # where one leads, and the run that it begins with
    for token in tokens:
        kind, _, end = token.type.rpartition("_")
        if token.type == "link_open":
            links.append((str(token.attrs["href"]), len(runs)))
            styles.append(UNDERLINE)
        elif token.type == "link_close":
            styles.pop()
            href, first = links.pop()
            runs += _target(href, "".join(run.text for run in runs[first:]))
        elif end == "open":
            styles.append(_STYLES[kind])
        elif end == "close":
            styles.pop()
        elif token.type == "image":
            runs.append(Run(token.content, combined(";".join(styles), ITALIC)))
            runs += _target(str(token.attrs["src"]), token.content)
        elif token.type == "code_inline":
            text = token.content if palette.code else f"`{token.content}`"
            runs.append(Run(text, combined(";".join(styles), palette.code)))
        else:
            runs.append(Run(token.content, ";".join(styles)))
    return runs


def _target(href: str, text: str) -> list[Run]:
    """Return where a link leads, unless its text says so."""
    shown = href.removeprefix("mailto:")
    return [] if text == shown else [Run(" ("), Run(shown, DIM), Run(")")]


# ---- what is certain ------------------------------------------------------------------------


def certain_chars(text: str) -> int:
    """Return how much of a text, from the beginning, may be rendered on its own.

    Args:
        text: the beginning of a line, or what an earlier cut has left of one.
    """
    scan = _Scan(text)
    end = scan.open_at
    while end > 0:
        around = (start for start, stop in scan.spans if start < end < stop)
        start = min(around, default=None)
        if start is not None:
            end = start
        elif may_break(text, end):
            break
        elif text.isascii():
            end = 1 + max(text.rfind(" ", 0, end), text.rfind("\t", 0, end))
        else:
            end -= 1
    return end


class _Scan:
    """What is closed and what is open in a text that may go on.

    Args:
        text: the text.

    Attributes:
        spans: where closed markup begins and ends, and what only looks like markup.
        open_at: where the first markup begins that what follows could still complete or undo.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._openers: list[_Delimiters] = []  # emphasis that waits for its end
        self.spans: list[tuple[int, int]] = []
        self.open_at = len(text)
        position = 0
        while found := _OPENING.search(text, position):
            end = self._construct_end(found.start())
            if end is None:
                # An exclamation mark before a bracket makes it an image.
                self.open_at = found.start() - text[: found.start()].endswith("!")
                break
            position = end
        self.open_at = min([self.open_at, *(opener.start for opener in self._openers)])

    def _construct_end(self, start: int) -> int | None:
        """Return where what begins at a place ends; None if it is open, or hard to tell."""
        text, mark = self._text, self._text[start]
        if mark == "\\":
            return start + 2
        if mark in "*_~":
            run = _Delimiters.at(text, start)
            end = start + run.length
            return end if end < len(text) and self._match(run) else None
        if mark == "<" and _NO_AUTOLINK.match(text, start):
            return start + 1
        closed = _code_end(text, start) if mark == "`" else _plain_end(text, start)
        if closed is not None:
            self.spans.append((start - text[:start].endswith("!"), closed))
        return closed

    def _match(self, run: "_Delimiters") -> bool:
        """Let a run close what it closes, or wait; return False if it is hard to tell which."""
        if run.mark == "~" and run.length == 1:
            return True
        if run.opens:
            self._openers.append(run)
            return not run.closes
        while run.closes and run.left and any(o.mark == run.mark for o in self._openers):
            while self._openers[-1].mark != run.mark:
                self._openers.pop()  # what stands between can no longer close
            opener = self._openers[-1]
            if run.mark == "~" and not run.left == opener.left == _PAIR:
                return False
            used = _PAIR if min(run.left, opener.left) >= _PAIR else 1
            run.left -= used
            opener.left -= used
            self.spans.append((opener.start, run.start + run.length))
            if not opener.left:
                self._openers.pop()
        return True


def _plain_end(text: str, start: int) -> int | None:
    """Return where a link, an address, or a pair of brackets without anything special ends."""
    found = (_LINK if text[start] == "[" else _ANGLE).match(text, start)
    return found.end() if found else None


def _code_end(text: str, start: int) -> int | None:
    opening = _BACKTICKS.match(text, start)
    assert opening is not None
    for closing in _BACKTICKS.finditer(text, opening.end()):
        if closing[0] == opening[0]:
            # At the end of the text more backticks may come, which would make it another mark.
            return closing.end() if closing.end() < len(text) else None
    return None


class _Delimiters:
    """A run of `*`, `_` or `~`, and whether it can open or close emphasis (CommonMark, 6.2)."""

    def __init__(self, start: int, mark: str, length: int, before: str, after: str) -> None:
        self.start, self.mark, self.length = start, mark, length
        self.left = length
        left_flanking = not _is_space(after) and (
            not _is_punctuation(after) or _is_space(before) or _is_punctuation(before)
        )
        right_flanking = not _is_space(before) and (
            not _is_punctuation(before) or _is_space(after) or _is_punctuation(after)
        )
        self.opens, self.closes = left_flanking, right_flanking
        if mark == "_":
            self.opens = left_flanking and (not right_flanking or _is_punctuation(before))
            self.closes = right_flanking and (not left_flanking or _is_punctuation(after))

    @classmethod
    def at(cls, text: str, start: int) -> "_Delimiters":
        """Return the run that begins at a place."""
        mark = text[start]
        end = start
        while text[end : end + 1] == mark:
            end += 1
        before = text[start - 1] if start else " "
        return cls(start, mark, end - start, before, text[end] if end < len(text) else " ")


def _is_space(character: str) -> bool:
    return character.isspace()


def _is_punctuation(character: str) -> bool:
    return unicodedata.category(character)[0] in "PS"
