"""`POST /v1/chat/completions`."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field, WithJsonSchema
from quart import Response

from llmstream_cli.api import Chunk, GenerationRequest
from llmstream_cli.errors import InvalidValueError
from llmstream_cli.prompts.messages import Ending, Message, Role, ToolCallDelta
from llmstream_cli.sampling import SamplingParams
from llmstream_cli.server.dialects import common, openai_common
from llmstream_cli.server.dialects.fields import (
    ANY_ITEMS,
    NO_CONTENT,
    NOT_ASSISTANT,
    NOT_NONE,
    ClosedFields,
    FieldTable,
    excluded,
    refused,
    with_fields,
)
from llmstream_cli.server.dialects.logprobs import (
    TOP_LOGPROBS_ALONE,
    LocatedLogprob,
    WithTopLogprobs,
    token_fields,
)
from llmstream_cli.server.dialects.tools import (
    ChoiceField,
    FunctionTools,
    TurnFields,
    defaults_beside,
    function_definitions,
    link_results,
    new_call_id,
    read_choice,
    read_tools,
)
from llmstream_cli.server.respond import Answer

MAX_TEXT_PARTS = 1024

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "function": "tool",
    "tool": "tool",
}
_REFUSED = {
    **openai_common.REFUSED,
    **refused("function_call", "none", "auto", advice="send tools and tool_choice"),
    **refused("modalities", [], ["text"], advice="the answer can be text only"),
    **refused("audio web_search_options"),
    **refused("verbosity", "medium", advice="say it in a message"),
    **refused("best_of", 1, advice="send n"),
    **refused("echo add_special_tokens", False),
    **refused("chat_template", advice="start the server with --template"),
    **refused("documents", [], advice="write them into a message"),
    # Reasoning by other servers' names
    **refused(
        "enable_thinking thinking reasoning",
        advice="send chat_template_kwargs with enable_thinking",
    ),
    **refused("thinking_budget_tokens", -1),
    **refused("reasoning_format", "auto", "deepseek"),
    **refused("reasoning_in_content", False),
    **refused("separate_reasoning include_reasoning", True),
}
_IGNORED = (*openai_common.IGNORED, "prediction", "stream_reasoning")


def _check_kind(kind: str) -> str:
    if kind != "text":
        raise ValueError("must be text: the model reads nothing else")
    return kind


class ContentPart(FieldTable):
    """One part of a message's content."""

    type: Annotated[str, AfterValidator(_check_kind), WithJsonSchema({"const": "text"})]
    text: str


@with_fields({}, refused("function_call", advice="send tool_calls"), closed=True)
class OpenAIMessage(TurnFields):
    """One turn; its content is a string or a list of text parts."""

    model_config = excluded(
        {"role": NOT_ASSISTANT, "content": NO_CONTENT},
        {"role": NOT_ASSISTANT, "tool_calls": ANY_ITEMS},
    )

    role: Annotated[Role, common.read_role(_ROLES), WithJsonSchema({"enum": [*_ROLES]})]
    content: str | Annotated[list[ContentPart], Field(max_length=MAX_TEXT_PARTS)] | None = None
    reasoning_content: str | None = None  # of the assistant's

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content or ())

    def message(self, field: str) -> Message:
        """Return the turn, which stands at that place in the body."""
        if self.content in (None, []) and self.role != "assistant":
            raise _invalid(f"{field}.content", "is missing")
        return self.as_message(self.role, self.text, self.reasoning_content, field)


def _invalid(field: str, how: str) -> InvalidValueError:
    return InvalidValueError(f"{field} {how}", field)


class ChatTemplateKwargs(ClosedFields):
    """What the chat template is told; of it, whether to reason before the answer."""

    enable_thinking: bool | None = None
    thinking: bool | None = None


