"""`POST /v1/chat/completions`."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema
from quart import Blueprint, Response

from llmstream_cli.api import Chunk, GenerationRequest
from llmstream_cli.errors import (
    InvalidValueError,
)
from llmstream_cli.prompts.messages import Ending, Message, Role
from llmstream_cli.sampling import SamplingParams
from llmstream_cli.server.body import read_model
from llmstream_cli.server.context import ServerContext
from llmstream_cli.server.dialects.common import (
    MAX_MESSAGES,
    MAX_NAME_CHARS,
    MAX_TEXT_PARTS,
    MAX_TOP_LOGPROBS,
    Dialect,
    Given,
    as_text_parts,
    message_role,
    sampling_params,
    token_fields,
    top_logprobs_given,
    with_choice_seed,
)
from llmstream_cli.server.dialects.fields import (
    ANY_ITEMS,
    MISSING,
    NO_ITEMS,
    NONE,
    NOT_NONE,
    OFF,
    ON,
    TOP_LOGPROBS_ALONE,
    Refused,
    excluded,
    with_fields,
)
from llmstream_cli.server.dialects.logprobs import LocatedLogprob
from llmstream_cli.server.dialects.openai_common import (
    EVENT_STREAM,
    OPENAI_IGNORED,
    OPENAI_PARAMETERS,
    OPENAI_REFUSED,
    EventEncoder,
    OpenAIRequest,
    Shape,
    answer,
    total_usage,
)
from llmstream_cli.server.dialects.openai_formats import OnlyFields, OpenAIFields
from llmstream_cli.server.pages import Operation, Reply
from llmstream_cli.server.respond import Answer

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}
_NO_EFFORT = "none"
_KWARGS = "send chat_template_kwargs with enable_thinking"

_REFUSED = {
    **OPENAI_REFUSED,
    "tool_choice": Refused(("none", "auto"), "leave it and tools out"),
    "function_call": Refused(("none", "auto"), "leave it and functions out"),
    "modalities": Refused(([], ["text"]), "the answer can be text only"),
    **dict.fromkeys(("audio", "web_search_options"), NONE),
    "verbosity": Refused(("medium",), "say it in a message"),
    "best_of": Refused((1,), "send n"),
    "echo": OFF,
    "add_special_tokens": OFF,
    "chat_template": Refused(advice="start the server with --template"),
    "documents": Refused(([],), "write them into a message"),
    # Reasoning by other servers' names
    **dict.fromkeys(("enable_thinking", "thinking", "reasoning"), Refused(advice=_KWARGS)),
    "thinking_budget_tokens": Refused((-1,)),
    "reasoning_format": Refused(("auto", "deepseek")),
    "reasoning_in_content": OFF,
    **dict.fromkeys(("separate_reasoning", "include_reasoning"), ON),
}
_IGNORED = (*OPENAI_IGNORED, "parallel_tool_calls", "prediction", "stream_reasoning")


class ContentPart(OpenAIFields):
    """One part of a message's content."""

    model_config = ConfigDict(json_schema_extra={"required": ["type", "text"]})

    type: Annotated[str, WithJsonSchema({"const": "text"})]
    text: Annotated[str | None, WithJsonSchema({"type": "string"})] = None


_Content = str | Annotated[list[ContentPart], Field(max_length=MAX_TEXT_PARTS)] | None


class OpenAIMessage(OpenAIFields):
    """One turn; its content is a string or a list of text parts."""

    model_config = ConfigDict(
        json_schema_extra=excluded(
            {"role": {"not": {"const": "assistant"}}, "content": {"enum": [None, []], **MISSING}}
        )
    )

    role: Annotated[str, WithJsonSchema({"enum": [*_ROLES]})]
    content: Annotated[
        list[ContentPart],
        Field(max_length=MAX_TEXT_PARTS),
        BeforeValidator(as_text_parts, json_schema_input_type=_Content),
    ] = []  # noqa: RUF012  (pydantic copies it)
    tool_calls: Annotated[list[Any] | None, NO_ITEMS] = None
    function_call: Annotated[Any, WithJsonSchema({"type": "null"})] = None


