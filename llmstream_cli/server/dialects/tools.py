"""Tools in the dialects: definitions, the choice among them, calls and results in a history."""

import dataclasses
import json
import secrets
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field
from pydantic_core import from_json

from llmstream_cli.core.grammar.json_schema import read_schema
from llmstream_cli.errors import InvalidValueError, SchemaError
from llmstream_cli.prompts.messages import Message, Role, Tool, ToolCall, ToolChoice
from llmstream_cli.sampling import CONSTRAINTS, MAX_GRAMMAR_CHARS, SamplingParams
from llmstream_cli.server.dialects.fields import FieldTable, Given, schema_text
from llmstream_cli.server.http.exchange import note_ignored, note_schema_field

MAX_TOOLS = 1024
MAX_TOOLS_CHARS = 512 * 1024  # of all descriptions and schemas
MAX_CALLS = 1024  # of one message

ToolName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,128}$")]
# In a history, which another server may have written.
PastName = Annotated[str, Field(min_length=1, max_length=256)]
CallId = Annotated[str, Field(max_length=256)]

# ---- definitions ----------------------------------------------------------------------------


class FunctionFields(FieldTable):
    """A function that the model may call; schemas are followed, `strict` or not."""

    name: ToolName
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="parameters")


class FunctionTool(FieldTable):
    """A tool as OpenAI's chat API and Ollama's have it."""

    type: Literal["function"] = "function"
    function: FunctionFields


FunctionTools = Annotated[list[FunctionTool], Field(max_length=MAX_TOOLS)]


class Definition(NamedTuple):
    """A tool as it was sent, and where it stands in the body."""

    field: str  # such as `tools.0.function`
    name: str
    description: str | None
    schema: dict[str, Any] | None
    schema_name: str = "parameters"  # what the API calls the schema


def function_definitions(tools: Iterable[FunctionTool] | None) -> list[Definition]:
    return [
        Definition(f"tools.{index}.function", one.name, one.description, one.schema_)
        for index, one in enumerate(tool.function for tool in tools or ())
    ]


def read_tools(definitions: Iterable[Definition]) -> tuple[Tool, ...]:
    """Return the tools; what in their schemas calls need not fulfil goes into `X-Schema-Ignored`.

    Raises:
        InvalidValueError: two have one name, a schema is none, or they are too large.
    """
    tools: dict[str, Tool] = {}
    num_chars = 0
    for one in definitions:
        if one.name in tools:
            raise _invalid(f"{one.field}.name", f"is {one.name}, and so is another tool's")
        tools[one.name] = tool = _read_tool(one)
        num_chars += len(tool.description) + len(tool.parameters)
        if num_chars > MAX_TOOLS_CHARS:
            raise _invalid("tools", f"must have at most {MAX_TOOLS_CHARS} characters together")
    if tools:
        note_schema_field("tools")  # where the core refuses one that was read here
    return tuple(tools.values())


def _read_tool(one: Definition) -> Tool:
    tool = Tool(one.name, one.description or "")
    if not one.schema:
        return tool
    field = f"{one.field}.{one.schema_name}"
    if one.schema.get("type", "object") != "object":
        raise _invalid(f"{field}.type", 'must be "object"')
    parameters = schema_text({"type": "object"} | one.schema)
    if len(parameters) > MAX_GRAMMAR_CHARS:
        raise _invalid(field, f"must have at most {MAX_GRAMMAR_CHARS} characters")
    try:
        ignored = read_schema(parameters).ignored
    except SchemaError as error:
        raise _invalid(field, f"is refused: {error}") from error
    place = "/" + field.replace(".", "/")
    note_ignored(place + pointer for pointer in ignored)
    return dataclasses.replace(tool, parameters=parameters)


# ---- the choice -----------------------------------------------------------------------------


class _Name(FieldTable):
    name: ToolName


class ChosenTool(FieldTable):
    """A tool by its name, which the chat API has under `function`, the responses API beside it."""

    type: Literal["function"] = "function"
    name: ToolName | None = None
    function: _Name | None = None

    @property
    def chosen(self) -> str:
        return self.function.name if self.function is not None else self.name or ""


class AllowedTools(FieldTable):
    """The tools that may be called; the chat API has them under `allowed_tools`."""

    mode: Literal["auto", "required"] = "auto"
    tools: Annotated[list[ChosenTool], Field(min_length=1, max_length=MAX_TOOLS)]


class ChosenFunction(ChosenTool):
    """The tool that has to be called."""

    type: Literal["function"]


