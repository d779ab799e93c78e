"""The body of Anthropic's requests: blocks, tools, and the sampling parameters by our own names.

https://docs.anthropic.com/en/api/messages. A content block is a `Block`, whatever its kind.
"""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, WithJsonSchema

from llmstream_cli.api import GenerationRequest
from llmstream_cli.errors import InvalidValueError
from llmstream_cli.prompts.messages import Message, Role, Tool, ToolCall, ToolChoice
from llmstream_cli.sampling import PARAMETERS, SamplingParams
from llmstream_cli.server.dialects import common, fields, openai_common
from llmstream_cli.server.dialects.fields import FieldTable, Given, excluded, refused, with_fields
from llmstream_cli.server.dialects.tools import (
    MAX_TOOLS,
    CallId,
    Definition,
    PastName,
    ToolName,
    arguments_text,
    choose,
    defaults_beside,
    link_results,
    read_tools,
)
from llmstream_cli.server.http.exchange import note_ignored

MAX_BLOCKS = 1024  # of one message

_ROLES: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}
_KINDS = ("text", "tool_use", "tool_result", "thinking", "redacted_thinking")
_PARAMETERS = {"stop_sequences": "stop"} | {name: name for name in PARAMETERS if name != "logprobs"}
_REFUSED = {
    **{name: how for name, how in openai_common.REFUSED.items() if name not in _PARAMETERS},
    **refused("mcp_servers", [], advice="the server calls no tools itself"),
    **refused("container"),
    **refused("response_format", advice="send output_config.format"),
    **refused("functions", [], advice="send tools"),
    **refused("n", 1),
}
_IGNORED = """
    metadata service_tier inference_geo speed context_management betas anthropic_beta
    anthropic_version
""".split()  # noqa: SIM905  (names without quotes)
# Claude Code's first system block. It changes with each request, so that nothing behind it could
# be taken from the prefix cache, and tells the model nothing.
_BILLING = re.compile(r"\Ax-anthropic-billing-header:[^\n]*\n*")


def _invalid(field: str, how: str) -> InvalidValueError:
    return InvalidValueError(f"{field} {how}", field)


def _kind(*kinds: str) -> Any:
    """Return the type of a block's `type`."""

    def check(kind: str) -> str:
        if kind not in kinds:
            what = kind[:50] if kind.isprintable() else "that"
            raise ValueError(f"cannot be {what}: the model reads {', '.join(kinds)} alone")
        return kind

    return Annotated[str, AfterValidator(check), WithJsonSchema({"enum": [*kinds]})]


class TextBlock(FieldTable):
    """A text."""

    type: _kind("text")  # type: ignore[valid-type]
    text: str


_Content = str | Annotated[list[TextBlock], Field(max_length=MAX_BLOCKS)]
_NONE = {**fields.NO_CONTENT, "enum": [None]}
_OF_ASSISTANT = ("tool_use", "thinking", "redacted_thinking")


def _blocks(*kinds: str) -> dict[str, Any]:
    """Describe a content that has a block of these kinds."""
    block = {"type": "object", "properties": {"type": {"enum": [*kinds]}}, "required": ["type"]}
    return {"type": "array", "contains": block}


class Block(FieldTable):
    """A part of a message, with the fields of its kind."""

    model_config = excluded(
        {"type": {"const": "text"}, "text": _NONE}, {"type": {"const": "tool_use"}, "name": _NONE}
    )

    type: _kind(*_KINDS)  # type: ignore[valid-type]
    text: str | None = None
    thinking: str | None = None
    id: CallId | None = None
    name: PastName | None = None
    input: dict[str, Any] | None = None
    tool_use_id: CallId | None = None
    content: _Content | None = None  # of a result
    is_error: bool | None = None


