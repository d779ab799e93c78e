"""What clients send to the Ollama routes, and the generation requests that it makes.

The fields are those of Ollama's API reference. A field that would change the answer and is not
supported is refused; one that says how to load a model has no effect, because that is decided when
the server starts.
"""

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field

from llmstream_cli.core.api import GenerationRequest, SamplingParams
from llmstream_cli.errors import InvalidFieldError, InvalidValueError
from llmstream_cli.prompts.messages import Message, Role
from llmstream_cli.server.dialect import (
    JSON_OBJECT,
    MAX_MESSAGES,
    MAX_NAME_CHARS,
    MAX_TOP_LOGPROBS,
    as_list,
    sampling_params,
    schema_text,
    seed_param,
)
from llmstream_cli.server.keep_alive import keep_alive_seconds

_ROLES: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}
_NO_BOUND = {-1, -2}  # of num_predict: without end, and until the context is full
_SAME_NAMES = {
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repeat_penalty",
    "repeat_last_n",
    "presence_penalty",
    "frequency_penalty",
}
_CLIENT_NAMES = {
    "max_tokens": "options.num_predict",
    "logprobs": "top_logprobs",
    "json_schema": "format",
} | {name: f"options.{name}" for name in _SAME_NAMES}

ModelName = Annotated[str, Field(max_length=MAX_NAME_CHARS)]


class _Fields(BaseModel):
    # Ollama's clients take options from forms and files: a number may come as a string.
    model_config = ConfigDict(allow_inf_nan=False, frozen=True, populate_by_name=True)


class OllamaOptions(_Fields):
    """How to draw; `null` is the server's default."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    num_predict: int | None = None
    stop: Annotated[
        list[str] | None, BeforeValidator(as_list, json_schema_input_type=str | list[str] | None)
    ] = None
    # Samplers that there are not; each with the value at which it does nothing.
    mirostat: int | None = None
    tfs_z: float | None = None
    typical_p: float | None = None

    def given(self) -> dict[str, Any]:
        """Return the parameters that are present, by the names of `SamplingParams`.

        Raises:
            InvalidValueError: a sampler is asked for that there is not.
        """
        for name, neutral in (("mirostat", 0), ("tfs_z", 1), ("typical_p", 1)):
            if getattr(self, name) not in (None, neutral):
                raise _refusal(f"options.{name}", f"{name} is not supported; leave it out")
        given = self.model_dump(include=_SAME_NAMES, exclude_none=True)
        if self.stop is not None:
            given["stop"] = tuple(self.stop)
        if self.seed is not None:  # -1 gives None, which is a value here
            given["seed"] = seed_param(self.seed)
        if self.num_predict is not None:
            given["max_tokens"] = None if self.num_predict in _NO_BOUND else self.num_predict
        return given


class _GenerationFields(_Fields):
    """What both routes take."""

    model: ModelName | None = None
    stream: bool | None = None
    options: OllamaOptions | None = None
    format: Any = None
    think: bool | Literal["low", "medium", "high", "max"] | None = None
    keep_alive: float | str | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None

    @property
    def streams(self) -> bool:
        """Whether to answer line by line, which is what a client gets that does not say."""
        return self.stream is not False

    @property
    def keep_alive_seconds(self) -> float | None:
        """How long the model stays loaded from now on; None leaves that as it is.

        Raises:
            InvalidFieldError: it is no duration.
        """
        if self.keep_alive is None or self.keep_alive == "":
            return None
        try:
            return keep_alive_seconds(self.keep_alive)
        except InvalidValueError as error:
            raise _refusal("keep_alive", str(error)) from error

    @property
    def thinking(self) -> bool | None:
        """Whether to reason before the answer; a level counts as yes."""
        return bool(self.think) if self.think is not None else None

    def _sampling(self, defaults: SamplingParams) -> SamplingParams:
        given = self.options.given() if self.options is not None else {}
        if self.logprobs:
            given["logprobs"] = self.top_logprobs or 0
        elif self.top_logprobs:
            raise _refusal("top_logprobs", "top_logprobs needs logprobs to be true")
        if self.format == "json":
            given["json_schema"] = JSON_OBJECT
        elif isinstance(self.format, dict):
            given["json_schema"] = schema_text(self.format)
        elif self.format not in (None, ""):
            raise _refusal("format", 'format must be "json" or a JSON schema object')
        return sampling_params(defaults, given, _CLIENT_NAMES)


class OllamaMessage(_Fields):
    """One turn."""

    role: str
    content: str | None = None
    images: list[Any] | None = None
    tool_calls: list[Any] | None = None


class ChatRequest(_GenerationFields):
    """Body of `POST /api/chat`."""

    messages: Annotated[list[OllamaMessage] | None, Field(max_length=MAX_MESSAGES)] = None
    tools: list[Any] | None = None

    def generation_request(self, defaults: SamplingParams) -> GenerationRequest | None:
        """Return the request; None if the client only wants the model to be loaded or unloaded.

        Raises:
            InvalidValueError: a value is out of its bounds, or asks for what there is not.
        """
        if self.tools:
            raise _refusal("tools", "tools are not supported; leave them out")
        sampling = self._sampling(defaults)
        messages = tuple(
            _message(message, f"messages.{index}")
            for index, message in enumerate(self.messages or ())
        )
        if not messages:
            return None
        return GenerationRequest(
            messages, sampling, keep_alive=self.keep_alive_seconds, thinking=self.thinking
        )


class GenerateRequest(_GenerationFields):
    """Body of `POST /api/generate`."""

    prompt: str | None = None
    system: str | None = None
    raw: bool | None = None
    template: str | None = None
    suffix: str | None = None
    context: list[Any] | None = None
    images: list[Any] | None = None

    def generation_request(self, defaults: SamplingParams) -> GenerationRequest | None:
        """Return the request; None if the client only wants the model to be loaded or unloaded.

        Raises:
            InvalidValueError: a value is out of its bounds, or asks for what there is not.
        """
        self._refuse_unsupported()
        sampling = self._sampling(defaults)
        if not self.prompt:
            return None
        keep_alive = self.keep_alive_seconds
        if self.raw:
            return GenerationRequest(sampling=sampling, prompt=self.prompt, keep_alive=keep_alive)
        system = (Message("system", self.system),) if self.system else ()
        messages = (*system, Message("user", self.prompt))
        return GenerationRequest(messages, sampling, keep_alive=keep_alive, thinking=self.thinking)

    def _refuse_unsupported(self) -> None:
        if self.suffix:
            raise _refusal("suffix", "suffix is not supported; the answer only continues a prompt")
        if self.template:
            raise _refusal("template", "template is not supported; send a raw prompt instead")
        if self.context:
            raise _refusal("context", "context is not supported; send messages to /api/chat")
        if self.images:
            raise _refusal("images", "images are not supported; the model reads text only")
        if self.raw and self.think:
            raise _refusal("think", "a raw prompt is continued as it is; leave think out")
        if self.raw and self.system:
            raise _refusal("system", "a raw prompt has no system message; write it into the prompt")


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


def _refusal(field: str, message: str) -> InvalidFieldError:
    return InvalidFieldError(message, field)
