"""The calls in an answer's text, told from the text before them as it comes.

1. A call begins with the family's opening. One that is a control token counts anywhere; one that is
   spelled counts at the beginning of a line, and only with what proves it.
2. A call is announced when its name is one of the tools and its arguments begin. What proves to be
   no call before the first was announced is text, in its place.
3. No text comes after the first call: what stands behind it and is no call is left out.
4. White space before a call belongs to neither, and control tokens of calls have no text.

What comes out does not depend on how the text was cut. Pure: no I/O, clock, thread, or model.
"""

import json
import re
from collections.abc import Generator, Sequence

from llmstream_cli.prompts.messages import Tool, ToolCallDelta
from llmstream_cli.prompts.tools.pattern import WHITE_SPACE
from llmstream_cli.prompts.tools.reader import MismatchError, Reader
from llmstream_cli.prompts.tools.syntax import ParameterSyntax, Syntax
from llmstream_cli.prompts.tools.values import read_value

_OBJECT_PART = re.compile(r'[{}\[\]"]')
_STRING_PART = re.compile(r'["\\]')


class CallParser:
    """Tells the calls of one answer from its text.

    Attributes:
        rest: the text behind the opening of the first call, after the push in which the call has
            begun and until the next; else None.
        num_calls: how many have been announced.
        in_call: a call has begun and not ended.
    """

    def __init__(
        self, syntax: Syntax, tools: Sequence[Tool], *, begun: bool, parallel: bool
    ) -> None:
        self.rest: str | None = None
        self.num_calls = 0
        self.in_call = begun
        self._syntax = syntax
        self._parallel = parallel and bool(syntax.between)
        self._reader = Reader(syntax, tools)
        self._finder = _Finder(syntax)
        self._text: list[str] = []
        self._calls: list[ToolCallDelta] = []
        self._reading = self._read(begun)
        next(self._reading)

    def push(self, text: str) -> tuple[str, tuple[ToolCallDelta, ...]]:
        """Add text; return the text that is certain, and what was added to calls."""
        self.rest = None
        self._reader.buffer += text
        next(self._reading, None)
        certain, calls = "".join(self._text), tuple(self._calls)
        self._text, self._calls = [], []
        return certain, calls

    def flush(self) -> tuple[str, tuple[ToolCallDelta, ...]]:
        """End the stream; return what was held back."""
        self._reader.ended = True
        return self.push("")

    def _read(self, begun: bool) -> Generator[None, None, None]:
        reader = self._reader
        yield
        place = 0
        while not reader.ended or reader.buffer:
            if not begun:
                place = yield from self._find_opening()
            at_least, begun = int(not begun), False
            try:
                yield from self._read_calls(place)
            except MismatchError:
                self.in_call = self.in_call and reader.ended
            if self.num_calls:
                break
            self.rest = None
            self._emit(max(place, at_least))
        while not reader.ended:
            reader.buffer = ""
            yield

    # ---- text ----

    def _find_opening(self) -> Generator[None, None, int]:
        """Pass text on until an opening begins the buffer; return the place behind it."""
        reader, finder = self._reader, self._finder
        while True:
            start, end = finder.find(reader.buffer)
            certain = reader.buffer[:start]
            if end is not None or not reader.ended:
                certain = certain.rstrip(WHITE_SPACE)
            self._emit(len(certain))
            if end is not None:
                return end - len(certain)
            if reader.ended:
                self._emit(len(reader.buffer))
                return 0
            yield

    def _emit(self, count: int) -> None:
        text = self._reader.take(count)
        self._finder.pass_by(text)
        self._text.append(text)

    # ---- calls ----

    def _read_calls(self, place: int) -> Generator[None, None, None]:
        syntax, reader = self._syntax, self._reader
        if not syntax.opens_by_token:
            yield from reader.match(syntax.evidence, place)
        self.in_call = True
        self.rest = reader.buffer[place:]
        place = yield from reader.match(syntax.begin, place)
        while True:
            place = yield from reader.match(syntax.head, place)
            yield from reader.match(syntax.arguments_begin, place)
            self._calls.append(ToolCallDelta(self.num_calls, reader.tool.name))
            self.num_calls += 1
            reader.take(place)
            if syntax.parameters is None:
                yield from self._read_object()
            else:
                yield from self._read_parameters(syntax.parameters)
            reader.take((yield from reader.match(syntax.tail, 0)))
            self.in_call = False
            if syntax.end and (yield from reader.matches(syntax.end, 0)):
                return
            if not self._parallel:
                return
            place = yield from reader.match(syntax.between, 0)
            self.in_call = True

    def _add(self, arguments: str) -> None:
        if arguments:
            self._calls.append(ToolCallDelta(self.num_calls - 1, arguments=arguments))

    def _read_object(self) -> Generator[None, None, None]:
        """Pass a JSON object on as it comes."""
        reader = self._reader
        depth, in_string = 0, False
        while True:
            place = 0
            while place < len(reader.buffer):
                part = (_STRING_PART if in_string else _OBJECT_PART).search(reader.buffer, place)
                if part is None:
                    place = len(reader.buffer)
                elif part[0] == "\\":
                    if part.end() == len(reader.buffer):
                        break  # what it escapes is still to come
                    place = part.end() + 1
                else:
                    place = part.end()
                    if part[0] == '"':
                        in_string = not in_string
                    else:
                        depth += 1 if part[0] in "{[" else -1
                    if not depth:
                        break
            self._add(reader.take(place))
            if not depth:
                return
            yield from reader.more()

    def _read_parameters(self, syntax: ParameterSyntax) -> Generator[None, None, None]:
        """Pass arguments on, each as it is complete."""
        reader = self._reader
        properties = {one.name: one for one in syntax.properties(reader.tool)}
        opened = False
        while not (yield from reader.matches(self._syntax.tail[:1], 0)):
            place = 0
            if opened:
                place = yield from reader.match(syntax.between, place)
            place = yield from reader.match(syntax.head, place, properties)
            name = reader.key
            value, place = yield from read_value(reader, syntax, properties.pop(name), place)
            place = yield from reader.match(syntax.tail, place)
            reader.take(place)
            begin = ", " if opened else "{"
            opened = True
            self._add(f"{begin}{json.dumps(name, ensure_ascii=False)}: {value}")
        self._add("}" if opened else "{}")


