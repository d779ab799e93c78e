"""What clients send to the OpenAI routes, and the generation requests that it makes.

The fields are those of OpenAI's API reference for `/v1/chat/completions` and `/v1/completions`,
and what llama-server, vLLM and SGLang add to them: see `fields`. A field that is unknown is
ignored, because clients send many.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema

from llmstream_cli.api import GenerationRequest
from llmstream_cli.errors import InvalidValueError
from llmstream_cli.prompts.messages import Ending, Message, Role
from llmstream_cli.sampling import SamplingParams
from llmstream_cli.server.dialect import (
    JSON_OBJECT,
    MAX_MESSAGES,
    MAX_NAME_CHARS,
    MAX_TEXT_PARTS,
    MAX_TOP_LOGPROBS,
    Given,
    as_text_parts,
    choice_grammar,
    client_names,
    given_parameters,
    sampling_params,
    schema_text,
    with_choice_seed,
)
from llmstream_cli.server.fields import (
    ANY_ITEMS,
    CHAT,
    COMPLETION,
    MISSING,
    NO_ITEMS,
    NOT_NONE,
    TOP_LOGPROBS_ALONE,
    FieldTable,
    excluded,
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
_NO_EFFORT = "none"
_MAX_TOKEN_IDS = 2**31  # llama.cpp keeps them in 32 bits


class _Fields(FieldTable):
    # OpenAI's clients are typed: a number in a string is a mistake. JSON cannot tell more.
    model_config = ConfigDict(strict=True, allow_inf_nan=False, frozen=True)


class _OnlyFields(_Fields):
    model_config = ConfigDict(extra="forbid")  # each of them would change the answer


class ContentPart(_Fields):
    """One part of a message's content."""

    model_config = ConfigDict(json_schema_extra={"required": ["type", "text"]})

    type: Annotated[str, WithJsonSchema({"const": "text"})]
    text: Annotated[str | None, WithJsonSchema({"type": "string"})] = None


_Content = str | Annotated[list[ContentPart], Field(max_length=MAX_TEXT_PARTS)] | None


class OpenAIMessage(_Fields):
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


class StreamOptions(_Fields):
    """How to stream."""

    include_usage: bool | None = None


_Choices = Annotated[
    list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=1024)
]


class JsonSchemaFormat(_Fields):
    """A JSON schema under a name."""

    schema_: dict[str, Any] | None = Field(None, alias="schema")


class ResponseFormat(_OnlyFields):
    """What the answer has to look like, in the words of several APIs."""

    type: Literal["text", "json_object", "json", "json_schema", "regex", "grammar"]
    json_schema: JsonSchemaFormat | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    value: dict[str, Any] | str | None = None
    regex: str | None = None
    pattern: str | None = None
    grammar: str | None = None
    name: str | None = None
    description: str | None = None
    strict: bool | None = None

    def given(self, field: str) -> list[Given]:
        """Return the parameter that it asks for; a list of one, or of none.

        Raises:
            InvalidValueError: what its type needs is missing.
        """
        if self.type == "text":
            return []
        if self.type in {"regex", "grammar"}:
            texts = (self.regex or self.pattern) if self.type == "regex" else self.grammar
            text = texts or self.value
            if not isinstance(text, str) or not text:
                raise InvalidValueError(f"{field}.{self.type} must be a string", field)
            return [(field, self.type, text)]
        where, schema = self._schema()
        if schema is not None:
            return [(f"{field}.{where}", "json_schema", schema_text(schema))]
        if self.type == "json_schema":
            raise InvalidValueError(
                f"{field}.json_schema.schema is missing, which is the schema to follow", field
            )
        return [(field, "json_schema", JSON_OBJECT)]

    def _schema(self) -> tuple[str, dict[str, Any] | None]:
        """Return where the schema stands, and the schema."""
        if self.json_schema is not None and self.json_schema.schema_ is not None:
            return "json_schema.schema", self.json_schema.schema_
        if self.schema_ is not None or not isinstance(self.value, dict):
            return "schema", self.schema_
        named = self.value.get("schema")  # Hugging Face's servers take it with a name around it
        return ("value.schema", named) if isinstance(named, dict) else ("value", self.value)


class StructuredOutputs(_OnlyFields):
    """vLLM's name for what the answer has to look like."""

    json_: dict[str, Any] | str | None = Field(None, alias="json")
    json_object: bool | None = None
    regex: str | None = None
    choice: _Choices | None = None
    grammar: str | None = None

    def given(self, field: str) -> list[Given]:
        """Return the parameter that each of its fields asks for."""
        found: list[Given] = []
        if self.json_ is not None:
            text = self.json_ if isinstance(self.json_, str) else schema_text(self.json_)
            found.append((f"{field}.json", "json_schema", text))
        if self.json_object:
            found.append((f"{field}.json_object", "json_schema", JSON_OBJECT))
        if self.regex:
            found.append((f"{field}.regex", "regex", self.regex))
        if self.choice:
            found.append((f"{field}.choice", "grammar", choice_grammar(self.choice)))
        if self.grammar:
            found.append((f"{field}.grammar", "grammar", self.grammar))
        return found


class ChatTemplateKwargs(_OnlyFields):
    """What the chat template is told; of it, whether to reason before the answer."""

    enable_thinking: bool | None = None
    thinking: bool | None = None


