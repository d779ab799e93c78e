"""GBNF, the grammar notation of llama.cpp, translated to the Lark dialect of llguidance.

The notation is that of llama.cpp's guide (grammars/README.md in its repository), except for token
references, `<…>`. Lark's differs in its tokens alone, so each is written anew where it stands.
Every character becomes a terminal of its own: llguidance's lexer takes the longest match, so that a
terminal such as `[a-z]+` would swallow the `end` of `[a-z]+ "end"`.

Beyond the translation: undefined and repeated names are refused, as are rules that never end, such
as `a ::= "x" a`; and a rule that ends in itself, the usual way to write a list in GBNF, becomes a
loop, because a parser's work on right recursion grows with the length of the text.
"""

import re
import sys
from collections.abc import Iterator
from typing import NamedTuple

from llmstream_cli.errors import InvalidValueError

MAX_DEPTH = 64  # of parentheses
MAX_SYMBOLS = 20_000
MAX_REPETITIONS = 10_000  # in one pair of braces

_TOKEN = re.compile(
    r"""(?P<space>(?:[ \t]|\#[^\r\n]*)+) | (?P<line>[\r\n]+) | (?P<mark>::=|[()|])
    | (?P<string>"(?:[^"\\]|\\.)*+") | (?P<class>\[(?:[^\]\\]|\\.)*+\]) | (?P<any>\.)
    | (?P<name>[A-Za-z0-9_-]+) | (?P<repeat>[*+?]|\{[^}\r\n]*\}?)""",
    re.DOTALL | re.VERBOSE,
)
_CHARACTER = r'\\(?:x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|[trn"\\[\]-])|[^\\]'
_RANGE = re.compile(rf"({_CHARACTER})(?:-({_CHARACTER}))?", re.DOTALL)
_ESCAPES = {"t": "\t", "r": "\r", "n": "\n"}
_SURROGATES = range(0xD800, 0xE000)
_REPEATS = {"*": "{0,}", "+": "{1,}", "?": "{0,1}"}
_BRACES = re.compile(r"\{[ \t]*([0-9]{1,9})[ \t]*(?:(,)[ \t]*([0-9]{1,9})?[ \t]*)?\}")
_INVALID = {
    **dict.fromkeys('"[', "the grammar ends inside a string or a class of characters"),
    **dict.fromkeys("<!", "references to tokens are not supported"),
}


class _Token(NamedTuple):
    kind: str  # a group of `_TOKEN`, or the mark itself
    text: str  # in GBNF, or in Lark once it is translated; a rule keeps its name
    position: int = 0


_Body = list[_Token]
_OPEN, _CLOSE, _EMPTY = _Token("(", "("), _Token(")", ")"), _Token("string", '""')


def gbnf_to_lark(grammar: str) -> str:
    """Translate a grammar whose rule `root` is the whole answer.

    Raises:
        InvalidValueError: it is invalid, or too large, or a rule of it never ends; the message
            says where.
    """
    reader = _Reader(grammar)
    rules, positions = reader.read(), reader.positions
    for name, position in positions.items():
        if name not in rules:
            raise reader.error(f"rule {name} is not defined", position)
    if "root" not in rules:
        raise InvalidValueError("grammar: there is no rule root", "grammar")
    reached, finite = _reachable(rules), _finite(rules)
    if endless := [name for name in reached if name not in finite]:
        name = max(endless, key=positions.__getitem__)  # likely the cause, not who uses it
        raise reader.error(f"rule {name} never ends", positions[name])
    names = {name: f"r{number}" for number, name in enumerate(reached)}
    lines = [line for name in reached for line in _lines(name, rules[name], names)]
    return "\n".join([f"start: {names['root']}", *lines])