class _Finder:
    """Finds the opening of a first call in text."""

    def __init__(self, syntax: Syntax) -> None:
        self._by_token = syntax.opens_by_token
        self._tag = syntax.opening_text
        self._line_begins = True  # where the text begins
        self._begins = True  # it is the answer's beginning, white space apart
        tag = re.escape(self._tag)
        if self._by_token:
            self._opening = re.compile(tag)
        elif tag:
            self._opening = re.compile(rf"(?m:^)[ \t]*{tag}")
        else:
            self._opening = re.compile(rf"\A[{WHITE_SPACE}]*(?=[^{WHITE_SPACE}])")

    def find(self, text: str) -> tuple[int, int | None]:
        """Return where an opening begins and ends, or where one may begin, and None."""
        if self._tag or self._begins:
            skips_line = not (self._line_begins or self._by_token)
            if match := self._opening.search(text, int(skips_line)):
                return match.start(), match.end()
        if self._by_token or not self._tag:
            return len(text), None
        line = text.rpartition("\n")[2]
        if len(line) == len(text) and not self._line_begins:
            return len(text), None
        may_begin = self._tag.startswith(line.lstrip(" \t"))
        return len(text) - len(line) * may_begin, None

    def pass_by(self, text: str) -> None:
        """Know of text that stands before what is searched next."""
        if text:
            self._line_begins = text.endswith("\n")
            self._begins = self._begins and not text.strip(WHITE_SPACE)