class _SamplingFields(_Fields):
    """What both routes take beside the sampling parameters."""

    model: Annotated[str, Field(max_length=MAX_NAME_CHARS)] | None = Field(
        None, description="a name from `/v1/models`; without it, the default model"
    )
    stream: bool | None = Field(None, description="answer with server-sent events")
    stream_options: StreamOptions | None = Field(
        None, description="`include_usage`: end the stream with what it cost"
    )
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = Field(
        None,
        description="answers to each prompt; each takes a place in the queue, so that more of them "
        "than `--parallel` and `--queue` together get 429",
    )
    response_format: ResponseFormat | None = Field(
        None,
        description="by its `type`: `text`; `json_object`, the answer is a JSON object, and "
        "fulfils `schema` if there is one; `json_schema`, it fulfils `json_schema.schema`, "
        "`schema` or `value`, `strict` or not; `regex`, it matches `regex`, `pattern` or `value`; "
        "`grammar`, it follows `grammar` or `value`. The header `X-Schema-Ignored` names what in a "
        "schema is [passed over](structured-output.md)",
    )
    structured_outputs: StructuredOutputs | None = Field(
        None,
        description="vLLM's form of the same: `json`, `json_object`, `regex`, `choice`, `grammar`",
    )
    guided_choice: _Choices | None = Field(None, description="the answer is one of these texts")

    @property
    def num_choices(self) -> int:
        """Answers to each prompt."""
        return self.n or 1

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with what it cost."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def client_names(self) -> dict[str, str]:
        """The fields that a client gave, by the parameters that they set."""
        return client_names(self._given())

    def _given(self) -> list[Given]:
        """Return the parameters that are present."""
        given = given_parameters(self)
        fields = {field for field, _, _ in given}
        if "repetition_penalty" in fields and "repeat_last_n" not in fields:
            # Whose name that is penalizes all of the context.
            given.append(("repetition_penalty", "repeat_last_n", -1))
        if self.response_format is not None:
            given += self.response_format.given("response_format")
        if self.structured_outputs is not None:
            given += self.structured_outputs.given("structured_outputs")
        if self.guided_choice is not None:
            given.append(("guided_choice", "grammar", choice_grammar(self.guided_choice)))
        return given


@CHAT
class ChatCompletionRequest(_SamplingFields):
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
        given = super()._given()
        if self.logprobs:
            given.append(("top_logprobs", "logprobs", self.top_logprobs or 0))
        elif self.top_logprobs:
            raise InvalidValueError("top_logprobs needs logprobs to be true", "top_logprobs")
        return given


def _as_prompts(value: object) -> object:
    """Make a list of prompts of any of the four shapes that OpenAI's API takes.

    Raises:
        ValueError: it is none of them, or has none or too many.
    """
    if isinstance(value, str) or _is_token_ids(value):
        return [value]
    if not isinstance(value, list) or not 0 < len(value) <= MAX_PROMPTS:
        raise ValueError(f"must be a string, token ids, or a list of up to {MAX_PROMPTS} of either")
    if not all(isinstance(one, str) or _is_token_ids(one) for one in value):
        raise ValueError("must have strings or lists of token ids, none of them empty")
    return value


def _is_token_ids(value: object) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(type(token) is int and 0 <= token < _MAX_TOKEN_IDS for token in value)
    )


Prompt = str | list[int]
_TokenIds = Annotated[list[Annotated[int, Field(ge=0, lt=_MAX_TOKEN_IDS)]], Field(min_length=1)]
_Prompts = Annotated[list[str | _TokenIds], Field(min_length=1, max_length=MAX_PROMPTS)]


@COMPLETION
class CompletionRequest(_SamplingFields):
    """Body of `POST /v1/completions`: prompts that are continued as they are."""

    prompt: Annotated[
        list[Prompt],
        BeforeValidator(_as_prompts, json_schema_input_type=str | _TokenIds | _Prompts),
    ] = Field(
        description="a string, in which control tokens such as `<|im_end|>` are read; token ids; "
        f"or a list of up to {MAX_PROMPTS} of either"
    )
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = Field(
        None, description="report log probabilities, and so many most likely tokens at each place"
    )
    best_of: int | None = Field(None, description="refused unless it is `n`: all are returned")

    @property
    def thinks(self) -> None:
        """Whether to reason: there is no way to ask for it here."""
        return None

    @property
    def includes_logprobs(self) -> bool:
        """Whether the answer has log probabilities; of the drawn tokens alone if there are 0."""
        return self.logprobs is not None

    def generation_requests(self, defaults: SamplingParams) -> list[GenerationRequest]:
        """Return the requests of the first prompt's choices, then those of the second's, and so on.

        Raises:
            InvalidValueError: a value is out of its bounds, or asks for what there is not.
        """
        if self.best_of is not None and self.best_of != self.num_choices:
            raise InvalidValueError(
                "best_of must be the same as n: all choices are returned", "best_of"
            )
        if len(self.prompt) * self.num_choices > MAX_ANSWERS:
            raise InvalidValueError(
                f"prompt and n ask for more than {MAX_ANSWERS} answers at once", "prompt"
            )
        sampling = sampling_params(defaults, self._given())
        return [
            GenerationRequest(
                sampling=with_choice_seed(sampling, choice),
                prompt=prompt if isinstance(prompt, str) else tuple(prompt),
            )
            for prompt in self.prompt
            for choice in range(self.num_choices)
        ]

    def _given(self) -> list[Given]:
        given = super()._given()
        if self.logprobs is not None:
            given.append(("logprobs", "logprobs", self.logprobs))
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


def _refusal(field: str, message: str) -> InvalidValueError:
    return InvalidValueError(message, field)
