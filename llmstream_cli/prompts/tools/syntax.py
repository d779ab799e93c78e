"""A family's syntax, with the control tokens of one vocabulary in it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from llmstream_cli.prompts.messages import Tool
from llmstream_cli.prompts.tools.families import Family, Parameters
from llmstream_cli.prompts.tools.pattern import Mark, Pattern, Slot, read_pattern, split_at
from llmstream_cli.prompts.tools.schemas import Property, list_properties, read_properties


def seen(pattern: Pattern) -> str:
    """Return how literals and control tokens look in an answer's text."""
    return "".join(piece.character if isinstance(piece, Mark) else str(piece) for piece in pattern)


class ParameterSyntax(NamedTuple):
    """See `Parameters`."""

    head: Pattern  # up to the value
    tail: Pattern  # behind it
    between: Pattern
    quote: Pattern | None
    words: Mapping[str, str]
    sorted: bool

    @classmethod
    def of(cls, parameters: Parameters, marks: Sequence[Mark]) -> "ParameterSyntax":
        return cls(
            *split_at(read_pattern(parameters.pattern, marks), Slot.VALUE),
            read_pattern(parameters.between, marks),
            None if parameters.quote is None else read_pattern(parameters.quote, marks),
            parameters.words,
            parameters.sorted,
        )

    @property
    def text_end(self) -> str:
        """What ends a string, as it looks in an answer's text."""
        return seen(self.quote or self.tail[:1])

    def properties(self, of: Tool | dict[str, Any]) -> list[Property]:
        """Return what a tool's schema lists, or a schema of objects, as it is to be written."""
        properties = read_properties(of) if isinstance(of, Tool) else list_properties(of)
        return sorted(properties, key=lambda one: one.name) if self.sorted else properties


class Syntax(NamedTuple):
    """See `Family`."""

    opening: Pattern
    begin: Pattern
    call: Pattern
    between: Pattern
    end: Pattern
    evidence: Pattern
    head: Pattern  # of a call, up to its arguments
    tail: Pattern  # behind them
    arguments_begin: Pattern
    parameters: "ParameterSyntax | None"
    characters: str  # that stand for control tokens
    quotes_name: bool  # the name is part of a JSON string
    opening_text: str  # how the opening looks in an answer's text

    @classmethod
    def of(cls, family: Family, marks: Sequence[Mark]) -> "Syntax":
        def read(text: str) -> Pattern:
            return read_pattern(text, marks)

        call = read(family.call)
        return cls(
            read(family.opening),
            read(family.begin),
            call,
            read(family.between),
            read(family.end),
            read(family.evidence),
            *split_at(call, Slot.ARGUMENTS),
            () if family.parameters else ("{",),
            ParameterSyntax.of(family.parameters, marks) if family.parameters else None,
            family.given + "".join(mark.character for mark in marks),
            '"%N"' in family.call,
            family.given or seen(read(family.opening)),
        )

    @property
    def opens_by_token(self) -> bool:
        return bool(self.opening) and isinstance(self.opening[0], Mark)

    def written_name(self, name: str) -> str:
        return json.dumps(name, ensure_ascii=False)[1:-1] if self.quotes_name else name
