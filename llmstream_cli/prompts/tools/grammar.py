"""The grammar of calls, in llguidance's dialect of Lark."""

import json
from collections.abc import Callable, Sequence

from llmstream_cli.prompts.messages import Tool
from llmstream_cli.prompts.tools.pattern import REGEXES, Mark, Option, Pattern, Slot
from llmstream_cli.prompts.tools.schemas import object_schema
from llmstream_cli.prompts.tools.syntax import Syntax

_EMPTY = '""'


class GrammarWriter:
    """Writes the grammar of one request's calls."""

    def __init__(self, syntax: Syntax, arguments: Callable[[Tool], str] | None) -> None:
        self._syntax = syntax
        self._arguments = arguments or as_json
        self._rules: dict[str, str] = {"space": f"/{REGEXES[Slot.SPACE]}/"}

    def write(self, tools: Sequence[Tool], *, begun: bool, parallel: bool) -> str:
        syntax = self._syntax
        begin = self._expression(syntax.begin if begun else syntax.opening + syntax.begin)
        end = self._expression(syntax.end)
        more = ""
        if parallel and syntax.between:
            more = f"({self._expression(syntax.between)} call)*"
        names = [self._tool(number, tool) for number, tool in enumerate(tools)]
        rules = {"start": f"{begin} call {more} {end}", "call": " | ".join(names)} | self._rules
        return "".join(f"{name}: {expression}\n" for name, expression in rules.items())

    def _tool(self, number: int, tool: Tool) -> str:
        rule = f"tool{number}"
        self._rules[rule] = self._expression(self._syntax.call, tool)
        return rule

    def _expression(self, pattern: Pattern, tool: Tool | None = None) -> str:
        """Return a pattern's expression; literals in a row, and a name among them, become one."""
        parts: list[str] = []
        literal = ""
        for piece in (*pattern, None):
            if isinstance(piece, str):
                literal += piece
                continue
            if piece is Slot.NAME:
                assert tool is not None
                literal += self._syntax.written_name(tool.name)
                continue
            if literal:
                parts.append(quoted(literal))
                literal = ""
            match piece:
                case Mark():
                    parts.append(f"<[{piece.token_id}]>")
                case Option():
                    parts.append(f"({self._expression(piece.pieces, tool)})?")
                case Slot.SPACE:
                    parts.append("space?")
                case Slot.ARGUMENTS:
                    assert tool is not None
                    parts.append(self._arguments(object_schema(tool)))
                case Slot():
                    parts.append(f"/{REGEXES[piece]}/")
        return " ".join(parts) or _EMPTY


def as_json(tool: Tool) -> str:
    return f"%json {tool.parameters}"


def quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
