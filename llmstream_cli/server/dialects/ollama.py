"""Ollama's API: `/api/chat` and `/api/generate`, whole or a line of JSON for each chunk.

The fields and shapes are those of Ollama's API reference. A field that says how to load a model
has no effect, because that is decided when the server starts.
"""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, WithJsonSchema
from quart import Blueprint, Response

from llmstream_cli.api import GenerationRequest
from llmstream_cli.errors import (
    InvalidValueError,
    TimeLimitError,
)
from llmstream_cli.prompts.messages import Message, Role
from llmstream_cli.sampling import SamplingParams
from llmstream_cli.server.body import read_model
from llmstream_cli.server.context import ServerContext, server_context
from llmstream_cli.server.dialects.common import (
    JSON_OBJECT,
    MAX_MESSAGES,
    MAX_TOP_LOGPROBS,
    Dialect,
    Given,
    client_names,
    dump_line,
    fields_as_given,
    given_parameters,
    json_response,
    message_role,
    sampling_params,
    schema_text,
    top_logprobs_given,
)
from llmstream_cli.server.dialects.fields import (
    ANY_TEXT,
    NO_ITEMS,
    ON,
    SAMPLER_DETAILS,
    SAMPLERS,
    TOP_LOGPROBS_ALONE,
    TRUE,
    Refused,
    excluded,
    names_in,
    with_fields,
)
from llmstream_cli.server.dialects.ollama_lines import (
    NDJSON,
    LineEncoder,
    LineFormat,
    Route,
    ollama_logprob,
)
from llmstream_cli.server.dialects.ollama_models import (
    ModelName,
    OllamaError,
    OllamaFields,
    ollama_error,
    tag_name,
)
from llmstream_cli.server.http.exchange import current_exchange
from llmstream_cli.server.pages import Operation, Reply
from llmstream_cli.server.respond import collect, stream
from llmstream_cli.server.served import ServedModel, keep_alive_seconds

_ROLES: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}
_NUMBER = r"[0-9]{1,15}(\.[0-9]{0,9})?"
_DURATION = {
    "type": "string",
    "pattern": rf"^(-?({_NUMBER}|({_NUMBER}(ns|us|µs|ms|s|m|h))+)|forever|inf)?$",
}


_THINKING = {"enum": [True, "low", "medium", "high", "max"]}

_OPTIONS_REFUSED = {
    **SAMPLERS,
    "penalize_newline": ON,
    "rope_frequency_base": Refused((0,), "how models are loaded is decided when the server starts"),
    "rope_frequency_scale": Refused(
        (0, 1), "how models are loaded is decided when the server starts"
    ),
}
# How models are loaded is decided when the server starts; and no prompt is ever cut to fit.
_OPTIONS_IGNORED = (
    *("num_ctx", "num_keep", "num_batch", "num_gpu", "main_gpu", "num_gqa", "num_thread", "numa"),
    *("low_vram", "f16_kv", "logits_all", "vocab_only", "use_mmap", "use_mlock", "embedding_only"),
    *SAMPLER_DETAILS,
)
_IGNORED = ("truncate", "shift", "_debug_render_only")


@with_fields(names_in("ollama"), _OPTIONS_REFUSED, _OPTIONS_IGNORED)
class OllamaOptions(OllamaFields):
    """How to draw; `null` is the server's default."""


class _GenerationFields(OllamaFields):
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
        given += top_logprobs_given(self.logprobs, self.top_logprobs)
        if self.format == "json":
            given.append(("format", "json_schema", JSON_OBJECT))
        elif isinstance(self.format, dict):
            given.append(("format", "json_schema", schema_text(self.format)))
        return given


class OllamaMessage(OllamaFields):
    """One turn."""

    role: Annotated[str, WithJsonSchema({"enum": [*_ROLES]})]
    content: str | None = None
    images: Annotated[list[Any] | None, NO_ITEMS] = None
    tool_calls: Annotated[list[Any] | None, NO_ITEMS] = None


