"""What clients send to the Ollama routes, and the generation requests that it makes.

The fields are those of Ollama's API reference: see `fields`. One that says how to load a model has
no effect, because that is decided when the server starts.
"""

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, ConfigDict, Field, WithJsonSchema

from llmstream_cli.api import GenerationRequest
from llmstream_cli.errors import InvalidValueError
from llmstream_cli.prompts.messages import Message, Role
from llmstream_cli.sampling import SamplingParams
from llmstream_cli.server.dialect import (
    JSON_OBJECT,
    MAX_MESSAGES,
    MAX_NAME_CHARS,
    MAX_TOP_LOGPROBS,
    Given,
    client_names,
    given_parameters,
    sampling_params,
    schema_text,
)
from llmstream_cli.server.fields import (
    ANY_TEXT,
    NO_ITEMS,
    OLLAMA_CHAT,
    OLLAMA_GENERATE,
    OLLAMA_OPTIONS,
    TOP_LOGPROBS_ALONE,
    TRUE,
    FieldTable,
    excluded,
)
from llmstream_cli.server.keep_alive import keep_alive_seconds

_ROLES: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}
_NUMBER = r"[0-9]{1,15}(\.[0-9]{0,9})?"
_DURATION = {
    "type": "string",
    "pattern": rf"^(-?({_NUMBER}|({_NUMBER}(ns|us|µs|ms|s|m|h))+)|forever|inf)?$",
}


_THINKING = {"enum": [True, "low", "medium", "high", "max"]}

ModelName = Annotated[str, Field(max_length=MAX_NAME_CHARS)]


class _Fields(FieldTable):
    # Ollama itself takes no number in a string.
    model_config = ConfigDict(strict=True, allow_inf_nan=False, frozen=True, populate_by_name=True)


@OLLAMA_OPTIONS
class OllamaOptions(_Fields):
    """How to draw; `null` is the server's default."""


class _GenerationFields(_Fields):
    """What both routes take."""

    model_config = ConfigDict(json_schema_extra=excluded(TOP_LOGPROBS_ALONE))

    model: ModelName | None = Field(
        None,
        description="a name from `/api/tags`, with or without `:latest`; without it, the default "
        "model",
    )
    stream: bool | None = Field(None, description="`true` unless it is `false`")
    options: OllamaOptions | None = Field(None, description="see below")
    format: Literal["json", ""] | dict[str, Any] | None = Field(
        None,
        description='`"json"`: the answer is a JSON object; a JSON schema: it fulfils it, '
        "but for what the header `X-Schema-Ignored` [names](structured-output.md)",
    )
    think: bool | Literal["low", "medium", "high", "max"] | None = Field(
        None,
        description="whether a model that can thinks before it answers: `true`, `false`, or one "
        "of `low`, `medium`, `high`, `max`, which all mean `true`; without it, as the model's "
        "template has it; not with `raw` or a `format`",
    )
    keep_alive: float | Annotated[str, WithJsonSchema(_DURATION)] | None = Field(
        None,
        description="how long the model stays loaded for this client after its answers: seconds, "
        '`"5m"`, `"1h30m"`; 0 lets it go, -1 keeps it. Without it, as `--keep-alive` says',
    )
    logprobs: bool | None = Field(
        None, description="report log probabilities, see [openai.md](openai.md#log-probabilities)"
    )
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = Field(
        None, description="and those of so many most likely tokens at each place; needs `logprobs`"
    )

    @property
    def streams(self) -> bool:
        """Whether to answer line by line, which is what a client gets that does not say."""
        return self.stream is not False

    @property
    def keep_alive_seconds(self) -> float | None:
        """How long the model stays loaded from now on; None leaves that as it is.

        Raises:
            InvalidValueError: it is no duration.
        """
        if self.keep_alive is None or self.keep_alive == "":
            return None
        return keep_alive_seconds(self.keep_alive)

    @property
    def thinking(self) -> bool | None:
        """Whether to reason before the answer; a level counts as yes."""
        return bool(self.think) if self.think is not None else None

    @property
    def client_names(self) -> dict[str, str]:
        """The fields that a client gave, by the parameters that they set."""
        return {"thinking": "think", **client_names(self._given())}

    def _given(self) -> list[Given]:
        given = given_parameters(self.options, "options.") if self.options is not None else []
        if self.logprobs:
            given.append(("top_logprobs", "logprobs", self.top_logprobs or 0))
        elif self.top_logprobs:
            raise InvalidValueError("top_logprobs needs logprobs to be true", "top_logprobs")
        if self.format == "json":
            given.append(("format", "json_schema", JSON_OBJECT))
        elif isinstance(self.format, dict):
            given.append(("format", "json_schema", schema_text(self.format)))
        return given