def _text(content: _Content | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(block.text for block in content)


@with_fields({}, refused("tool_calls", [], advice="send tool_use blocks"), closed=True)
class AnthropicMessage(FieldTable):
    """One turn; its content is a string or a list of blocks."""

    model_config = excluded(
        {"role": fields.NOT_ASSISTANT, "content": fields.NO_CONTENT},
        {"role": fields.NOT_ASSISTANT, "content": _blocks(*_OF_ASSISTANT)},
        {"role": {"not": {"const": "user"}}, "content": _blocks("tool_result")},
    )

    role: Annotated[Role, common.read_role(_ROLES), WithJsonSchema({"enum": [*_ROLES]})]
    content: str | Annotated[list[Block], Field(max_length=MAX_BLOCKS)] | None = None

    def messages(self, field: str) -> Iterator[Message]:
        """Yield the turn, which stands at that place in the body; results of tools come first."""
        if self.content in (None, []) and self.role != "assistant":
            raise _invalid(f"{field}.content", "is missing")
        if self.content is None or isinstance(self.content, str):
            yield Message(self.role, self.content or "")
            return
        texts, thoughts, calls = list[str](), list[str](), list[ToolCall]()
        num_results = 0
        for index, block in enumerate(self.content):
            self._check(block, f"{field}.content.{index}")
            match block.type:
                case "text":
                    texts.append(block.text or "")
                case "thinking":
                    thoughts.append(block.thinking or "")
                case "tool_use":
                    arguments = arguments_text(block.input)
                    calls.append(ToolCall(block.name or "", arguments, block.id or ""))
                case "tool_result":
                    num_results += 1
                    # No template knows that a tool failed.
                    prefix = "Error: " if block.is_error else ""
                    result = prefix + _text(block.content)
                    yield Message("tool", result, tool_call_id=block.tool_use_id or "")
                # What another server has encrypted as `redacted_thinking`, the model cannot read.
        if texts or not num_results:
            text, reasoning = "\n".join(texts), "\n\n".join(thoughts)
            yield Message(self.role, text, reasoning=reasoning, tool_calls=tuple(calls))

    def _check(self, block: Block, field: str) -> None:
        if block.type == "text" and block.text is None:
            raise _invalid(f"{field}.text", "is missing")
        if block.type == "tool_use" and block.name is None:
            raise _invalid(f"{field}.name", "is missing")
        author = "user" if block.type == "tool_result" else "assistant"
        if block.type != "text" and self.role != author:
            raise _invalid(field, f"is a {block.type}, which belongs to messages of the {author}'s")


class AnthropicTool(FieldTable):
    """A function that the model may call; one with a type is of Anthropic's own, and left out."""

    type: Annotated[str, Field(max_length=common.MAX_NAME_CHARS)] | None = None
    name: ToolName
    description: str | None = None
    input_schema: dict[str, Any] | None = None


class Choice(FieldTable):
    """Which tools the model may call."""

    type: Literal["auto", "any", "tool", "none"]
    name: ToolName | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(FieldTable):
    """Whether the model reasons."""

    type: Literal["enabled", "disabled", "adaptive"]


class OutputFormat(fields.ClosedFields):
    """A schema that the answer fulfils."""

    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(FieldTable):
    """What the answer has to look like."""

    format: OutputFormat | None = None


@with_fields(_PARAMETERS, _REFUSED, _IGNORED)
class MessagesRequest(FieldTable):
    """Body of `POST /v1/messages`, and of `/v1/messages/count_tokens`."""

    model: Annotated[str, Field(max_length=common.MAX_NAME_CHARS)] | None = Field(
        None, description="a name from `/v1/models`; without it, the default model"
    )
    messages: Annotated[list[AnthropicMessage], Field(max_length=common.MAX_MESSAGES)] = Field(
        min_length=1,
        description="turns of `user` and `assistant`; `content` is a string or a list of blocks: "
        "`text`, `tool_use`, `tool_result`, `thinking`, `redacted_thinking`",
    )
    system: _Content | None = Field(
        None, description="the system message: a string or a list of `text` blocks"
    )
    stream: bool | None = Field(None, description="answer with server-sent events")
    tools: Annotated[list[AnthropicTool], Field(max_length=MAX_TOOLS)] | None = Field(
        None,
        description="functions that the model may call: `name`, `description`, `input_schema`; "
        "Anthropic's own, as `web_search_20250305`, are left out, which `X-Schema-Ignored` tells",
    )
    tool_choice: Choice | None = Field(
        None,
        description="`type` is `auto`, `any`, `tool` with its `name`, or `none`; "
        "`disable_parallel_tool_use`: one call at most",
    )
    thinking: Thinking | None = Field(
        None,
        description="`type` is `enabled`, `disabled`, or `adaptive`, which leaves it to the model; "
        "how long it reasons is not bounded by `budget_tokens`",
    )
    output_config: OutputConfig | None = Field(
        None,
        description="`format`, of the type `json_schema`: the answer fulfils `schema`; `effort` "
        "is passed over",
    )
    output_format: OutputFormat | None = Field(None, description="an older name of that format")

    @property
    def thinks(self) -> bool | None:
        if self.thinking is None or self.thinking.type == "adaptive":
            return None
        return self.thinking.type == "enabled"

    def given(self, prefix: str = "") -> list[Given]:
        given = super().given(prefix)
        config = self.output_config.format if self.output_config is not None else None
        for name, one in (("output_config.format", config), ("output_format", self.output_format)):
            if one is not None:
                given.append((f"{name}.schema", "json_schema", fields.schema_text(one.schema_)))
        return given

    def generation_request(self, defaults: SamplingParams) -> GenerationRequest:
        """Return what the engine is asked.

        Raises:
            InvalidValueError: a value is out of its bounds, or asks for what there is not.
        """
        known = read_tools(self._definitions())
        choice = self._choice(known)
        defaults = defaults_beside(known, choice, defaults, self.given())
        return GenerationRequest(
            link_results(self._messages()),
            common.sampling_params(defaults, self.given()),
            thinking=self.thinks,
            tools=known,
            tool_choice=choice,
        )

    def _messages(self) -> Iterator[Message]:
        system = self.system
        blocks = [system] if isinstance(system, str) else [block.text for block in system or ()]
        texts = [_BILLING.sub("", text) for text in blocks]
        if text := "\n".join(filter(None, texts)):
            yield Message("system", text)
        for index, turn in enumerate(self.messages):
            yield from turn.messages(f"messages.{index}")

    def _definitions(self) -> Iterator[Definition]:
        for index, tool in enumerate(self.tools or ()):
            if tool.type in (None, "custom"):
                yield Definition(
                    f"tools.{index}",
                    tool.name,
                    tool.description,
                    tool.input_schema,
                    "input_schema",
                )
            else:
                note_ignored([f"/tools/{index}"])

    def _choice(self, known: tuple[Tool, ...]) -> ToolChoice:
        choice = self.tool_choice or Choice(type="auto")
        names = [choice.name or ""] if choice.type == "tool" else []
        mode: Literal["auto", "none", "required"] = "required"
        if choice.type in ("auto", "none"):
            mode = choice.type
        alone = choice.disable_parallel_tool_use
        if alone is None:  # a tool that is named is for a single call
            alone = choice.type == "tool"
        return choose(known, mode, names, parallel=not alone)
