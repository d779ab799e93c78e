"""The grammar of arguments that are written one by one."""

from collections.abc import Callable, Sequence
from typing import Any

from llmstream_cli.prompts.messages import Tool
from llmstream_cli.prompts.tools.lark import EMPTY, express, one_of, quoted
from llmstream_cli.prompts.tools.pattern import Mark, Pattern, Slot
from llmstream_cli.prompts.tools.schemas import (
    Property,
    as_tool,
    plain_type,
    text_choices,
)
from llmstream_cli.prompts.tools.syntax import ParameterSyntax

_ANY_TEXT = "/(?s:.+)/"


class ParameterWriter:
    """Writes the arguments of one tool."""

    def __init__(
        self,
        syntax: ParameterSyntax,
        tool: Tool,
        prefix: str,
        as_json: Callable[[Tool], str],
        rules: dict[str, str],
    ) -> None:
        self._syntax = syntax
        self._tool = tool
        self._prefix = prefix
        self._as_json = as_json
        self._rules = rules
        self._num_rules = 0

    def write_object(self, properties: Sequence[Property]) -> str:
        """Return an expression for arguments, each once and in the order of the schema."""
        # Behind each argument there are two states: by whether one has been written so far.
        rests = {False: EMPTY, True: EMPTY}
        for one in reversed(properties):
            parameter = self._rule(self._parameter(one))
            between = express(self._syntax.between)
            written = {
                False: f"{parameter} {rests[True]}",
                True: f"{between} {parameter} {rests[True]}",
            }
            rests = {
                begun: self._rule(
                    written[begun] if one.required else one_of([written[begun], rests[begun]])
                )
                for begun in (False, True)
            }
        return rests[False]

    def _rule(self, expression: str) -> str:
        name = f"{self._prefix}_{self._num_rules}"
        self._num_rules += 1
        self._rules[name] = expression
        return name

    def _parameter(self, one: Property) -> str:
        head = express(self._syntax.head, {Slot.KEY: one.name})
        tail = self._syntax.tail
        choices = text_choices(one.schema)
        if self._syntax.quote != () or choices is None:
            return f"{head} {self._value(one.schema)} {express(tail)}"
        if choices:
            return f"{head} {one_of([*map(quoted, choices)])} {express(tail)}"
        return f"{head} {self._text_until(tail)}"

    def _value(self, schema: dict[str, Any]) -> str:
        quote, words = self._syntax.quote, self._syntax.words
        choices = text_choices(schema)
        if quote and choices is not None:
            if not choices:
                return f"{express(quote)} {self._text_until(quote)}"
            texts = one_of([*map(quoted, choices)])
            return f"{express(quote)} {texts} {express(quote)}"
        kind = plain_type(schema)
        if words and kind in ("boolean", "null"):
            names = {"boolean": ("true", "false"), "null": ("null",)}[kind]
            return one_of([quoted(word) for word, name in words.items() if name in names])
        if quote and kind == "array":
            item = self._rule(self._value(schema["items"]))
            return f'"[" ({item} ("," {item})*)? "]"'
        if quote and kind == "object":
            return f'"{{" {self.write_object(self._syntax.properties(schema))} "}}"'
        return self._as_json(as_tool(self._tool, schema))

    def _text_until(self, end: Pattern) -> str:
        """Return an expression for text and for what stands behind it."""
        first, *rest = end
        if isinstance(first, Mark):
            return f"{_ANY_TEXT}? {express(end)}"
        name = self._rule("/(?s:.*)/")
        self._rules[f"{name}[suffix={quoted(str(first))}]"] = self._rules.pop(name)
        return f"{name} {express(tuple(rest))}"