@with_fields({}, {"tools": Refused(([],))}, _IGNORED)
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


@with_fields(
    {},
    {
        "suffix": Refused(("",), "the answer only continues a prompt"),
        "template": Refused(("",), "send a raw prompt instead"),
        "context": Refused(([],), "send messages to /api/chat"),
        "images": Refused(([],), "the model reads text only"),
    },
    _IGNORED,
)
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


def _message(message: OllamaMessage, where: str) -> Message:
    role = message_role(message.role, _ROLES, where, message.tool_calls)
    if message.images:
        raise _refusal(f"{where}.images", f"{where}.images: the model reads text only")
    return Message(role, message.content or "")


def _refusal(field: str, message: str) -> InvalidValueError:
    return InvalidValueError(message, field)


async def _answer(
    context: ServerContext, route: Route, type_: type[ChatRequest | GenerateRequest]
) -> Response:
    started = time.monotonic()
    body = await read_model(type_, any_content_type=True)
    with fields_as_given(body.client_names):  # errors of the engine's, too
        return await _answer_body(route, context.models.find(body.model), body, started)


async def _answer_body(
    route: Route, served: ServedModel, body: ChatRequest | GenerateRequest, started: float
) -> Response:
    request = body.generation_request(served.sampling_for(body.thinking))
    format_ = LineFormat(
        route=route,
        model=body.model or tag_name(served),
        with_logprobs=bool(body.logprobs),
        clock=time.monotonic,
        now=lambda: datetime.now(UTC),
        started=started,
        load_seconds=_load_clock(served),
    )
    if request is None:
        line = format_.without_prompt(await _load_or_unload(served, body.keep_alive_seconds))
        if not body.streams:
            return json_response(line)
        return Response(dump_line(line) + b"\n", content_type=NDJSON)
    if body.streams:
        return await stream(served, [request], LineEncoder(format_))
    logprob = ollama_logprob if format_.with_logprobs else None
    (answer,) = await collect(served, [request], logprob)
    return json_response(format_.whole(answer))


def _load_clock(served: ServedModel) -> Callable[[], float]:
    """Return what tells how long the model has been loaded for from now on, in seconds."""
    residency = served.residency
    if residency is None or residency.info is not None:
        return float  # 0.0
    before = residency.load_seconds
    return lambda: residency.load_seconds - before


async def _load_or_unload(
    served: ServedModel, keep_alive: float | None
) -> Literal["load", "unload"]:
    """Wait for the model, or let go of it: that is what a request without a prompt is for."""
    exchange = current_exchange()
    exchange.model = served.name
    if keep_alive == 0 and served.residency is not None:
        return "unload" if served.residency.unload(exchange.owner) else "load"
    limit = server_context().settings.timeout_seconds
    try:
        async with asyncio.timeout(limit):
            await served.load(keep_alive, exchange.owner)
    except TimeoutError as error:
        raise TimeLimitError(f"the model was not loaded within {limit:g} seconds") from error
    return "load"


def _routes(context: ServerContext) -> Blueprint:
    blueprint = Blueprint("ollama", __name__, url_prefix="/api")

    @blueprint.post("/chat")
    async def chat() -> Response:
        return await _answer(context, "chat", ChatRequest)

    @blueprint.post("/generate")
    async def generate() -> Response:
        return await _answer(context, "generate", GenerateRequest)

    return blueprint


DIALECT = Dialect(
    _routes,
    tuple(
        Operation(
            "post",
            path,
            summary,
            "Comes as lines of JSON unless `stream` is false.",
            request=request,
            replies=(Reply(200, "The answer.", streamed=NDJSON),),
            error=OllamaError,
        )
        for path, summary, request in (
            ("/api/chat", "Answer a conversation, as Ollama's API does", ChatRequest),
            (
                "/api/generate",
                "Answer or continue a prompt, as Ollama's API does",
                GenerateRequest,
            ),
        )
    ),
    prefix="/api/",
    error_body=ollama_error,
)