@with_fields(openai_common.PARAMETERS, _REFUSED, _IGNORED)
class ChatCompletionRequest(openai_common.OpenAIRequest, WithTopLogprobs):
    """Body of `POST /v1/chat/completions`."""

    model_config = excluded(
        TOP_LOGPROBS_ALONE,
        {"functions": ANY_ITEMS, "function_call": NOT_NONE},
    )

    messages: Annotated[
        list[OpenAIMessage],
        Field(
            min_length=1,
            max_length=common.MAX_MESSAGES,
            description="turns of `system`, `developer` (the same as `system`), `user`, "
            "`assistant` and `tool`; `content` is a string or a list of `text` parts, which are "
            "joined with line breaks; an assistant's may have [`tool_calls`](#tools) instead",
        ),
    ]
    chat_template_kwargs: ChatTemplateKwargs | None = Field(
        None,
        description="`enable_thinking`, or `thinking`: whether a model that can reasons before it "
        "answers, see [below](#reasoning); whatever else is in it is refused",
    )
    reasoning_effort: Annotated[str, Field(max_length=common.MAX_NAME_CHARS)] | None = Field(
        None,
        description="`none` turns reasoning off; how much there is otherwise is left to the model",
    )
    continue_final_message: bool | None = Field(
        None, description="go on with the last message, which is the assistant's, as in vLLM"
    )
    add_generation_prompt: bool | None = Field(
        None,
        description="how the prompt ends, as in vLLM; without the two a last message of the "
        "assistant's is [continued](prompts.md#a-last-message-of-the-assistants)",
    )
    tools: FunctionTools | None = Field(
        None, description="[functions](#tools) that the model may call"
    )
    tool_choice: ChoiceField | None = Field(
        None,
        description="`auto`, `none`, `required`, a function that has to be called, or "
        "`allowed_tools`, one of which may be",
    )
    parallel_tool_calls: bool | None = Field(
        None,
        description="whether an answer may have several calls; without it, unless `tool_choice` "
        "names a function",
    )
    functions: list[Any] | None = Field(
        None, description='refused unless empty, or `function_call` is `"none"`'
    )

    @property
    def thinks(self) -> bool | None:
        told = self.chat_template_kwargs
        if told is not None and told.enable_thinking is not None:
            return told.enable_thinking
        if told is not None and told.thinking is not None:
            return told.thinking
        return False if self.reasoning_effort == "none" else None  # of others, not how much

    def generation_requests(self, defaults: SamplingParams) -> list[GenerationRequest]:
        if self.functions and getattr(self, "function_call", None) != "none":
            raise _invalid("functions", "are not supported; send tools")
        functions = read_tools(function_definitions(self.tools))
        choice = read_choice(self.tool_choice, functions, parallel=self.parallel_tool_calls)
        defaults = defaults_beside(functions, choice, defaults, self.given())
        messages = link_results(
            turn.message(f"messages.{index}") for index, turn in enumerate(self.messages)
        )
        return [
            GenerationRequest(
                messages,
                sampling,
                thinking=self.thinks,
                ending=self._ending(),
                tools=functions,
                tool_choice=choice,
            )
            for sampling in self.sampling(defaults)
        ]

    def _ending(self) -> Ending | None:
        """Return how the prompt ends, in vLLM's words; None where the client says nothing."""
        field = "continue_final_message"
        if self.continue_final_message:
            if self.add_generation_prompt:
                raise _invalid(field, "and add_generation_prompt exclude each other")
            if self.messages[-1].role != "assistant":
                raise _invalid(field, "needs a last message of the assistant's")
            return "message"
        if self.add_generation_prompt is False:
            return "closed"
        says_nothing = self.add_generation_prompt is None and self.continue_final_message is None
        return None if says_nothing else "turn"


class ChatEncoder(openai_common.OpenAIEncoder):
    """Per choice a role, reasoning, content, and why it ended."""

    id_prefix = "chatcmpl"
    body_kind = "chat.completion"
    event_kind = "chat.completion.chunk"
    logprob_lists = ("content",)

    def begin(self) -> bytes:
        delta = {"role": "assistant", "content": ""}
        return b"".join(self._delta(index, delta) for index in range(len(self._usages)))

    def encode(self, index: int, chunk: Chunk) -> bytes:
        tokens = self.note(index, chunk)
        events = b""
        if chunk.reasoning:
            events = self._delta(index, {"reasoning_content": chunk.reasoning})
        if chunk.text or tokens:
            events += self._delta(index, {"content": chunk.text}, self.logprobs(tokens))
        for call in chunk.tool_calls:
            for fields in _call_fields(call):
                events += self._delta(index, {"tool_calls": [{"index": call.index, **fields}]})
        if chunk.finish_reason is not None:
            events += self._delta(index, {}, finish_reason=chunk.finish_reason)
        return events

    def _delta(
        self, index: int, delta: object, logprobs: object = None, finish_reason: str | None = None
    ) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs}
        return self.event({**choice, "finish_reason": finish_reason})

    def choice(self, answer: Answer) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
        if answer.reasoning:  # in the field that DeepSeek's API has for it
            message["reasoning_content"] = answer.reasoning
        if answer.tool_calls:
            message["content"] = answer.text or None
            message["tool_calls"] = [
                _new_call(call.name, call.arguments) for call in answer.tool_calls
            ]
        return {"message": message}

    def logprobs(self, lists: Mapping[str, Any]) -> dict[str, Any] | None:
        found = super().logprobs(lists)
        return found and {**found, "refusal": None}

    @staticmethod
    def logprob_fields(located: LocatedLogprob) -> dict[str, Any]:
        top = [token_fields(token) for token in located.logprob.top]
        return {"content": {**token_fields(located.logprob.drawn), "top_logprobs": top}}


def _call_fields(call: ToolCallDelta) -> Iterator[dict[str, Any]]:
    """Yield what the events of a call have: the first alone has its id and its name."""
    if call.name:
        yield _new_call(call.name)
    if call.arguments:
        yield {"function": {"arguments": call.arguments}}


def _new_call(name: str, arguments: str = "") -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"id": new_call_id(), "type": "function", "function": function}


@openai_common.DIALECT.route(
    "/v1/chat/completions",
    "Answer a conversation, as OpenAI's API does",
    "With `stream`, the answer comes as server-sent events and ends in `[DONE]`.",
    request=ChatCompletionRequest,
    streamed=ChatEncoder.content_type,
)
async def chat_completions(body: ChatCompletionRequest) -> Response:
    return await openai_common.answer(body, ChatEncoder)
