"""What clients send to the OpenAI routes, and the generation requests that it makes.

The fields are those of OpenAI's API reference for `/v1/chat/completions` and `/v1/completions`,
and llama-server's additions to them. A field that would change the answer and is not supported is
refused; a field that is unknown is ignored, because clients send many.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from llmstream_cli.core.api import GenerationRequest, SamplingParams
from llmstream_cli.errors import InvalidFieldError
from llmstream_cli.prompts.messages import Ending, Message, Role
from llmstream_cli.server.dialect import (
    JSON_OBJECT,
    MAX_MESSAGES,
    MAX_NAME_CHARS,
    MAX_TEXT_PARTS,
    MAX_TOP_LOGPROBS,
    as_list,
    as_text_parts,
    sampling_params,
    schema_text,
    seed_param,
    with_choice_seed,
)

MAX_CHOICES = 8
MAX_PROMPTS = 32
MAX_ANSWERS = 32

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}
_SAME_NAMES = {
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repeat_penalty",
    "repeat_last_n",
    "ignore_eos",
}
_NO_EFFORT = "none"
_MAX_TOKEN_IDS = 2**31  # llama.cpp keeps them in 32 bits
_NO_BOUND = -1  # what llama-server and LangChain call no limit of tokens


class _Fields(BaseModel):
    # OpenAI's clients are typed: a number in a string is a mistake. JSON cannot tell more.
    model_config = ConfigDict(strict=True, allow_inf_nan=False, frozen=True)


class ContentPart(_Fields):
    """One part of a message's content."""

    type: str
    text: str | None = None


class OpenAIMessage(_Fields):
    """One turn; its content is a string or a list of text parts."""

    role: str
    content: Annotated[
        list[ContentPart],
        Field(max_length=MAX_TEXT_PARTS),
        BeforeValidator(as_text_parts, json_schema_input_type=str | list[ContentPart] | None),
    ] = []
    tool_calls: list[Any] | None = None
    function_call: Any = None


class StreamOptions(_Fields):
    """How to stream."""

    include_usage: bool | None = None


class JsonSchemaFormat(_Fields):
    """A JSON schema under a name."""

    schema_: Any = Field(default=None, alias="schema")


