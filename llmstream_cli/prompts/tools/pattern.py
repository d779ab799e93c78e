"""The syntax of a family's calls, from one line that both the grammar and the parser are made of.

In a pattern stand `%N` for the tool's name, `%A` for its arguments, `%I` for an id as Mistral's
models write it and `%#` for a number; of one argument `%K` is the name and `%V` the value. A space
is white space that may be missing, a line break is one, what stands between `⟨` and `⟩` is
optional, and all else is literal.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import NamedTuple

WHITE_SPACE = " \t\r\n"
MAX_SPACE = 40  # characters


class Slot(Enum):
    """What stands for something else in a pattern."""

    NAME = "%N"
    ARGUMENTS = "%A"
    ID = "%I"
    NUMBER = "%#"
    KEY = "%K"
    VALUE = "%V"
    SPACE = " "


class Run(NamedTuple):
    """Characters of one class in a row."""

    characters: str  # as a regular expression writes the class
    least: int
    most: int

    @property
    def regex(self) -> str:
        return f"{self.characters}{{{self.least},{self.most}}}"


RUNS = {
    Slot.ID: Run("[A-Za-z0-9]", 9, 9),
    Slot.NUMBER: Run("[0-9]", 1, 6),
    Slot.SPACE: Run(r"[ \t\r\n]", 1, MAX_SPACE),
}


class Mark(NamedTuple):
    """A control token, and the character that stands for it in an answer's text."""

    token_id: int
    character: str
    text: str  # what the token looks like


class Option(NamedTuple):
    """What may be missing."""

    pieces: tuple["Piece", ...]


Piece = str | Slot | Mark | Option
Pattern = tuple[Piece, ...]


def read_pattern(text: str, marks: Sequence[Mark]) -> Pattern:
    """Read a pattern in which the texts of control tokens are those tokens."""
    tokens = sorted((mark.text for mark in marks), key=len, reverse=True)
    slots = [slot.value for slot in Slot]
    by_text: Mapping[str, Piece] = {slot.value: slot for slot in Slot} | {
        mark.text: mark for mark in marks
    }
    parts = re.split(f"({'|'.join(map(re.escape, [*tokens, '⟨', '⟩', *slots]))})", text)
    return tuple(_read(iter(part for part in parts if part), by_text))


def _read(parts: Iterator[str], by_text: Mapping[str, Piece]) -> Iterator[Piece]:
    for part in parts:
        if part == "⟩":
            return
        if part == "⟨":
            yield Option(tuple(_read(parts, by_text)))
        else:
            yield by_text.get(part, part)


def split_at(pattern: Pattern, slot: Slot) -> tuple[Pattern, Pattern]:
    """Return what stands before a slot, and what behind it."""
    place = pattern.index(slot)
    return pattern[:place], pattern[place + 1 :]