class ChatTemplateKwargs(OnlyFields):
    """What the chat template is told; of it, whether to reason before the answer."""

    enable_thinking: bool | None = None
    thinking: bool | None = None


@with_fields(OPENAI_PARAMETERS, _REFUSED, _IGNORED)
class ChatCompletionRequest(OpenAIRequest):
    """Body of `POST /v1/chat/completions`."""

    model_config = ConfigDict(
        json_schema_extra=excluded(
            TOP_LOGPROBS_ALONE,
            {"tools": ANY_ITEMS, "tool_choice": NOT_NONE},
            {"functions": ANY_ITEMS, "function_call": NOT_NONE},
        )
    )

    messages: Annotated[list[OpenAIMessage], Field(min_length=1, max_length=MAX_MESSAGES)] = Field(
        description="turns of `system`, `developer` (the same as `system`), `user` and "
        "`assistant`; `content` is a string or a list of `text` parts, which are joined with line "
        "breaks"
    )
    logprobs: bool | None = Field(None, description="report log probabilities")
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = Field(
        None, description="and those of so many most likely tokens at each place; needs `logprobs`"
    )
    chat_template_kwargs: ChatTemplateKwargs | None = Field(
        None,
        description="`enable_thinking`, or `thinking`: whether a model that can reasons before it "
        "answers, see [below](#reasoning); whatever else is in it is refused",
    )
    reasoning_effort: Annotated[str, Field(max_length=MAX_NAME_CHARS)] | None = Field(
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
    tools: list[Any] | None = Field(
        None, description='refused unless empty, or `tool_choice` is `"none"`'
    )
    functions: list[Any] | None = Field(
        None, description='refused unless empty, or `function_call` is `"none"`'
    )

    @property
    def includes_logprobs(self) -> bool:
        """Whether the answer has log probabilities."""
        return bool(self.logprobs)

    @property
    def client_names(self) -> dict[str, str]:
        """The fields that a client gave, by the parameters that they set."""
        return {"thinking": "chat_template_kwargs.enable_thinking", **super().client_names}

    def generation_requests(self, defaults: SamplingParams) -> list[GenerationRequest]:
        """Return one request for each choice.

        Raises:
            InvalidValueError: a value is out of its bounds, or asks for what there is not.
        """
        for name, choice in (("tools", "tool_choice"), ("functions", "function_call")):
            if getattr(self, name) and getattr(self, choice) != "none":
                raise InvalidValueError(
                    f'{name} are not supported; leave them out, or set {choice} to "none"', name
                )
        messages = tuple(
            _message(message, f"messages.{index}") for index, message in enumerate(self.messages)
        )
        sampling = sampling_params(defaults, self._given())
        return [
            GenerationRequest(
                messages,
                with_choice_seed(sampling, choice),
                thinking=self.thinks,
                ending=self._ending(),
            )
            for choice in range(self.num_choices)
        ]

    def _ending(self) -> Ending | None:
        """Return how the prompt ends, in vLLM's words; None where the client says nothing."""
        if self.continue_final_message:
            if self.add_generation_prompt:
                raise _refusal(
                    "continue_final_message",
                    "continue_final_message and add_generation_prompt exclude each other",
                )
            if self.messages[-1].role != "assistant":
                raise _refusal(
                    "continue_final_message",
                    "continue_final_message needs a last message of the assistant's",
                )
            return "message"
        if self.add_generation_prompt is False:
            return "closed"
        said = self.add_generation_prompt, self.continue_final_message
        return None if said == (None, None) else "turn"

    @property
    def thinks(self) -> bool | None:
        """Whether to reason; of an effort it is only known whether there shall be any."""
        told = self.chat_template_kwargs
        if told is not None and told.enable_thinking is not None:
            return told.enable_thinking
        if told is not None and told.thinking is not None:
            return told.thinking
        return False if self.reasoning_effort == _NO_EFFORT else None

    def _given(self) -> list[Given]:
        return super()._given() + top_logprobs_given(self.logprobs, self.top_logprobs)


def _message(message: OpenAIMessage, where: str) -> Message:
    calls = message.tool_calls or message.function_call
    role = message_role(message.role, _ROLES, where, calls)
    if not message.content and role != "assistant":
        raise _refusal(f"{where}.content", f"{where}.content is missing")
    return Message(role, "\n".join(_texts(message.content, f"{where}.content")))


def _texts(parts: list[ContentPart], where: str) -> list[str]:
    texts = []
    for index, part in enumerate(parts):
        if part.type != "text":
            raise _refusal(
                f"{where}.{index}.type",
                f"{where}.{index}.type must be text: the model reads nothing else",
            )
        if part.text is None:
            raise _refusal(f"{where}.{index}.text", f"{where}.{index}.text is missing")
        texts.append(part.text)
    return texts


def _refusal(field: str, message: str) -> InvalidValueError:
    return InvalidValueError(message, field)


class ChatEncoder(EventEncoder):
    """Events of `/v1/chat/completions`: per choice a role, reasoning, content, and how it ends."""

    _kind = "chat.completion.chunk"

    def begin(self) -> bytes:
        """Say who speaks."""
        delta = {"role": "assistant", "content": ""}
        return b"".join(self._delta(index, delta) for index in range(self._shape.num_answers))

    def encode(self, index: int, chunk: Chunk) -> bytes:
        """Send the new reasoning and text, and at the end of an answer why it ended."""
        located = self._note(index, chunk)
        events = b""
        if chunk.reasoning:
            events = self._delta(index, {"reasoning_content": chunk.reasoning})
        if chunk.text or (located and self._shape.with_logprobs):
            logprobs = _chat_logprobs(located) if self._shape.with_logprobs else None
            events += self._delta(index, {"content": chunk.text}, logprobs)
        if chunk.finish_reason is not None:
            events += self._delta(index, {}, finish_reason=chunk.finish_reason)
        return events

    def _delta(
        self, index: int, delta: object, logprobs: object = None, finish_reason: str | None = None
    ) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs}
        return self._event([{**choice, "finish_reason": finish_reason}])


