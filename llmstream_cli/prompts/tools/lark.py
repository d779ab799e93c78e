"""Patterns as expressions of llguidance's dialect of Lark."""

import json
from collections.abc import Mapping

from llmstream_cli.prompts.tools.pattern import RUNS, Mark, Option, Pattern, Slot

EMPTY = '""'


def express(
    pattern: Pattern,
    literals: Mapping[Slot, str] | None = None,
    expressions: Mapping[Slot, str] | None = None,
) -> str:
    """Return a pattern's expression, its slots filled; literals in a row become one."""
    literals, expressions = literals or {}, expressions or {}
    parts: list[str] = []
    literal = ""
    for piece in pattern:
        if isinstance(piece, str):
            literal += piece
            continue
        if isinstance(piece, Slot) and piece in literals:
            literal += literals[piece]
            continue
        if literal:
            parts.append(quoted(literal))
            literal = ""
        match piece:
            case Mark():
                parts.append(f"<[{piece.token_id}]>")
            case Option():
                parts.append(f"({express(piece.pieces, literals, expressions)})?")
            case Slot.SPACE:
                parts.append("space?")
            case Slot():
                parts.append(expressions.get(piece) or f"/{RUNS[piece].regex}/")
    if literal:
        parts.append(quoted(literal))
    return " ".join(parts) or EMPTY


def quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def one_of(expressions: list[str]) -> str:
    return f"({' | '.join(expressions)})"
