"""Text that is compared with patterns as it comes."""

import re
from collections.abc import Collection, Generator, Sequence

from llmstream_cli.prompts.messages import Tool
from llmstream_cli.prompts.tools.pattern import (
    RUNS,
    Mark,
    Option,
    Pattern,
    Run,
    Slot,
)
from llmstream_cli.prompts.tools.syntax import Syntax

Reading = Generator[None, None, int]  # yields for more text, returns the place behind


class MismatchError(Exception):
    """What stands there is not what the pattern asks for."""


class Reader:
    """Compares the text in its buffer with patterns, and waits for more where that is needed."""

    def __init__(self, syntax: Syntax, tools: Sequence[Tool]) -> None:
        self.buffer = ""  # from what is not certain on
        self.ended = False
        self.tool = Tool("")  # whose name was read last
        self.key = ""  # the name of the argument that was
        self._tools = {syntax.written_name(tool.name): tool for tool in tools}
        self._marks = dict.fromkeys(map(ord, syntax.characters))

    def take(self, count: int) -> str:
        """Take text away from the beginning; control tokens have none."""
        text, self.buffer = self.buffer[:count], self.buffer[count:]
        return text.translate(self._marks)

    def more(self) -> Generator[None, None, None]:
        if self.ended:
            raise MismatchError
        yield

    def match(self, pattern: Pattern, place: int, keys: Collection[str] = ()) -> Reading:
        """Return the place behind what the pattern asks for.

        Args:
            pattern: may have the slots of names and ids.
            place: where it begins in the buffer.
            keys: the names of arguments that there can be.

        Raises:
            MismatchError: something else stands there.
        """
        for piece in pattern:
            match piece:
                case str():
                    place = yield from self._literal(piece, place)
                case Mark():
                    place = yield from self._literal(piece.character, place)
                case Option():
                    try:
                        place = yield from self.match(piece.pieces, place)
                    except MismatchError:
                        continue
                case Slot.SPACE:
                    place = yield from self.run(RUNS[piece]._replace(least=0), place)
                case Slot.NAME:
                    name = yield from self.one_of(self._tools, place)
                    self.tool = self._tools[name]
                    place += len(name)
                case Slot.KEY:
                    self.key = yield from self.one_of(keys, place)
                    place += len(self.key)
                case Slot():
                    place = yield from self.run(RUNS[piece], place)
        return place

    def matches(self, pattern: Pattern, place: int) -> Generator[None, None, bool]:
        try:
            yield from self.match(pattern, place)
        except MismatchError:
            return False
        return True

    def one_of(self, texts: Collection[str], place: int) -> Generator[None, None, str]:
        """Return the longest of the texts that stand there."""
        while True:
            here = self.buffer[place:]
            longer = any(len(text) > len(here) and text.startswith(here) for text in texts)
            if longer and not self.ended:
                yield
                continue
            found = [text for text in texts if here.startswith(text)]
            if not found:
                raise MismatchError
            return max(found, key=len)

    def _literal(self, literal: str, place: int) -> Reading:
        while True:
            here = self.buffer[place : place + len(literal)]
            if not literal.startswith(here):
                raise MismatchError
            if len(here) == len(literal):
                return place + len(literal)
            yield from self.more()

    def run(self, run: Run, place: int) -> Reading:
        regex = re.compile(f"{run.characters}{{0,{run.most}}}")
        while True:
            match = regex.match(self.buffer, place)
            length = match.end() - place if match else 0
            if length == run.most or place + length < len(self.buffer) or self.ended:
                if length < run.least:
                    raise MismatchError
                return place + length
            yield
