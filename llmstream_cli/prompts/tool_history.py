"""Tools, calls and results as a chat template takes them.

Templates differ in whether they write tools down at all, in how they take a call's arguments, in
the ids that they let pass, and in the role of a result. So a sample is rendered each way, and the
first holds in which every part of it is written. What a template writes in none is given to it as
text: tools in a system message, calls in the assistant's, results in the user's.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from typing import Any, Literal, NamedTuple, get_args

from llmstream_cli.errors import PromptError
from llmstream_cli.prompts.messages import Message, Tool, ToolCall

_Arguments = Literal["object", "string"]
_Ids = Literal["own", "short", "indexed"]


class ToolStyle(NamedTuple):
    """How a template takes what belongs to tools."""

    lists_tools: bool = False
    writes_calls: bool = False  # and results
    arguments: _Arguments = "object"
    ids: _Ids = "own"  # or 9 letters and digits, or the name and a number
    result_role: str = "tool"


AS_TEXT = ToolStyle()
_STYLES = [
    ToolStyle(True, True, arguments, ids, role)
    for role in ("tool", "ipython", "tool_response")
    for ids in get_args(_Ids)
    for arguments in get_args(_Arguments)
]
_SHORT_ID_CHARS = 9
_SAMPLE_TOOL = Tool(
    "marktool", "marktext", '{"type":"object","properties":{"markkey":{"type":"string"}}}'
)
_SAMPLE_CALL = ToolCall("markcall", '{"markkey": "markvalue"}', "call_1")
_SAMPLE = (
    Message("user", "x"),
    Message("assistant", tool_calls=(_SAMPLE_CALL,)),
    Message("tool", "markresult", tool_call_id="call_1", tool_name="markcall"),
)

_LIST = """\
# Tools

