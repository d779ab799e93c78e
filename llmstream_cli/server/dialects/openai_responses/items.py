"""What a client sends of a conversation: items, to messages."""

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema

from llmstream_cli.errors import InvalidValueError
from llmstream_cli.prompts.messages import Message, Role, ToolCall
from llmstream_cli.server.dialects import common
from llmstream_cli.server.dialects.fields import FieldTable, excluded, refused, with_fields
from llmstream_cli.server.dialects.tools import CallId, PastName, arguments_text

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}
MAY_MISS = {"may be missing": True}
MISSING = {"enum": [None], **MAY_MISS}
_MAX_PARTS = 1024


class ContentPart(FieldTable):
    """One part of a text."""

    model_config = excluded(
        {"type": {"not": {"const": "refusal"}}, "text": MISSING},
        {"type": {"const": "refusal"}, "refusal": MISSING},
    )

    type: Literal["input_text", "output_text", "text", "summary_text", "reasoning_text", "refusal"]
    text: str | None = None
    refusal: str | None = None


_Content = str | Annotated[list[ContentPart], Field(max_length=_MAX_PARTS)] | None
_CALLS = ["function_call", "custom_tool_call"]
_OUTPUTS = ["function_call_output", "custom_tool_call_output"]


@with_fields({}, refused("tool_calls", [], advice="send items of type function_call"), closed=True)
class InputItem(FieldTable):
    """A message, what the model thought, a call that it made, or the call's result."""

    model_config = excluded(
        {"type": {"enum": [None, "message"], **MAY_MISS}, "role": MISSING},
        {
            "type": {"enum": [None, "message"], **MAY_MISS},
            "role": {"not": {"const": "assistant"}},
            "content": MISSING,
        },
        {"type": {"enum": _CALLS}, "call_id": MISSING},
        {"type": {"enum": _CALLS}, "name": MISSING},
        {"type": {"enum": _OUTPUTS}, "call_id": MISSING},
        {"type": {"enum": _OUTPUTS}, "output": MISSING},
    )

    type: (
        Literal[
            "message",
            "reasoning",
            "function_call",
            "function_call_output",
            "custom_tool_call",
            "custom_tool_call_output",
            "web_search_call",
            "file_search_call",
        ]
        | None
    ) = None
    role: Annotated[Role, common.read_role(_ROLES), WithJsonSchema({"enum": [*_ROLES]})] | None = (
        None
    )
    content: _Content = None
    summary: _Content = None
    call_id: CallId | None = None
    name: PastName | None = None
    namespace: PastName | None = None
    arguments: str | None = None
    input: str | None = None
    output: _Content = None

    def message(self, place: str) -> Message | None:
        """Return the item as a turn, or a part of one; None where it tells the model nothing."""

        def needed(name: str) -> Any:
            if (value := getattr(self, name)) is None:
                raise missing(f"{place}.{name}")
            return value

        kind = self.type or "message"
        if kind == "message":
            role = needed("role")
            content = self.content if role == "assistant" else needed("content")
            return Message(role, _text(content, f"{place}.content"))
        if kind == "reasoning":  # what is encrypted only its own server can read
            thought = _text(self.content, f"{place}.content")
            thought = thought or _text(self.summary, f"{place}.summary")
            return Message("assistant", reasoning=thought) if thought else None
        if kind in _CALLS:
            custom = {"input": self.input or ""} if kind == "custom_tool_call" else None
            arguments = arguments_text(custom or self.arguments)
            name = full_name(self.namespace, needed("name"))
            call = ToolCall(name, arguments, needed("call_id"))
            return Message("assistant", tool_calls=(call,))
        if kind in _OUTPUTS:
            output = _text(needed("output"), f"{place}.output")
            return Message("tool", output, tool_call_id=needed("call_id"))
        return None  # a search of another server's: the answer after it says what it found


def full_name(namespace: str | None, name: str) -> str:
    """Return what the model calls a function."""
    return f"{namespace}.{name}" if namespace else name


def missing(field: str) -> InvalidValueError:
    return InvalidValueError(f"{field} is missing", field)


def _text(content: _Content, place: str) -> str:
    if not isinstance(content, list):
        return content or ""
    texts = []
    for index, part in enumerate(content):
        text = part.refusal if part.type == "refusal" else part.text
        if text is None:
            raise missing(f"{place}.{index}.{'refusal' if part.type == 'refusal' else 'text'}")
        texts.append(text)
    return "\n".join(texts)


def merged(first: Message, second: Message) -> Message:
    """Return two parts of one turn of the assistant's as one."""

    def joined(*texts: str) -> str:
        return "\n\n".join(filter(None, texts))

    return replace(
        first,
        content=joined(first.content, second.content),
        reasoning=joined(first.reasoning, second.reasoning),
        tool_calls=first.tool_calls + second.tool_calls,
    )
