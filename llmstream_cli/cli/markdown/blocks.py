"""What each line of a markdown text is, one line after the other.

The rules are CommonMark's, read as models write: a line of a paragraph is a line and not a part of
a longer one, a table's lines begin with a bar, and what is indented too little for a list item but
more than its marker belongs to it. Setext headings, link definitions and raw HTML are text.

Pure: a line and the state before it give its meaning and the state after it.
"""

import re
from dataclasses import dataclass, replace
from enum import Enum, auto

_TAB = 4
_CODE_INDENT = 4

_RULE = re.compile(r"([-*_])(?:[ ]*\1){2,}[ ]*")
_RULE_BEGUN = re.compile(r"([-*_])(?:[ ]*\1)*")
_MARKER = re.compile(r"([-+*]|([0-9]{1,9})[.)])(?=[ ]|$)")
_MARKS = frozenset("#>-+*_~`|0123456789")  # what lines begin with that are no paragraphs
# Bounded, so that what waits for the end of its line is.
_HEADING = re.compile(r"(#{1,6})(?:[ ]+(.{0,1000}?))??(?:[ ]+#+)?[ ]*")
_MAX_ROW_CHARS = 2000
_FENCE = re.compile(r"(`{3,})([^`]{0,200})|(~{3,})(.{0,200})")
_MAX_CONTAINERS = 16


class Kind(Enum):
    """What a line is."""

    BLANK = auto()
    TEXT = auto()  # of a paragraph
    HEADING = auto()
    RULE = auto()
    FENCE = auto()  # around code, opening or closing
    CODE = auto()
    TABLE = auto()  # of a table, or what may become its header


@dataclass(frozen=True, slots=True)
class Quote:
    """A block quote."""


@dataclass(frozen=True, slots=True)
class Item:
    """A list item.

    Attributes:
        marker: `-` or `12.`, as it was written.
        indent: of the marker, in columns from where the container around it begins.
        offset: of its content, likewise.
    """

    marker: str
    indent: int
    offset: int


Container = Quote | Item


@dataclass(frozen=True, slots=True)
class Fence:
    """Open code.

    Attributes:
        mark: what it was opened with; at least so much closes it.
        indent: spaces before it, which are taken off each line.
        language: the first word behind it.
    """

    mark: str
    indent: int
    language: str


class Leaf(Enum):
    """What is open, beside code in a fence."""

    NONE = auto()
    PARAGRAPH = auto()
    TABLE = auto()


@dataclass(frozen=True, slots=True)
class BlockState:
    """What is open after a line, from the outside in."""

    containers: tuple[Container, ...] = ()
    leaf: Leaf | Fence = Leaf.NONE


@dataclass(frozen=True, slots=True)
class Line:
    """A line, and where it stands.

    Attributes:
        kind: what it is.
        text: its content, without what the containers and the kind are made of.
        containers: around it.
        num_new: how many of these, the innermost, begin with it.
        level: of a heading, from 1.
    """

    kind: Kind
    text: str
    containers: tuple[Container, ...]
    num_new: int = 0
    level: int = 0


def read_line(state: BlockState, source: str) -> tuple[BlockState, Line]:
    """Read a line, without its end; return the state after it and what it is."""
    rest = source.expandtabs(_TAB).rstrip(" ")
    if isinstance(state.leaf, Fence):
        inside = _inside_fence(state.containers, rest)
        if inside is not None:
            return _read_code(state, state.leaf, inside)
        state = replace(state, leaf=Leaf.NONE)
    num_matched, rest = _continue(state.containers, rest)
    if not rest:
        containers = state.containers[:num_matched]
        return BlockState(containers), Line(Kind.BLANK, "", containers)
    return _open(state, num_matched, rest)


def is_settled(line: Line, *, has_word: bool) -> bool:
    """Tell whether an unfinished line is of a paragraph, whatever comes.

    Args:
        line: what it is so far.
        has_word: whether its text has a word with white space behind it.
    """
    if line.kind is not Kind.TEXT or not line.text:
        return False
    if line.text[0] not in _MARKS:
        return True
    return has_word and not (_RULE_BEGUN.fullmatch(line.text) or _MARKER.fullmatch(line.text))


def _continue(containers: tuple[Container, ...], rest: str) -> tuple[int, str]:
    """Return how many containers a line continues, and the line without what that took."""
    for index, container in enumerate(containers):
        indent = _indent(rest)
        if isinstance(container, Quote):
            if indent >= _CODE_INDENT or rest[indent : indent + 1] != ">":
                return index, rest
            rest = rest[indent + 1 :].removeprefix(" ")
        elif indent >= container.offset or not rest:
            rest = rest[container.offset :]
        else:
            return index, rest
    return len(containers), rest