You may call functions to help with the request. These there are, one in a line:
<tools>
{tools}
</tools>
"""
_FORM = """
To call one, write its name and its arguments as a JSON object between these tags, and nothing \
behind them:
<tool_call>
{"name": "the function's name", "arguments": {"the argument's name": "its value"}}
</tool_call>"""
_OWN_FORM = """
To call one, write its name and its arguments in the form that you know for calls."""

Render = Callable[[Sequence[Message], Sequence[Tool], ToolStyle], str]


def find_style(render: Render) -> ToolStyle:
    """Return how a template takes tools, by rendering samples."""
    lists_tools = _writes(render, _SAMPLE[:1], (_SAMPLE_TOOL,), AS_TEXT, "marktool", "markkey")
    tools = (_SAMPLE_TOOL,) if lists_tools else ()
    for style in _STYLES:
        messages = link_results(_SAMPLE, style)
        marks = "markcall", "markkey", "markvalue", "markresult"
        if _writes(render, messages, tools, style, *marks):
            return style._replace(lists_tools=lists_tools)
    return ToolStyle(lists_tools)


def _writes(
    render: Render,
    messages: Sequence[Message],
    tools: Sequence[Tool],
    style: ToolStyle,
    *marks: str,
) -> bool:
    try:
        text = render(messages, tools, style)
    except PromptError:
        return False
    # A text that was dumped once more, and an object that was written as Python writes it.
    wrong = '\\"markkey', "'markkey'"
    return all(mark in text for mark in marks) and not any(form in text for form in wrong)


# ---- what a template is given --------------------------------------------------------------


def message_variables(message: Message, *, typed: bool, style: ToolStyle) -> dict[str, Any]:
    text = message.content
    variables: dict[str, Any] = {
        "role": style.result_role if message.role == "tool" else message.role,
        "content": [{"type": "text", "text": text}] if typed else text,
    }
    if message.reasoning:
        # gpt-oss asks by the second name, all others by the first.
        variables |= {"reasoning_content": message.reasoning, "thinking": message.reasoning}
    if message.tool_calls:
        variables["tool_calls"] = [_call_variables(call, style) for call in message.tool_calls]
    if message.role == "tool":
        variables |= {"tool_call_id": message.tool_call_id, "name": message.tool_name}
    return variables


def _call_variables(call: ToolCall, style: ToolStyle) -> dict[str, Any]:
    arguments = call.arguments if style.arguments == "string" else json.loads(call.arguments)
    function = {"name": call.name, "arguments": arguments}
    return {"type": "function", "id": call.id, "function": function}


def tool_variables(tool: Tool) -> dict[str, Any]:
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": json.loads(tool.parameters),
    }
    return {"type": "function", "function": function}


# ---- messages as a template takes them -----------------------------------------------------


def prepare(
    messages: Sequence[Message], tools: Sequence[Tool], style: ToolStyle, *, knows_form: bool
) -> list[Message]:
    """Return messages that hold as text what the template would not write.

    Args:
        messages: the conversation.
        tools: that the model may call.
        style: of the template.
        knows_form: the model has a form of its own for calls.

    Raises:
        InvalidValueError: the schema of a tool is none of objects.
    """
    if tools:
        from llmstream_cli.prompts.tools.schemas import read_parameters

        for tool in tools:
            read_parameters(tool)
    prepared = link_results(messages, style)
    if not style.writes_calls:
        prepared = [*_written_out(prepared)]
    if tools and not style.lists_tools:
        lines = (json.dumps(tool_variables(tool), ensure_ascii=False) for tool in tools)
        text = _LIST.replace("{tools}", "\n".join(lines)) + (_OWN_FORM if knows_form else _FORM)
        if prepared and prepared[0].role == "system":
            text = f"{prepared.pop(0).content}\n\n{text}"
        prepared.insert(0, Message("system", text))
    return prepared


def link_results(messages: Sequence[Message], style: ToolStyle) -> list[Message]:
    """Complete arguments that were cut, and have each result name its call as the template asks."""
    ids: dict[str, str] = {}
    names: dict[str, str] = {}
    waiting: list[ToolCall] = []  # for a result
    used = {call.id for message in messages for call in message.tool_calls}
    unused = (own for number in count() if (own := f"call_{number}") not in used)
    numbers = count()
    linked: list[Message] = []
    for message in messages:
        if message.tool_calls:
            waiting = []
            for call in message.tool_calls:
                number = next(numbers)
                own = call.id or next(unused)
                ids[own], names[own] = _id(own, call.name, number, style.ids), call.name
                waiting.append(ToolCall(call.name, complete_object(call.arguments), own))
            calls = tuple(replace(call, id=ids[call.id]) for call in waiting)
            linked.append(replace(message, tool_calls=calls))
        elif message.role == "tool":
            own = message.tool_call_id or (waiting[0].id if waiting else "")
            waiting = [call for call in waiting if call.id != own]
            name = message.tool_name or names.get(own, "")
            linked_id = ids.get(own) or _id(own, name, 0, style.ids)
            linked.append(replace(message, tool_call_id=linked_id, tool_name=name))
        else:
            linked.append(message)
    return linked


def _id(own: str, name: str, number: int, ids: _Ids) -> str:
    match ids:
        case "own":
            return own
        case "indexed":
            return f"functions.{name}:{number}"
        case "short":
            if len(own) == _SHORT_ID_CHARS and own.isascii() and own.isalnum():
                return own
            return hashlib.sha256(own.encode("utf-8", "replace")).hexdigest()[:_SHORT_ID_CHARS]


def complete_object(text: str) -> str:
    """Return a call's arguments as the JSON of an object, be they cut or none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        from pydantic_core import from_json

        try:
            value = from_json(text, allow_partial="trailing-strings")
        except ValueError:
            value = {}
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else "{}"


def _written_out(messages: Sequence[Message]) -> Iterator[Message]:
    results: list[str] = []
    for message in messages:
        if message.role == "tool":
            results.append(f"<tool_response>\n{message.content}\n</tool_response>")
            continue
        if results:
            yield Message("user", "\n".join(results))
            results = []
        if message.tool_calls:
            calls = [
                f'<tool_call>\n{{"name": {json.dumps(call.name, ensure_ascii=False)}, '
                f'"arguments": {call.arguments}}}\n</tool_call>'
                for call in message.tool_calls
            ]
            text = "\n".join([message.content, *calls] if message.content else calls)
            yield replace(message, content=text, tool_calls=())
        else:
            yield message
    if results:
        yield Message("user", "\n".join(results))
