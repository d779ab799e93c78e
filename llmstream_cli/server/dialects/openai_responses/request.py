"""The fields of `POST /v1/responses`."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, Field, WithJsonSchema

from llmstream_cli.api import GenerationRequest
from llmstream_cli.errors import InvalidValueError
from llmstream_cli.prompts.messages import Message
from llmstream_cli.sampling import SamplingParams
from llmstream_cli.server.dialects import common, fields, openai_common
from llmstream_cli.server.dialects.fields import (
    ClosedFields,
    FieldTable,
    Given,
    excluded,
    refused,
    with_fields,
)
from llmstream_cli.server.dialects.logprobs import MAX_TOP_LOGPROBS
from llmstream_cli.server.dialects.openai_responses.items import (
    MISSING,
    InputItem,
    full_name,
    merged,
    missing,
)
from llmstream_cli.server.dialects.tools import (
    MAX_TOOLS,
    ChoiceField,
    Definition,
    FunctionFields,
    ToolName,
    defaults_beside,
    link_results,
    read_choice,
    read_tools,
)

_PARAMETERS = {"max_output_tokens": "max_tokens", **openai_common.PARAMETERS}
del _PARAMETERS["guided_choice"]  # whose type is the chats'
_ALL_INPUT = "nothing is kept; send the whole conversation as input"
_REFUSED = {
    **openai_common.REFUSED,
    **refused("previous_response_id conversation", advice=_ALL_INPUT),
    **refused("prompt", advice="send its text as input"),
    **refused("background", False, advice="send stream"),
    **refused("truncation", "disabled", advice="no prompt is cut here"),
    **refused("context_management", [], advice="no prompt is cut here"),
    **refused("moderation"),
    **refused("n best_of", 1, advice="send several requests"),
    **refused("echo", False),
    # of chat completions
    **refused("messages", advice="send input"),
    **refused("response_format structured_outputs guided_choice", advice="send text.format"),
    **refused("logprobs", False, advice="send include with message.output_text.logprobs"),
    **refused("reasoning_effort chat_template_kwargs", advice="send reasoning.effort"),
    **refused("enable_thinking thinking", advice="send reasoning.effort"),
    **refused("functions function_call", advice="send tools"),
    **refused("modalities", [], ["text"], advice="the answer can be text only"),
    **refused("verbosity", "medium", advice="say it in a message"),
    **refused("chat_template", advice="start the server with --template"),
    **refused("documents", [], advice="write them into a message"),
    **refused("audio web_search_options"),
}
_IGNORED = (
    *(name for name in openai_common.IGNORED if name != "metadata"),  # which comes back
    *("client_metadata", "max_tool_calls", "prompt_cache_options", "stream_options"),
)

WITH_LOGPROBS = "message.output_text.logprobs"
WITH_ENCRYPTED = "reasoning.encrypted_content"


class ResponsesTool(FunctionFields):
    """A function that the model may call."""

    type: Literal["function"]
    strict: bool | None = None


_READ_KINDS = ["function", "namespace"]


def _other_kind(kind: str) -> str:
    if kind in _READ_KINDS:
        raise ValueError("is another kind's")
    return kind


class OtherTool(FieldTable):
    """A tool of OpenAI's servers, or of a kind that only their models know."""

    type: Annotated[
        str,
        AfterValidator(_other_kind),
        WithJsonSchema({"type": "string", "not": {"enum": _READ_KINDS}}),
    ]


class NamespaceTool(FieldTable):
    """Functions under a name, as Codex has those of MCP servers."""

    type: Literal["namespace"]
    name: ToolName
    tools: Annotated[list[ResponsesTool | OtherTool], Field(max_length=MAX_TOOLS)] | None = None


class Function(NamedTuple):
    """A function that the model may call, and where it stands in the body."""

    field: str
    namespace: str | None
    tool: ResponsesTool

    @property
    def name(self) -> str:
        return full_name(self.namespace, self.tool.name)


class TextFormat(ClosedFields):
    """What the answer has to look like."""

    model_config = excluded({"type": {"const": "json_schema"}, "schema": MISSING})

    type: Literal["text", "json_object", "json_schema"]
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


@with_fields({}, refused("verbosity", "medium", advice="say it in a message"), closed=True)
class TextOptions(ClosedFields):
    """How to write the text."""

    format: TextFormat | None = None

    def given(self, prefix: str = "text.") -> list[Given]:
        format_ = self.format or TextFormat.model_validate({"type": "text"})
        if format_.type == "json_schema":
            if format_.schema_ is None:
                raise missing(f"{prefix}format.schema")
            schema = fields.schema_text(format_.schema_)
            return [(f"{prefix}format.schema", "json_schema", schema)]
        if format_.type == "json_object":
            return [(f"{prefix}format", "json_schema", common.JSON_OBJECT)]
        return []


