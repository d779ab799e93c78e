"""The grammar of calls, in llguidance's dialect of Lark."""

from collections.abc import Callable, Sequence

from llmstream_cli.prompts.messages import Tool
from llmstream_cli.prompts.tools.lark import express
from llmstream_cli.prompts.tools.parameter_grammar import ParameterWriter
from llmstream_cli.prompts.tools.pattern import RUNS, Slot
from llmstream_cli.prompts.tools.schemas import object_schema
from llmstream_cli.prompts.tools.syntax import Syntax


def write_grammar(
    syntax: Syntax,
    tools: Sequence[Tool],
    *,
    begun: bool,
    parallel: bool,
    arguments: Callable[[Tool], str],
) -> str:
    """Return the grammar of calls of these tools; see `CallFormat.grammar`."""
    begin = express(syntax.begin if begun else syntax.opening + syntax.begin)
    more = ""
    if parallel and syntax.between:
        more = f"({express(syntax.between)} call)*"
    rules = {
        "start": f"{begin} call {more} {express(syntax.end)}",
        "call": " | ".join(f"tool{number}" for number in range(len(tools))),
        "space": f"/{RUNS[Slot.SPACE].regex}/",
    }
    for number, tool in enumerate(tools):
        rule = f"tool{number}"
        if syntax.parameters:
            writer = ParameterWriter(syntax.parameters, tool, rule, arguments, rules)
            written = writer.write_object(syntax.parameters.properties(tool))
        else:
            written = arguments(object_schema(tool))
        name = syntax.written_name(tool.name)
        rules[rule] = express(syntax.call, {Slot.NAME: name}, {Slot.ARGUMENTS: written})
    return "".join(f"{name}: {expression}\n" for name, expression in rules.items())


def as_json(tool: Tool) -> str:
    return f"%json {tool.parameters}"
