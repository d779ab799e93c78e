"""The values of arguments that are written one by one, as JSON."""

import json
import re
from collections.abc import Generator

from llmstream_cli.prompts.tools.pattern import Run
from llmstream_cli.prompts.tools.reader import MismatchError, Reader
from llmstream_cli.prompts.tools.schemas import Property, text_choices
from llmstream_cli.prompts.tools.syntax import ParameterSyntax, seen

_STRING = r'"(?:[^"\\]|\\.)*"'
_STRING_PART = re.compile(r'["\\]')
_KEY = r'[^\s"{}\[\]:,][^"{}\[\]:,]*(?=:)'
_WORD = Run("[A-Za-z0-9_.+-]", 1, 400)


def read_value(
    reader: Reader, syntax: ParameterSyntax, one: Property, place: int
) -> Generator[None, None, tuple[str, int]]:
    """Return the value that stands there, and the place behind it.

    Raises:
        MismatchError: none does.
    """
    if syntax.quote == () and text_choices(one.schema) is not None:
        end = yield from _find(reader, syntax.text_end, place)
        return _dump(reader.buffer[place:end]), end
    quote = seen(syntax.quote) if syntax.quote else ""
    end = yield from _end_of_value(reader, quote, place)
    return _as_json(reader.buffer[place:end], syntax, quote), end


def _find(reader: Reader, text: str, place: int) -> Generator[None, None, int]:
    while (found := reader.buffer.find(text, place)) < 0:
        place = max(place, len(reader.buffer) - len(text) + 1)
        yield from reader.more()
    return found


def _end_of_value(reader: Reader, quote: str, place: int) -> Generator[None, None, int]:
    """Return the place behind a string, a list, an object or a word."""
    depth = 0
    while True:
        here = reader.buffer[place : place + max(1, len(quote))]
        if not here or (here != quote and quote.startswith(here)):
            yield from reader.more()
            continue
        if here == quote:
            place = len(quote) + (yield from _find(reader, quote, place + len(quote)))
        elif here[0] == '"':
            place = yield from _end_of_string(reader, place + 1)
        elif here[0] in "{[":
            depth, place = depth + 1, place + 1
        elif depth:
            depth, place = depth - (here[0] in "}]"), place + 1
        else:
            return (yield from reader.run(_WORD, place))
        if not depth:
            return place


def _end_of_string(reader: Reader, place: int) -> Generator[None, None, int]:
    while True:
        part = _STRING_PART.search(reader.buffer, place)
        place = part.start() if part else len(reader.buffer)
        if part and part[0] == '"':
            return part.end()
        if part and part.end() < len(reader.buffer):
            place += 2  # what is escaped is skipped
        else:
            yield from reader.more()


def _as_json(text: str, syntax: ParameterSyntax, quote: str) -> str:
    if quote:
        text = _without_quotes(text, quote)
    text = syntax.words.get(text, text)
    try:
        json.loads(text)
    except ValueError as error:
        raise MismatchError from error
    return text


def _without_quotes(text: str, quote: str) -> str:
    """Rewrite a value whose strings stand between quotes and whose keys stand between nothing."""
    end = re.escape(quote)
    part = re.compile(rf"{end}(?P<text>.*?){end}|{_STRING}|(?P<key>{_KEY})", re.DOTALL)

    def rewrite(match: re.Match[str]) -> str:
        text = match["key"] if match["text"] is None else match["text"]
        return match[0] if text is None else _dump(text)

    return part.sub(rewrite, text)


def _dump(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