class OllamaMessage(_Fields):
    """One turn."""

    role: Annotated[str, WithJsonSchema({"enum": [*_ROLES]})]
    content: str | None = None
    images: Annotated[list[Any] | None, NO_ITEMS] = None
    tool_calls: Annotated[list[Any] | None, NO_ITEMS] = None


@OLLAMA_CHAT
class ChatRequest(_GenerationFields):
    """Body of `POST /api/chat`."""

    messages: Annotated[list[OllamaMessage], Field(max_length=MAX_MESSAGES)] | None = Field(
        None, description="turns of `system`, `user` and `assistant`"
    )

    def generation_request(self, defaults: SamplingParams) -> GenerationRequest | None:
        """Return the request; None if the client only wants the model to be loaded or unloaded.

        Raises:
            InvalidValueError: a value is out of its bounds, or asks for what there is not.
        """
        sampling = sampling_params(defaults, self._given())
        messages = tuple(
            _message(message, f"messages.{index}")
            for index, message in enumerate(self.messages or ())
        )
        if not messages:
            return None
        return GenerationRequest(
            messages, sampling, keep_alive=self.keep_alive_seconds, thinking=self.thinking
        )


@OLLAMA_GENERATE
class GenerateRequest(_GenerationFields):
    """Body of `POST /api/generate`."""

    model_config = ConfigDict(
        json_schema_extra=excluded(
            TOP_LOGPROBS_ALONE, {"raw": TRUE, "system": ANY_TEXT}, {"raw": TRUE, "think": _THINKING}
        )
    )

    prompt: str | None = Field(None, description="a question")
    system: str | None = Field(None, description="the system message before it; not with `raw`")
    raw: bool | None = Field(
        None,
        description="continue `prompt` as it is, without the chat template; control tokens in it "
        "are read",
    )

    def generation_request(self, defaults: SamplingParams) -> GenerationRequest | None:
        """Return the request; None if the client only wants the model to be loaded or unloaded.

        Raises:
            InvalidValueError: a value is out of its bounds, or asks for what there is not.
        """
        if self.raw and self.think:
            raise _refusal("think", "think needs a chat template; leave it or raw out")
        if self.raw and self.system:
            raise _refusal("system", "system needs a chat template; write it into the raw prompt")
        sampling = sampling_params(defaults, self._given())
        if not self.prompt:
            return None
        keep_alive = self.keep_alive_seconds
        if self.raw:
            return GenerationRequest(sampling=sampling, prompt=self.prompt, keep_alive=keep_alive)
        system = (Message("system", self.system),) if self.system else ()
        messages = (*system, Message("user", self.prompt))
        return GenerationRequest(messages, sampling, keep_alive=keep_alive, thinking=self.thinking)


class ShowRequest(_Fields):
    """Body of `POST /api/show`; older clients call the model `name`."""

    model: Annotated[ModelName | None, Field(validation_alias=AliasChoices("model", "name"))] = None


def _message(message: OllamaMessage, where: str) -> Message:
    role = _ROLES.get(message.role)
    if role is None:
        raise _refusal(
            f"{where}.role",
            f"{where}.role must be system, user or assistant"
            + ("; tools are not supported" if message.role == "tool" else ""),
        )
    if message.images:
        raise _refusal(f"{where}.images", f"{where}.images: the model reads text only")
    if message.tool_calls:
        raise _refusal(f"{where}.tool_calls", f"{where}.tool_calls: tools are not supported")
    return Message(role, message.content or "")


def _refusal(field: str, message: str) -> InvalidValueError:
    return InvalidValueError(message, field)
