"""A family's syntax, with the control tokens of one vocabulary in it."""

import json
from collections.abc import Sequence
from typing import NamedTuple

from llmstream_cli.prompts.tools.families import Family
from llmstream_cli.prompts.tools.pattern import Mark, Pattern, Slot, read_pattern, split_at


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
    characters: str  # that stand for control tokens
    quotes_name: bool  # the name is part of a JSON string

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
            ("{",),
            "".join(mark.character for mark in marks),
            '"%N"' in family.call,
        )

    @property
    def opens_by_token(self) -> bool:
        return bool(self.opening) and isinstance(self.opening[0], Mark)

    @property
    def opening_text(self) -> str:
        """How the opening looks in an answer's text."""
        return "".join(
            piece.character if isinstance(piece, Mark) else str(piece) for piece in self.opening
        )

    def written_name(self, name: str) -> str:
        return json.dumps(name, ensure_ascii=False)[1:-1] if self.quotes_name else name