class ResponseFormat(_Fields):
    """What the answer has to look like."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class ChatTemplateKwargs(_Fields):
    """What the chat template is told; of it, whether to reason before the answer."""

    model_config = ConfigDict(extra="forbid")

    enable_thinking: bool | None = None
    thinking: bool | None = None


class _SamplingFields(_Fields):
    """What both routes take."""

    model: Annotated[str, Field(max_length=MAX_NAME_CHARS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    max_tokens: int | None = None
    stop: Annotated[
        list[str] | None, BeforeValidator(as_list, json_schema_input_type=str | list[str] | None)
    ] = None
    logit_bias: dict[Annotated[str, Field(pattern=r"^[0-9]{1,10}$")], float] | None = None
    ignore_eos: bool | None = None
    grammar: str | None = None
    json_schema: dict[str, Any] | None = None

    @property
    def num_choices(self) -> int:
        """Answers to each prompt."""
        return self.n or 1

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with what it cost."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def _given(self) -> dict[str, Any]:
        """Return the parameters that are present, by the names of `SamplingParams`."""
        given = self.model_dump(include=_SAME_NAMES, exclude_none=True)
        if self.stop is not None:
            given["stop"] = tuple(self.stop)
        if self.seed is not None:  # -1 gives None, which is a value here
            given["seed"] = seed_param(self.seed)
        if self.logit_bias is not None:
            given["logit_bias"] = tuple(
                (int(token), bias) for token, bias in self.logit_bias.items()
            )
        if self.grammar:
            given["grammar"] = self.grammar
        if self.json_schema is not None:
            given["json_schema"] = schema_text(self.json_schema)
        return given


class ChatCompletionRequest(_SamplingFields):
    """Body of `POST /v1/chat/completions`."""

    messages: Annotated[list[OpenAIMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    response_format: ResponseFormat | None = None
    chat_template_kwargs: ChatTemplateKwargs | None = None
    reasoning_effort: Annotated[str, Field(max_length=MAX_NAME_CHARS)] | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    functions: list[Any] | None = None
    function_call: Any = None
    modalities: list[str] | None = None
    audio: Any = None
    web_search_options: Any = None

    @property
    def includes_logprobs(self) -> bool:
        """Whether the answer has log probabilities."""
        return bool(self.logprobs)

    def generation_requests(self, defaults: SamplingParams) -> list[GenerationRequest]:
        """Return one request for each choice.

        Raises:
            InvalidValueError: a value is out of its bounds, or asks for what there is not.
        """
        self._refuse_unsupported()
        messages = tuple(
            _message(message, f"messages.{index}") for index, message in enumerate(self.messages)
        )
        sampling = sampling_params(defaults, self._given(), self._client_names())
        return [
            GenerationRequest(
                messages,
                with_choice_seed(sampling, choice),
                thinking=self._thinking(),
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

    def _thinking(self) -> bool | None:
        """Return whether to reason; of an effort it is only known whether there shall be any."""
        told = self.chat_template_kwargs
        if told is not None and told.enable_thinking is not None:
            return told.enable_thinking
        if told is not None and told.thinking is not None:
            return told.thinking
        return False if self.reasoning_effort == _NO_EFFORT else None

    def _refuse_unsupported(self) -> None:
        if self.tools and self.tool_choice != "none":
            raise _refusal("tools", "tools are not supported; leave them out, or set tool_choice")
        if self.functions and self.function_call != "none":
            raise _refusal("functions", "functions are not supported; leave them out")
        if self.modalities not in (None, [], ["text"]) or self.audio is not None:
            raise _refusal("modalities", "the answer can be text only")
        if self.web_search_options is not None:
            raise _refusal("web_search_options", "web search is not supported")

    def _given(self) -> dict[str, Any]:
        given = super()._given()
        if self.max_tokens is not None or self.max_completion_tokens is not None:
            given["max_tokens"] = min((bound for bound, _ in self._bounds()), default=None)
        if self.logprobs:
            given["logprobs"] = self.top_logprobs or 0
        elif self.top_logprobs:
            raise _refusal("top_logprobs", "top_logprobs needs logprobs to be true")
        schema = self._response_schema()
        if schema is not None:
            if "grammar" in given or "json_schema" in given:
                raise _refusal(
                    "response_format", "response_format, grammar and json_schema exclude each other"
                )
            given["json_schema"] = schema
        return given

    def _response_schema(self) -> str | None:
        if self.response_format is None or self.response_format.type == "text":
            return None
        if self.response_format.type == "json_object":
            return JSON_OBJECT
        wanted = self.response_format.json_schema
        if wanted is None or not isinstance(wanted.schema_, dict):
            raise _refusal(
                "response_format", "response_format.json_schema.schema must be a JSON schema object"
            )
        return schema_text(wanted.schema_)

    def _bounds(self) -> list[tuple[int, str]]:
        """Return the bounds of the answer and their names; of two the smaller holds, the first."""
        bounds = [
            (self.max_tokens, "max_tokens"),
            (self.max_completion_tokens, "max_completion_tokens"),
        ]
        return sorted((bound, name) for bound, name in bounds if bound not in (None, _NO_BOUND))

    def _client_names(self) -> dict[str, str]:
        names = [name for _, name in self._bounds()]
        known = {"logprobs": "top_logprobs", "max_tokens": names[0] if names else "max_tokens"}
        if self.response_format is not None and self.json_schema is None:
            known["json_schema"] = "response_format.json_schema.schema"
        return known


def _as_prompts(value: object) -> object:
    """Make a list of prompts of any of the four shapes that OpenAI's API takes.

    Raises:
        ValueError: it is none of them.
    """
    if isinstance(value, str) or _is_token_ids(value):
        return [value]
    if isinstance(value, list) and all(isinstance(one, str) or _is_token_ids(one) for one in value):
        return value
    raise ValueError("must be a string, a list of strings, or lists of token ids")


def _is_token_ids(value: object) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(type(token) is int and 0 <= token < _MAX_TOKEN_IDS for token in value)
    )


Prompt = str | list[int]


class CompletionRequest(_SamplingFields):
    """Body of `POST /v1/completions`: prompts that are continued as they are."""

    prompt: Annotated[
        list[Prompt],
        Field(min_length=1, max_length=MAX_PROMPTS),
        BeforeValidator(_as_prompts, json_schema_input_type=Prompt | list[Prompt]),
    ]
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None

    @property
    def includes_logprobs(self) -> bool:
        """Whether the answer has log probabilities; of the drawn tokens alone if there are 0."""
        return self.logprobs is not None

    def generation_requests(self, defaults: SamplingParams) -> list[GenerationRequest]:
        """Return the requests of the first prompt's choices, then those of the second's, and so on.

        Raises:
            InvalidValueError: a value is out of its bounds, or asks for what there is not.
        """
        self._refuse_unsupported()
        sampling = sampling_params(defaults, self._given(), {})
        return [
            GenerationRequest(
                sampling=with_choice_seed(sampling, choice),
                prompt=prompt if isinstance(prompt, str) else tuple(prompt),
            )
            for prompt in self.prompt
            for choice in range(self.num_choices)
        ]

    def _refuse_unsupported(self) -> None:
        if self.echo:
            raise _refusal("echo", "echo is not supported; the client has the prompt")
        if self.suffix:
            raise _refusal("suffix", "suffix is not supported; the answer only continues a prompt")
        if self.best_of is not None and self.best_of != self.num_choices:
            raise _refusal("best_of", "best_of must be the same as n: all choices are returned")
        if len(self.prompt) * self.num_choices > MAX_ANSWERS:
            raise _refusal("prompt", f"at most {MAX_ANSWERS} answers can be asked for at once")

    def _given(self) -> dict[str, Any]:
        given = super()._given()
        if self.max_tokens is not None:
            given["max_tokens"] = None if self.max_tokens == _NO_BOUND else self.max_tokens
        if self.logprobs is not None:
            given["logprobs"] = self.logprobs
        return given


def _message(message: OpenAIMessage, where: str) -> Message:
    role = _ROLES.get(message.role)
    if role is None:
        raise _refusal(
            f"{where}.role",
            f"{where}.role must be system, developer, user or assistant"
            + ("; tools are not supported" if message.role in {"tool", "function"} else ""),
        )
    if message.tool_calls or message.function_call is not None:
        raise _refusal(f"{where}.tool_calls", f"{where}.tool_calls: tools are not supported")
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


def _refusal(field: str, message: str) -> InvalidFieldError:
    return InvalidFieldError(message, field)
