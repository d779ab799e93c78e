"""GBNF, the grammar notation of llama.cpp, translated to the Lark dialect of llguidance.

The notation is that of llama.cpp's guide (grammars/README.md in its repository), except for token
references, `<…>`. Every character becomes a terminal of its own: llguidance's lexer takes the
longest match, so that a terminal such as `[a-z]+` would swallow the `end` of `[a-z]+ "end"`.

Beyond the translation: undefined and repeated names are refused, as are rules that never end, such
as `a ::= "x" a`; and a rule that ends in itself, the usual way to write a list in GBNF, becomes a
loop, because a parser's work on right recursion grows with the length of the text.
"""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

from llmstream_cli.errors import InvalidValueError

MAX_DEPTH = 64  # of parentheses
MAX_SYMBOLS = 20_000
MAX_REPETITIONS = 10_000  # in one pair of braces

_NAME = re.compile(r"[A-Za-z0-9_-]+")
_SPACE = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_SPACE_AND_LINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_BRACES = re.compile(r"\{[ \t]*([0-9]{1,9})[ \t]*(,?)[ \t]*([0-9]{1,9})?[ \t]*\}")
_CODE_POINT = re.compile(r"x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}")
_ESCAPES = {"t": "\t", "r": "\r", "n": "\n"} | {char: char for char in '\\"[]-'}
_SURROGATES = range(0xD800, 0xE000)
_REPEATS: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}


@dataclass(frozen=True, slots=True)
class _Symbol:
    """One or more characters or a rule, repeated."""

    lark: str  # as Lark writes it
    rule: str | None = None  # the name of the rule that it refers to, if it does
    # The least and the most times, for each repetition from the inside out.
    repeats: tuple[tuple[int, int | None], ...] = ()

    @property
    def optional(self) -> bool:
        return any(least == 0 for least, _ in self.repeats)

    def __str__(self) -> str:
        text = self.lark
        for number, (least, most) in enumerate(self.repeats):
            inner = f"({text})" if number else text
            text = f"{inner}{{{least},{'' if most is None else most}}}"
        return text


_Sequence = list[_Symbol]


@dataclass(slots=True)
class _Rule:
    """Alternatives, each a sequence of symbols."""

    name: str  # what the rule is called in Lark, where names are bound to a case
    shown: str  # how an error message names it
    position: int  # where it stands in the grammar, or is first referred to
    # None while the rule is only referred to.
    alternatives: list[_Sequence] = field(default_factory=list)
    is_group: bool = False  # whether it is an expression in parentheses


def gbnf_to_lark(grammar: str) -> str:
    """Translate a grammar whose rule `root` is the whole answer.

    Raises:
        InvalidValueError: it is invalid, or too large, or a rule of it never ends; the message
            says where.
    """
    parser = _Parser(grammar)
    rules = parser.parse()
    for rule in rules.values():
        if not rule.alternatives:
            raise parser.error(f"rule {rule.shown} is not defined", rule.position)
    if "root" not in rules:
        raise InvalidValueError("grammar: there is no rule root", "grammar")
    reachable = _reachable(rules)
    if endless := [rules[name] for name in reachable - _finite(rules)]:
        rule = max(endless, key=lambda rule: rule.position)  # likely the cause, not who uses it
        raise parser.error(f"rule {rule.shown} never ends", rule.position)
    lines = [f"start: {rules['root'].name}"]
    for name in rules:
        if name in reachable:
            lines += _lines(rules[name], _flat_alternatives(rules[name], rules))
    return "\n".join(lines)