class ReasoningOptions(FieldTable):
    """Whether to reason; whatever the `summary`, all of the reasoning comes in it."""

    effort: Annotated[str, Field(max_length=common.MAX_NAME_CHARS)] | None = None
    summary: Annotated[str, Field(max_length=common.MAX_NAME_CHARS)] | None = None


@with_fields(_PARAMETERS, _REFUSED, _IGNORED)
class ResponsesRequest(FieldTable):
    """Body of `POST /v1/responses`."""

    thinking_field = "reasoning.effort"

    input: str | Annotated[list[InputItem], Field(min_length=1, max_length=common.MAX_MESSAGES)] = (
        Field(
            description="a question, or the conversation: `message`s (the `type` may be left out), "
            "`reasoning`, `function_call`s and their `function_call_output`s; what the assistant "
            "said without another between is one turn"
        )
    )
    instructions: str | None = Field(None, description="the system message")
    model: Annotated[str, Field(max_length=common.MAX_NAME_CHARS)] | None = Field(
        None, description="a name from `/v1/models`; without it, the default model"
    )
    stream: bool | None = Field(None, description="answer with server-sent events")
    reasoning: ReasoningOptions | None = Field(
        None,
        description='`effort`: `"none"` turns reasoning off; how much there is otherwise is left '
        "to the model. Whatever `summary` is, all of it is sent",
    )
    text: TextOptions | None = Field(
        None,
        description="`format`, by its `type`: `text`, `json_object`, or `json_schema`, which the "
        "answer fulfils, `strict` or not",
    )
    include: Annotated[list[str], Field(max_length=64)] | None = Field(
        None,
        description=f"`{WITH_LOGPROBS}`: report [log probabilities](#log-probabilities); "
        f"`{WITH_ENCRYPTED}`: have the reasoning once more, as `encrypted_content`, without which "
        "some clients do not send it back; others have no effect",
    )
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = Field(
        None, description="of so many most likely tokens at each place"
    )
    tools: (
        Annotated[list[ResponsesTool | NamespaceTool | OtherTool], Field(max_length=MAX_TOOLS)]
        | None
    ) = Field(
        None,
        description="functions that the model may call, alone or in a `namespace`; tools of other "
        "kinds are passed over, and are not in the answer's `tools`",
    )
    tool_choice: ChoiceField | None = Field(
        None,
        description="`auto`, `none`, `required`, a function by its name, or `allowed_tools`",
    )
    parallel_tool_calls: bool | None = Field(
        None, description="whether an answer may have several calls"
    )
    metadata: dict[str, Any] | None = Field(None, description="comes back with the answer")

    @property
    def thinks(self) -> bool | None:
        return False if self.reasoning and self.reasoning.effort == "none" else None

    def given(self, prefix: str = "") -> list[Given]:
        given = super().given(prefix) + (self.text.given() if self.text else [])
        if self.top_logprobs or WITH_LOGPROBS in (self.include or ()):
            given.append(("top_logprobs", "logprobs", self.top_logprobs or 0))
        return given

    def callable_functions(self) -> Iterator[Function]:
        for index, tool in enumerate(self.tools or ()):
            place = f"tools.{index}"
            if isinstance(tool, ResponsesTool):
                yield Function(place, None, tool)
            elif isinstance(tool, NamespaceTool):
                for inner, one in enumerate(tool.tools or ()):
                    if isinstance(one, ResponsesTool):
                        yield Function(f"{place}.tools.{inner}", tool.name, one)

    def generation_request(self, defaults: SamplingParams) -> GenerationRequest:
        tools = read_tools(
            Definition(one.field, one.name, one.tool.description, one.tool.schema_)
            for one in self.callable_functions()
        )
        choice = read_choice(self.tool_choice, tools, parallel=self.parallel_tool_calls)
        given = self.given()
        sampling = common.sampling_params(defaults_beside(tools, choice, defaults, given), given)
        return GenerationRequest(
            link_results(self._messages()),
            sampling,
            thinking=self.thinks,
            ending="turn",
            tools=tools,
            tool_choice=choice,
        )

    def _messages(self) -> tuple[Message, ...]:
        turns = [Message("system", self.instructions)] if self.instructions else []
        if isinstance(self.input, str):
            return (*turns, Message("user", self.input))
        for index, item in enumerate(self.input):
            turn = item.message(f"input.{index}")
            if turn is None:
                continue
            if turns and turn.role == turns[-1].role == "assistant":
                turns[-1] = merged(turns[-1], turn)
            else:
                turns.append(turn)
        if not turns:
            raise InvalidValueError("input has nothing that the model reads", "input")
        return tuple(turns)
