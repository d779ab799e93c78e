"""Tools in OpenAI's API as servers speak it: definitions and messages out, calls in.

What servers do, beyond what OpenAI's page says:

1. A call may come whole, its arguments as an object.
2. The index may be missing, or 0 for every call; then another id, or another name, begins a call.
3. The name may come with each event of its call.
4. The reason to finish may be `stop` after calls; or `function_call`, whose deltas have one call.

Pure: no I/O, clock, thread, or model.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmstream_cli.api import GenerationRequest
from llmstream_cli.errors import UpstreamError
from llmstream_cli.prompts.messages import Message, Tool, ToolCallDelta
from llmstream_cli.prompts.tools.schemas import read_parameters

# ---- requests -------------------------------------------------------------------------------


def message_fields(message: Message, *, takes_reasoning: bool) -> dict[str, Any]:
    """Return a message as the API has it; `takes_reasoning` where the server knows the field."""
    fields: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.reasoning and takes_reasoning:
        fields["reasoning_content"] = message.reasoning
    if message.tool_calls:
        fields["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
    if message.role == "tool":
        fields["tool_call_id"] = message.tool_call_id
    return fields


def tool_fields(request: GenerationRequest) -> dict[str, Any]:
    """Return the fields that say which tools may be called.

    Of a choice among them only those are sent: not every server takes the API's words for it.
    """
    choice = request.tool_choice
    tools = [tool for tool in request.tools if not choice.names or tool.name in choice.names]
    if not tools:
        return {}
    return {
        "tools": [_definition(tool) for tool in tools],
        "tool_choice": choice.mode,
        "parallel_tool_calls": choice.parallel,  # of which servers have defaults of their own
    }


def _definition(tool: Tool) -> dict[str, Any]:
    described = {"description": tool.description} if tool.description else {}
    function = {"name": tool.name, **described, "parameters": read_parameters(tool)}
    return {"type": "function", "function": function}


# ---- answers --------------------------------------------------------------------------------


@dataclass(slots=True)
class _Call:
    key: object  # the server's index
    id: str
    name: str


class RemoteCalls:
    """Takes the events of one answer, in order; gives what they add to calls of tools."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []

    def __bool__(self) -> bool:
        return bool(self._calls)

    def push(self, choice: Mapping[Any, Any]) -> tuple[ToolCallDelta, ...]:
        """Return what an event's choice adds; a call without a name is an `UpstreamError`."""
        match choice.get("delta"):
            case {"tool_calls": [*parts]}:
                return tuple(filter(None, map(self._delta, parts)))
            case {"function_call": {**function}}:
                delta = self._delta({"index": 0, "function": function})
                return (delta,) if delta is not None else ()
            case _:
                return ()

    def _delta(self, part: object) -> ToolCallDelta | None:
        if not isinstance(part, dict):
            raise UpstreamError("the answer has a call that is none")
        function = part.get("function")
        function = function if isinstance(function, dict) else {}
        name, arguments = _text(function.get("name")), function.get("arguments")
        key, id_ = part.get("index"), _text(part.get("id"))
        place = self._find(key, id_, name)
        if place is None:
            if not name:
                raise UpstreamError("the answer has a call without a name")
            place = len(self._calls)
            self._calls.append(_Call(key, id_, name))
        else:
            name = ""
        if isinstance(arguments, dict):
            arguments = json.dumps(arguments, ensure_ascii=False)
        text = _text(arguments)
        return ToolCallDelta(place, name, text) if name or text else None

    def _find(self, key: object, id_: str, name: str) -> int | None:
        """Return the place of the call that a part goes on with; None where it begins one."""
        for place, call in reversed([*enumerate(self._calls)]):
            if key is None and id_:
                if call.id == id_:
                    return place
            elif key is None:
                return None if name else place
            elif call.key == key:
                begins = name and (name != call.name or id_ not in {"", call.id})
                return None if begins else place
        return None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