def chat_completion(shape: Shape, answers: Sequence[Answer]) -> dict[str, Any]:
    """Return the body of a `/v1/chat/completions` response that is not streamed."""
    choices = [
        {
            "index": index,
            "message": _turn(answer),
            "logprobs": {"content": answer.logprobs["content"], "refusal": None}
            if shape.with_logprobs
            else None,
            "finish_reason": answer.finish_reason,
        }
        for index, answer in enumerate(answers)
    ]
    usage = total_usage([answer.usage for answer in answers], shape.num_choices)
    return {**shape.body("chat.completion", choices), "usage": usage}


def _turn(answer: Answer) -> dict[str, Any]:
    """Return an answer as a turn; its reasoning in the field that DeepSeek's API has for it."""
    message = {"role": "assistant", "content": answer.text, "refusal": None}
    return {**message, "reasoning_content": answer.reasoning} if answer.reasoning else message


def chat_logprob(located: LocatedLogprob) -> dict[str, Any]:
    """Return what the list of a chat's log probabilities has for a token."""
    logprob = located.logprob
    top = [token_fields(token) for token in logprob.top]
    return {"content": {**token_fields(logprob.drawn), "top_logprobs": top}}


def _chat_logprobs(located: Sequence[LocatedLogprob]) -> dict[str, Any]:
    return {"content": [chat_logprob(one)["content"] for one in located], "refusal": None}


def _routes(context: ServerContext) -> Blueprint:
    blueprint = Blueprint("openai_chat", __name__)

    @blueprint.post("/v1/chat/completions")
    async def chat_completions() -> Response:
        body = await read_model(ChatCompletionRequest)
        return await answer(context, body, "chatcmpl", ChatEncoder, chat_completion, chat_logprob)

    return blueprint


DIALECT = Dialect(
    _routes,
    (
        Operation(
            "post",
            "/v1/chat/completions",
            "Answer a conversation, as OpenAI's API does",
            "With `stream`, the answer comes as server-sent events and ends in `[DONE]`.",
            request=ChatCompletionRequest,
            replies=(Reply(200, "The answer.", streamed=EVENT_STREAM),),
        ),
    ),
)