class ChosenAmong(FieldTable):
    """The tools that may be called, in the form of either API."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"] = "auto"
    tools: Annotated[list[ChosenTool], Field(max_length=MAX_TOOLS)] | None = None
    allowed_tools: AllowedTools | None = None


# In OpenAI's words; `any` is Mistral's for `required`.
ChoiceField = Literal["auto", "none", "required", "any"] | ChosenFunction | ChosenAmong


def read_choice(
    choice: ChoiceField | None, tools: Sequence[Tool], *, parallel: bool | None = None
) -> ToolChoice:
    """Return a choice in the words of OpenAI's APIs, which is of these tools.

    One that names a function is for a single call, unless the client says otherwise.
    """
    mode: Literal["auto", "none", "required"] = "auto"
    names: list[str] = []
    if isinstance(choice, ChosenFunction):
        mode, names = "required", [choice.chosen]
    elif isinstance(choice, ChosenAmong):
        among = choice.allowed_tools or choice
        mode, names = among.mode, [one.chosen for one in among.tools or ()]
        if not names:
            raise _invalid("tool_choice.tools", "is missing, which is the tools to choose from")
    elif choice is not None:
        mode = "required" if choice == "any" else choice
    if parallel is None:
        parallel = not isinstance(choice, ChosenFunction)
    return choose(tools, mode, names, parallel=parallel)


def choose(
    tools: Sequence[Tool],
    mode: Literal["auto", "none", "required"],
    names: Sequence[str] = (),
    *,
    parallel: bool = True,
    field: str = "tool_choice",
) -> ToolChoice:
    """Return the choice.

    Raises:
        InvalidValueError: it asks for a tool that there is not.
    """
    known = {tool.name for tool in tools}
    for name in names:
        if name not in known:
            raise _invalid(field, f"names {name or 'no tool'!r}, which is not among the tools")
    if mode == "required" and not tools:
        raise _invalid(field, "asks for a call, and there are no tools")
    return ToolChoice(mode, tuple(dict.fromkeys(names)), parallel)


def defaults_beside(
    tools: Sequence[Tool], choice: ToolChoice, defaults: SamplingParams, given: Iterable[Given]
) -> SamplingParams:
    """Return the server's defaults for a request with tools: without a constraint of the text.

    Raises:
        InvalidValueError: the client gave one that is no JSON schema, and the model may call tools.
    """
    if not tools or choice.mode == "none":
        return defaults
    for name, of, _ in given:
        if of in CONSTRAINTS and of != "json_schema":
            raise InvalidValueError(
                f"{name} and tools exclude each other; leave one out, or let no tool be chosen",
                name,
            )
    nothing: dict[str, Any] = dict.fromkeys(CONSTRAINTS)
    return dataclasses.replace(defaults, **nothing)


# ---- calls and results ----------------------------------------------------------------------


class CalledFunction(FieldTable):
    """What was called."""

    name: PastName
    arguments: str | dict[str, Any] | None = Field(
        None, description="a JSON object, or one as text"
    )


class FunctionCall(FieldTable):
    """A call in a history, as OpenAI's chat API and Ollama's have it."""

    id: CallId | None = None
    type: Literal["function"] | None = None
    function: CalledFunction

    @property
    def call(self) -> ToolCall:
        arguments = arguments_text(self.function.arguments)
        return ToolCall(self.function.name, arguments, self.id or "")


class TurnFields(FieldTable):
    """What a message has of tools in OpenAI's chat API and Ollama's."""

    tool_calls: Annotated[list[FunctionCall], Field(max_length=MAX_CALLS)] | None = None
    tool_call_id: CallId | None = None  # of a result
    name: str | None = None  # of its tool

    def as_message(
        self, role: Role, text: str, reasoning: str | None, field: str, tool_name: str = ""
    ) -> Message:
        """Return the message, which stands at that place in the body."""
        if role == "assistant":
            calls = tuple(one.call for one in self.tool_calls or ())
            return Message("assistant", text, reasoning or "", calls)
        if self.tool_calls:
            raise _invalid(f"{field}.tool_calls", "belong to messages of the assistant's")
        if role == "tool":
            name = tool_name or self.name or ""
            return Message("tool", text, tool_call_id=self.tool_call_id or "", tool_name=name)
        return Message(role, text)


def arguments_text(arguments: str | dict[str, Any] | None) -> str:
    """Return a call's arguments as JSON; text that is none, of a call that was cut, stays it."""
    if isinstance(arguments, str):
        return arguments.strip() or "{}"
    return schema_text(arguments or {})


def arguments_object(text: str) -> dict[str, Any]:
    """Return a call's arguments, of one that was cut those that are complete."""
    try:
        value = json.loads(text, parse_float=_finite)
    except (ValueError, RecursionError):
        try:
            value = from_json(text, allow_partial=True, allow_inf_nan=False)
        except ValueError:  # not even a beginning
            return {}
        value = json.loads(json.dumps(value), parse_float=_finite, parse_constant=_finite)
    return value if isinstance(value, dict) else {}


def _finite(number: str) -> float:
    """Return the nearest number that JSON can be written with: 1e999 is infinite to Python."""
    return max(-sys.float_info.max, min(float(number), sys.float_info.max))


def link_results(messages: Iterable[Message]) -> tuple[Message, ...]:
    """Return the messages, each result with the name and the id of the call that it answers.

    Without an id, that is the first call of its name that has no result yet.
    """
    linked: list[Message] = []
    calls: list[ToolCall] = []  # that have no result yet
    for message in messages:
        calls += message.tool_calls
        if message.role == "tool":
            call = next((call for call in calls if _answers(message, call)), None)
            if call is not None:
                calls.remove(call)
                message = dataclasses.replace(  # noqa: PLW2901
                    message,
                    tool_call_id=message.tool_call_id or call.id,
                    tool_name=message.tool_name or call.name,
                )
        linked.append(message)
    return tuple(linked)


def _answers(result: Message, call: ToolCall) -> bool:
    if result.tool_call_id:
        return result.tool_call_id == call.id
    return result.tool_name in {"", call.name}


def new_call_id(prefix: str = "call_") -> str:
    """Return an id that no other call has."""
    return prefix + secrets.token_hex(12)


def _invalid(field: str, how: str) -> InvalidValueError:
    return InvalidValueError(f"{field} {how}", field)