class _Reader:
    """Reads a grammar's text, and translates its tokens."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._num_symbols = 0
        self.positions: dict[str, int] = {}  # where a rule is defined, or first referred to

    def read(self) -> dict[str, _Body]:
        rules: dict[str, _Body] = {}
        tokens = self._tokens()
        for token in tokens:
            kind, name, position = token
            if kind != "name":
                raise self._unexpected(token, "a rule's name")
            if name in rules:
                raise self.error(f"rule {name} is defined twice", position)
            self.positions[name] = position
            if (mark := next(tokens)).kind != "::=":
                raise self._unexpected(mark, "::=")
            rules[name] = self._body(tokens)
        return rules

    def error(self, what: str, position: int) -> InvalidValueError:
        line = self._text.count("\n", 0, position) + 1
        column = position - self._text.rfind("\n", 0, position)
        return InvalidValueError(f"grammar, line {line}, column {column}: {what}", "grammar")

    def _unexpected(self, token: _Token, wanted: str) -> InvalidValueError:
        what = _INVALID.get(token.text) if token.kind == "invalid" else None
        at = len(self._text) if token.text in {'"', "["} else token.position
        return self.error(what or f"expected {wanted}", at)

    def _tokens(self) -> Iterator[_Token]:
        """Yield the tokens, and of the line ends those that end a rule."""
        at, depth, before = 0, 0, "line"
        while at < len(self._text):
            found = _TOKEN.match(self._text, at)
            kind, text = (found.lastgroup, found[0]) if found else ("invalid", self._text[at])
            kind = text if kind == "mark" else str(kind)
            depth += (kind == "(") - (kind == ")")
            is_rule_end = kind == "line" and not depth and before not in {"line", "::=", "|"}
            if is_rule_end or kind not in {"line", "space"}:
                yield _Token(kind, text, at)
                before = kind
            at += len(text)
        if before != "line":
            yield _Token("line", "", at)

    def _body(self, tokens: Iterator[_Token]) -> _Body:
        """Read what a rule stands for, and translate it."""
        body: _Body = []
        groups: list[int] = []  # where those that are open begin
        start, before = 0, "|"  # of what a repetition repeats; the kind of the last token
        for token in tokens:
            kind, text, position = token
            self._count(1, position)
            if kind in {"|", ")", "line"} and before in {"|", "("}:
                body.append(_EMPTY)
            self._check_place(token, before, len(groups))
            if kind == "line":
                break
            if kind == "(":
                groups.append(len(body))
            elif kind == ")":
                start = groups.pop()
            elif kind == "repeat":
                if before == "repeat":
                    body[start:] = [_OPEN, *body[start:], _CLOSE]
                text = self._repeat(text, position)
            elif kind != "|":
                start = len(body)
                text = self._item(token)
            body.append(_Token(kind, text, position))
            before = kind
        return body

    def _check_place(self, token: _Token, before: str, depth: int) -> None:
        kind, text, position = token
        if kind == "repeat" and before in {"|", "("}:
            raise self.error(f"nothing stands before {text[0]}", position)
        if kind == "line" and depth:
            raise self.error("expected )", position)
        if kind == ")" and not depth:
            raise self.error("expected the end of the line", position)
        if kind == "(" and depth == MAX_DEPTH:
            raise self.error(f"parentheses are nested more than {MAX_DEPTH} deep", position)

    def _count(self, number: int, position: int) -> None:
        self._num_symbols += number
        if self._num_symbols > MAX_SYMBOLS:
            raise self.error(f"the grammar has more than {MAX_SYMBOLS} symbols", position)

    def _item(self, token: _Token) -> str:
        kind, text, position = token
        if kind in {"invalid", "::="}:
            raise self._unexpected(token, "a rule's name, \", [, ( or .")
        if kind == "any":
            return "/(?s:.)/"
        if kind == "name":
            self.positions.setdefault(text, position)
            return text
        ranges = [*self._ranges(text, position, is_class=kind == "class")]
        if kind == "class":
            if not ranges:
                raise self.error("a class of characters is empty", position)
            return f"/[{'^' * text.startswith('[^')}{''.join(ranges)}]/"
        self._count(len(ranges), position)
        characters = [f"/{char}/" for char in ranges]
        return f"({' '.join(characters)})" if len(characters) > 1 else "".join(characters) or '""'

    def _ranges(self, text: str, position: int, *, is_class: bool) -> Iterator[str]:
        """Yield the characters of a string, or the ranges of a class, as expressions."""
        at, end = 1 + (is_class and text[1] == "^"), len(text) - 1
        while at < end:
            found = _RANGE.match(text, at, end)
            if found is None:
                raise self.error("unknown escape", position + at + 1)
            low = high = self._character(found[1], position + found.end(1))
            at = found.end(1)
            if is_class and found[2]:
                high, at = self._character(found[2], position + found.end()), found.end()
            if high < low:
                raise self.error("a range of characters ends before it begins", position)
            yield _escaped(low) if low == high else f"{_escaped(low)}-{_escaped(high)}"

    def _character(self, text: str, end: int) -> str:
        if text[0] != "\\":
            code = ord(text)
        elif text[1] in "xuU":
            code = int(text[2:], 16)  # noqa: FURB166
        else:
            code = ord(_ESCAPES.get(text[1], text[1]))
        if code > sys.maxunicode or code in _SURROGATES:
            raise self.error(f"U+{code:04X} is no character", end)
        return chr(code)

    def _repeat(self, text: str, position: int) -> str:
        if text in _REPEATS:
            return _REPEATS[text]
        braces = _BRACES.fullmatch(text)
        if braces is None:
            raise self.error("expected {m}, {m,} or {m,n}", position)
        least, most = int(braces[1]), int(braces[3] or braces[1])
        if max(least, most) > MAX_REPETITIONS:
            raise self.error(f"at most {MAX_REPETITIONS} repetitions are allowed", position)
        if most < least or (most == 0 and (braces[3] or not braces[2])):
            raise self.error("a repetition's bounds allow none", position)
        return f"{{{least},{'' if braces[2] and not braces[3] else most}}}"


def _escaped(char: str) -> str:
    """Write a character so that it means itself in any regular expression."""
    return char if char.isascii() and char.isalnum() else f"\\x{{{ord(char):X}}}"


def _reachable(rules: dict[str, _Body]) -> list[str]:
    found, waiting = {"root": None}, ["root"]
    while waiting:
        names = [token.text for token in rules[waiting.pop()] if token.kind == "name"]
        waiting += [name for name in dict.fromkeys(names) if name not in found]
        found |= dict.fromkeys(names)
    return list(found)


def _finite(rules: dict[str, _Body]) -> set[str]:
    """Return the rules that some finite text fulfils."""
    finite: set[str] = set()
    order, known = list(rules), -1
    while known < len(finite):
        known = len(finite)
        order.reverse()  # a chain of rules in either order takes two rounds
        for name in order:
            if name not in finite and _ends(rules[name], finite):
                finite.add(name)
    return finite


def _ends(body: _Body, finite: set[str]) -> bool:
    """Tell whether some finite text fulfils a rule, given others that have one."""
    # Of each open group: whether an alternative before ends, this one so far, and its last item.
    groups = [[False, True, True]]
    for kind, text, _ in [*body, _Token("|", "")]:
        if kind == "repeat":
            groups[-1][2] |= text.startswith("{0,")
            continue
        before, so_far, last = groups[-1]
        groups[-1] = [before, so_far and last, kind != "name" or text in finite]
        if kind in {"|", ")"}:
            groups[-1] = [before or (so_far and last), True, True]
        if kind == "(":
            groups.append([False, True, True])
        if kind == ")":
            ended = groups.pop()[0]
            groups[-1][2] = ended
    return groups[0][0]


def _lines(name: str, body: _Body, names: dict[str, str]) -> Iterator[str]:
    """Write a rule in Lark: `a: x a | y` as `a: x* y`."""
    loops, ends = list[_Body](), list[_Body]()
    for alternative in _alternatives(body):
        *before, last = alternative
        if (last.kind, last.text) == ("name", name):
            loops.append(before or [_EMPTY])
        else:
            ends.append(alternative)
    rule = names[name]
    yield f"{rule}: {_written(ends, names)}" if not loops else f"{rule}: {rule}_loop* {rule}_end"
    if loops:
        yield f"{rule}_loop: {_written(loops, names)}"
        yield f"{rule}_end: {_written(ends, names)}"


def _alternatives(body: _Body) -> Iterator[_Body]:
    depth, alternative = 0, _Body()
    for token in [*body, _Token("|", "|")]:
        depth += (token.kind == "(") - (token.kind == ")")
        if token.kind == "|" and not depth:
            yield alternative
            alternative = []
        else:
            alternative.append(token)


def _written(alternatives: list[_Body], names: dict[str, str]) -> str:
    def written(token: _Token) -> str:
        return names[token.text] if token.kind == "name" else token.text

    # A repetition stands close to what it repeats.
    texts = (" ".join(map(written, alternative)) for alternative in alternatives)
    return " | ".join(texts).replace(" {", "{")