class _Parser:
    """A recursive descent over the grammar's text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._num_symbols = 0
        self._rules: dict[str, _Rule] = {}

    def parse(self) -> dict[str, _Rule]:
        """Return the rules by their names; groups are rules whose names no grammar can have."""
        self._skip(lines=True)
        while self._at < len(self._text):
            self._parse_rule()
            if self._at < len(self._text) and self._text[self._at] not in "\r\n":
                raise self.error("expected the end of the line")
            self._skip(lines=True)
        return self._rules

    def error(self, what: str, position: int | None = None) -> InvalidValueError:
        """Make an error that tells where."""
        at = self._at if position is None else position
        line = self._text.count("\n", 0, at) + 1
        column = at - self._text.rfind("\n", 0, at)
        return InvalidValueError(f"grammar, line {line}, column {column}: {what}", "grammar")

    def _rule(self, name: str) -> _Rule:
        if name not in self._rules:
            self._rules[name] = _Rule(f"r{len(self._rules)}", name, self._at)
        return self._rules[name]

    def _parse_rule(self) -> None:
        position = self._at
        name = self._match(_NAME, "a rule's name")
        rule = self._rule(name)
        if rule.alternatives:
            raise self.error(f"rule {name} is defined twice", position)
        self._skip(lines=False)
        if not self._text.startswith("::=", self._at):
            raise self.error("expected ::=")
        self._at += 3
        self._skip(lines=True)
        rule.position = position
        rule.alternatives = self._parse_alternatives(depth=0)

    def _parse_alternatives(self, depth: int) -> list[_Sequence]:
        if depth > MAX_DEPTH:
            raise self.error(f"parentheses are nested more than {MAX_DEPTH} deep")
        alternatives = [self._parse_sequence(depth)]
        while self._peek() == "|":
            self._at += 1
            self._skip(lines=True)
            alternatives.append(self._parse_sequence(depth))
        return alternatives

    def _parse_sequence(self, depth: int) -> _Sequence:
        sequence: _Sequence = []
        while (char := self._peek()) and char not in "|)\r\n":
            if char in "*+?{":
                raise self.error(f"nothing stands before {char}")
            symbol = self._parse_symbol(char, depth)
            self._skip(lines=depth > 0)
            repeats = []
            while (repeat := self._parse_repeat()) is not None:
                repeats.append(repeat)
                self._skip(lines=depth > 0)
            if symbol is not None:
                sequence.append(_Symbol(symbol.lark, symbol.rule, tuple(repeats)))
            self._num_symbols += 1
            if self._num_symbols > MAX_SYMBOLS:
                raise self.error(f"the grammar has more than {MAX_SYMBOLS} symbols")
        return sequence

    def _parse_symbol(self, char: str, depth: int) -> _Symbol | None:
        """Return what begins with this character; None for an empty string."""
        if char == '"':
            return self._parse_literal()
        if char == "[":
            return self._parse_class()
        if char == ".":
            self._at += 1
            return _Symbol("/(?s:.)/")
        if char == "(":
            return self._parse_group(depth)
        if char in "<!":
            raise self.error("references to tokens are not supported")
        name = self._match(_NAME, "a rule's name, \", [, ( or .", advance=False)
        rule = self._rule(name)
        self._at += len(name)
        return _Symbol(rule.name, name)

    def _parse_group(self, depth: int) -> _Symbol:
        name = f"({self._at}"
        rule = self._rules[name] = _Rule(f"r{len(self._rules)}", "(…)", self._at, is_group=True)
        self._at += 1
        self._skip(lines=True)
        rule.alternatives = self._parse_alternatives(depth + 1)
        if self._peek() != ")":
            raise self.error("expected )")
        self._at += 1
        return _Symbol(rule.name, name)

    def _parse_literal(self) -> _Symbol | None:
        self._at += 1
        characters = []
        while self._peek() != '"':
            characters.append(f"/{_escaped(self._parse_character())}/")
        self._at += 1
        self._num_symbols += len(characters)
        if not characters:
            return None
        return _Symbol(characters[0] if len(characters) == 1 else f"({' '.join(characters)})")

    def _parse_class(self) -> _Symbol:
        begin = self._at
        self._at += 1
        negated = self._peek() == "^"
        self._at += negated
        ranges = []
        while self._peek() != "]":
            low = high = self._parse_character()
            if self._peek() == "-" and self._text[self._at + 1 : self._at + 2] != "]":
                self._at += 1
                high = self._parse_character()
            if high < low:
                raise self.error("a range of characters ends before it begins", begin)
            ranges.append(_escaped(low) if low == high else f"{_escaped(low)}-{_escaped(high)}")
        self._at += 1
        if not ranges:
            raise self.error("a class of characters is empty", begin)
        return _Symbol(f"/[{'^' * negated}{''.join(ranges)}]/")

    def _parse_character(self) -> str:
        char = self._peek()
        if not char:
            raise self.error("the grammar ends inside a string or a class of characters")
        self._at += 1
        if char != "\\":
            return self._checked(ord(char))
        code_point = _CODE_POINT.match(self._text, self._at)
        if code_point is not None:
            self._at = code_point.end()
            return self._checked(int(code_point[0][1:], 16))
        escape = self._peek()
        if escape not in _ESCAPES:
            raise self.error("unknown escape")
        self._at += 1
        return _ESCAPES[escape]

    def _checked(self, code_point: int) -> str:
        if code_point > sys.maxunicode or code_point in _SURROGATES:
            raise self.error(f"U+{code_point:04X} is no character")
        return chr(code_point)

    def _parse_repeat(self) -> tuple[int, int | None] | None:
        char = self._peek()
        if char in _REPEATS:
            self._at += 1
            return _REPEATS[char]
        if char != "{":
            return None
        braces = _BRACES.match(self._text, self._at)
        if braces is None or (braces[3] and not braces[2]):
            raise self.error("expected {m}, {m,} or {m,n}")
        least = int(braces[1])
        most = int(braces[3]) if braces[3] else None if braces[2] else least
        if max(least, most or 0) > MAX_REPETITIONS:
            raise self.error(f"at most {MAX_REPETITIONS} repetitions are allowed")
        if most is not None and most < max(least, 1):
            raise self.error("a repetition's bounds allow none")
        self._at = braces.end()
        return least, most

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _match(self, pattern: re.Pattern[str], what: str, *, advance: bool = True) -> str:
        found = pattern.match(self._text, self._at)
        if found is None:
            raise self.error(f"expected {what}")
        if advance:
            self._at = found.end()
        return found[0]

    def _skip(self, *, lines: bool) -> None:
        found = (_SPACE_AND_LINES if lines else _SPACE).match(self._text, self._at)
        assert found is not None
        self._at = found.end()


def _escaped(char: str) -> str:
    """Write a character so that it means itself in any regular expression."""
    return char if char.isascii() and char.isalnum() else f"\\x{{{ord(char):X}}}"


def _reachable(rules: dict[str, _Rule]) -> set[str]:
    found, waiting = {"root"}, ["root"]
    while waiting:
        for sequence in rules[waiting.pop()].alternatives:
            new = {symbol.rule for symbol in sequence if symbol.rule is not None} - found
            found |= new
            waiting += new
    return found


def _finite(rules: dict[str, _Rule]) -> set[str]:
    """Return the rules that some finite text fulfils."""
    finite: set[str] = set()
    users: dict[str, list[str]] = {}
    for name, rule in rules.items():
        for sequence in rule.alternatives:
            for symbol in sequence:
                users.setdefault(symbol.rule or "", []).append(name)
    waiting = list(rules)
    while waiting:
        name = waiting.pop()
        if name not in finite and any(
            all(symbol.rule in finite or not symbol.rule or symbol.optional for symbol in sequence)
            for sequence in rules[name].alternatives
        ):
            finite.add(name)
            waiting += users.get(name, ())
    return finite


def _flat_alternatives(rule: _Rule, rules: dict[str, _Rule]) -> list[_Sequence]:
    """Return a rule's alternatives, with those in parentheses around a whole one: `(x a)?`."""
    flat: list[_Sequence] = []
    for sequence in rule.alternatives:
        group = rules.get(sequence[0].rule or "") if len(sequence) == 1 else None
        if group is None or not group.is_group or sequence[0].repeats not in {(), ((0, 1),)}:
            flat.append(sequence)
            continue
        flat += group.alternatives
        if sequence[0].repeats:
            flat.append([])
    return flat


def _lines(rule: _Rule, alternatives: list[_Sequence]) -> Iterator[str]:
    """Write a rule in Lark: `a: x a | y` as `a: x* y`."""
    loops, ends = list[_Sequence](), list[_Sequence]()
    for sequence in alternatives:
        if sequence and sequence[-1].lark == rule.name and not sequence[-1].repeats:
            loops.append(sequence[:-1])
        else:
            ends.append(sequence)
    if not loops:
        yield f"{rule.name}: {_written(ends)}"
        return
    yield f"{rule.name}: {rule.name}_loop* {rule.name}_end"
    yield f"{rule.name}_loop: {_written(loops)}"
    yield f"{rule.name}_end: {_written(ends)}"


def _written(alternatives: list[_Sequence]) -> str:
    return " | ".join(" ".join(map(str, sequence)) or '""' for sequence in alternatives)