def _open(state: BlockState, num_matched: int, rest: str) -> tuple[BlockState, Line]:
    """Find what a line opens beyond what it continues."""
    in_paragraph = state.leaf is Leaf.PARAGRAPH
    interrupts = in_paragraph and num_matched == len(state.containers)
    if _is_nested_loosely(state.containers[num_matched:], rest):
        num_matched += 1
        rest = rest.lstrip(" ")
    containers = [*state.containers[:num_matched]]
    while _indent(rest) < _CODE_INDENT and len(containers) < _MAX_CONTAINERS:
        body = rest.lstrip(" ")
        if body.startswith(">"):
            containers.append(Quote())
            rest = body[1:].removeprefix(" ")
            continue
        marker = None if _RULE.fullmatch(body) else _MARKER.match(body)
        if marker is None or (interrupts and not _may_interrupt(marker, body)):
            break
        item, rest = _item(marker, _indent(rest), body)
        containers.append(item)
        interrupts = False
    num_new = len(containers) - num_matched
    if in_paragraph and not num_new:
        indented = _indent(rest) >= _CODE_INDENT
        if indented or _read_leaf((), 0, rest)[1].kind is Kind.TEXT:
            # It goes on, be it without the marks of its containers: a lazy continuation.
            return state, Line(Kind.TEXT, rest.strip(" "), state.containers)
    return _read_leaf(tuple(containers), num_new, rest)


def _read_leaf(
    containers: tuple[Container, ...], num_new: int, rest: str
) -> tuple[BlockState, Line]:
    """Tell what a line is inside its containers."""
    body = rest.strip(" ")

    def found(kind: Kind, text: str, leaf: Leaf | Fence, level: int = 0) -> tuple[BlockState, Line]:
        return BlockState(containers, leaf), Line(kind, text, containers, num_new, level)

    if _indent(rest) >= _CODE_INDENT and not num_new:
        return found(Kind.CODE, rest[_CODE_INDENT:], Leaf.NONE)
    if fence := _FENCE.fullmatch(body):
        mark, info = fence[1] or fence[3], fence[2] or fence[4] or ""
        language = info.split()[0] if info.split() else ""
        return found(Kind.FENCE, body, Fence(mark, _indent(rest), language))
    if _RULE.fullmatch(body):
        return found(Kind.RULE, "", Leaf.NONE)
    if heading := _HEADING.fullmatch(body):
        return found(Kind.HEADING, heading[2] or "", Leaf.NONE, len(heading[1]))
    if body.startswith("|") and len(body) <= _MAX_ROW_CHARS:
        return found(Kind.TABLE, body, Leaf.TABLE)
    return found(Kind.TEXT, body, Leaf.PARAGRAPH if body else Leaf.NONE)


def _is_nested_loosely(unmatched: tuple[Container, ...], rest: str) -> bool:
    """Tell whether a list marker is indented less than an item's content, but clearly in it."""
    if not unmatched or not isinstance(unmatched[0], Item):
        return False
    indent = _indent(rest)
    return indent >= unmatched[0].indent + 2 and bool(_MARKER.match(rest[indent:]))


def _may_interrupt(marker: re.Match[str], body: str) -> bool:
    """Tell whether a list may begin inside a paragraph: `1990. Then` is no item there."""
    return len(body) > marker.end() and marker[2] in (None, "1")


def _item(marker: re.Match[str], indent: int, body: str) -> tuple[Item, str]:
    """Return the item that a marker begins, and the content on its line."""
    content = body[marker.end() :]
    spaces = _indent(content)
    if not 1 <= spaces <= _CODE_INDENT:  # none behind a lone marker; many begin code
        spaces = 1
    return Item(marker[1], indent, indent + marker.end() + spaces), content[spaces:]


def _inside_fence(containers: tuple[Container, ...], rest: str) -> str | None:
    """Return a line of code without what its containers take; None if one of them has ended.

    Only a block quote can: models forget the indentation of code in a list.
    """
    for container in containers:
        if isinstance(container, Item):
            rest = rest[min(_indent(rest), container.offset) :]
        elif rest.lstrip(" ").startswith(">"):
            rest = rest.lstrip(" ")[1:].removeprefix(" ")
        else:
            return None
    return rest


def _read_code(state: BlockState, fence: Fence, rest: str) -> tuple[BlockState, Line]:
    body = rest.strip(" ")
    mark = fence.mark
    if _indent(rest) < _CODE_INDENT and len(body) >= len(mark) and not body.strip(mark[0]):
        return BlockState(state.containers), Line(Kind.FENCE, body, state.containers)
    text = rest[min(_indent(rest), fence.indent) :]
    return state, Line(Kind.CODE, text, state.containers)


def _indent(text: str) -> int:
    return len(text) - len(text.lstrip(" "))
