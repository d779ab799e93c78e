"""Ollama's API: `/api/chat` and `/api/generate`, whole or a line of JSON for each chunk.

The fields and shapes are those of Ollama's API reference: durations are in nanoseconds, times in
RFC 3339. A field that says how to load a model has no effect, because that is decided when the
server starts.
"""

import asyncio
import time
from abc import abstractmethod
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, WithJsonSchema
from quart import Response

from llmstream_cli.api import Chunk, FinishReason, GenerationRequest, Usage
from llmstream_cli.errors import InvalidValueError, LLMStreamError, TimeLimitError
from llmstream_cli.prompts.messages import Message, Role, ToolChoice
from llmstream_cli.sampling import SamplingParams
from llmstream_cli.server.context import server_context
from llmstream_cli.server.dialects import common, fields, ollama_models, tools
from llmstream_cli.server.dialects.fields import (
    ANY_ITEMS,
    ANY_TEXT,
    NOT_ASSISTANT,
    TRUE,
    FieldTable,
    Given,
    excluded,
    refused,
    with_fields,
)
from llmstream_cli.server.dialects.logprobs import (
    TOP_LOGPROBS_ALONE,
    AlignedLogprobs,
    LocatedLogprob,
    WithTopLogprobs,
    token_fields,
)
from llmstream_cli.server.dialects.tools import FunctionTools
from llmstream_cli.server.http.exchange import current_exchange
from llmstream_cli.server.respond import Answer, AnswerCall, Encoder, collect, stream
from llmstream_cli.server.served import ServedModel, keep_alive_seconds

_ROLES: dict[str, Role] = {role: role for role in get_args(Role)}
_THINKING = {"enum": [True, "low", "medium", "high", "max"]}
_NUMBER = r"[0-9]{1,15}(\.[0-9]{0,9})?"
DURATION = {
    "type": "string",
    "pattern": rf"^(-?({_NUMBER}|({_NUMBER}(ns|us|µs|ms|s|m|h))+)|forever|inf)?$",
}
_LOADING = "how models are loaded is decided when the server starts"
_OPTIONS_REFUSED = {
    **refused("typical_p tfs_z", 1),
    **refused("mirostat", 0),
    **refused("penalize_newline", True),
    **refused("rope_frequency_base", 0, advice=_LOADING),
    **refused("rope_frequency_scale", 0, 1, advice=_LOADING),
}
# How models are loaded is decided when the server starts; and no prompt is ever cut to fit.
_OPTIONS_IGNORED = """
    num_ctx num_keep num_batch num_gpu main_gpu num_gqa num_thread numa low_vram f16_kv logits_all
    vocab_only use_mmap use_mlock embedding_only mirostat_tau mirostat_eta
""".split()  # noqa: SIM905  (names without quotes)
_Calls = Sequence[tuple[int, AnswerCall]]  # with their places in the answer
_IGNORED = ("truncate", "shift", "_debug_render_only")


@with_fields(fields.names_in("ollama"), _OPTIONS_REFUSED, _OPTIONS_IGNORED)
class OllamaOptions(FieldTable):
    """How to draw; `null` is the server's default."""


class _GenerationFields(WithTopLogprobs):
    """What both routes take."""

    thinking_field = "think"

    model: Annotated[str, Field(max_length=common.MAX_NAME_CHARS)] | None = Field(
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
    keep_alive: float | Annotated[str, WithJsonSchema(DURATION)] | None = Field(
        None,
        description="how long the model stays loaded for this client after its answers: seconds, "
        '`"5m"`, `"1h30m"`; 0 lets it go, -1 keeps it. Without it, as `--keep-alive` says',
    )

    @property
    def keep_alive_seconds(self) -> float | None:
        """How long the model stays loaded from now on; None leaves that as it is.

        Raises:
            InvalidValueError: it is no duration.
        """
        return None if self.keep_alive in (None, "") else keep_alive_seconds(self.keep_alive)

    @property
    def thinks(self) -> bool | None:
        return None if self.think is None else bool(self.think)  # a level counts as yes

    def given(self, prefix: str = "") -> list[Given]:
        given = super().given(prefix)
        if self.options is not None:
            given += self.options.given("options.")
        if self.format == "json":
            given.append(("format", "json_schema", common.JSON_OBJECT))
        elif isinstance(self.format, dict):
            given.append(("format", "json_schema", fields.schema_text(self.format)))
        return given

    @abstractmethod
    def generation_request(self, defaults: SamplingParams) -> GenerationRequest | None:
        """Return the request; None if the client only wants the model to be loaded or unloaded.

        Raises:
            InvalidValueError: a value is out of its bounds, or asks for what there is not.
        """

    @abstractmethod
    def text_fields(self, text: str, reasoning: str, calls: _Calls) -> dict[str, Any]:
        """Return the fields of a line that have text, and calls of tools where there are any."""


@with_fields({}, refused("images", [], advice="the model reads text only"), closed=True)
class OllamaMessage(tools.TurnFields):
    """One turn."""

    model_config = excluded({"role": NOT_ASSISTANT, "tool_calls": ANY_ITEMS})

    role: Annotated[Role, common.read_role(_ROLES), WithJsonSchema({"enum": [*_ROLES]})]
    content: str | None = None
    thinking: str | None = None  # of the assistant's
    tool_name: str | None = None  # of a tool's result

    def message(self, field: str) -> Message:
        """Return the turn, which stands at that place in the body."""
        text, name = self.content or "", self.tool_name or ""
        return self.as_message(self.role, text, self.thinking, field, name)


@with_fields({}, refused("tool_choice", "auto"), _IGNORED)
class ChatRequest(_GenerationFields):
    """Body of `POST /api/chat`."""

    messages: Annotated[list[OllamaMessage], Field(max_length=common.MAX_MESSAGES)] | None = Field(
        None,
        description="turns of `system`, `user`, `assistant`, which may have `tool_calls`, and "
        "`tool`, with a `tool_name`",
    )
    tools: FunctionTools | None = Field(
        None,
        description="[functions](openai.md#tools) that the model may call; not with a `format`",
    )

    def generation_request(self, defaults: SamplingParams) -> GenerationRequest | None:
        functions = tools.read_tools(tools.function_definitions(self.tools))
        defaults = tools.defaults_beside(functions, ToolChoice(), defaults, self.given())
        sampling = common.sampling_params(defaults, self.given())
        if not self.messages:
            return None
        return GenerationRequest(
            tools.link_results(
                turn.message(f"messages.{index}") for index, turn in enumerate(self.messages)
            ),
            sampling,
            keep_alive=self.keep_alive_seconds,
            thinking=self.thinks,
            tools=functions,
        )

    def text_fields(self, text: str, reasoning: str, calls: _Calls) -> dict[str, Any]:
        more: dict[str, Any] = {"thinking": reasoning} if reasoning else {}
        if calls:
            more["tool_calls"] = [*map(_call_fields, calls)]
        return {"message": {"role": "assistant", "content": text, **more}}


@with_fields(
    {},
    {
        **refused("suffix", "", advice="the answer only continues a prompt"),
        **refused("template", "", advice="send a raw prompt instead"),
        **refused("context", [], advice="send messages to /api/chat"),
        **refused("images", [], advice="the model reads text only"),
    },
    _IGNORED,
)
class GenerateRequest(_GenerationFields):
    """Body of `POST /api/generate`."""

    model_config = excluded(
        TOP_LOGPROBS_ALONE, {"raw": TRUE, "system": ANY_TEXT}, {"raw": TRUE, "think": _THINKING}
    )

    prompt: str | None = Field(None, description="a question")
    system: str | None = Field(None, description="the system message before it; not with `raw`")
    raw: bool | None = Field(
        None,
        description="continue `prompt` as it is, without the chat template; control tokens in it "
        "are read",
    )

    def generation_request(self, defaults: SamplingParams) -> GenerationRequest | None:
        if self.raw and self.think:
            raise InvalidValueError("think needs a chat template; leave it or raw out", "think")
        if self.raw and self.system:
            raise InvalidValueError(
                "system needs a chat template; write it into the raw prompt", "system"
            )
        sampling = common.sampling_params(defaults, self.given())
        if not self.prompt:
            return None
        keep_alive = self.keep_alive_seconds
        if self.raw:
            return GenerationRequest(sampling=sampling, prompt=self.prompt, keep_alive=keep_alive)
        system = (Message("system", self.system),) if self.system else ()
        messages = (*system, Message("user", self.prompt))
        return GenerationRequest(messages, sampling, keep_alive=keep_alive, thinking=self.thinks)

    def text_fields(self, text: str, reasoning: str, calls: _Calls) -> dict[str, Any]:
        assert not calls  # without tools there are none
        return {"response": text, **({"thinking": reasoning} if reasoning else {})}


class OllamaEncoder(Encoder):
    """A line of JSON for each piece of text, and a last one; or one body. None for a silence."""

    content_type = "application/x-ndjson"

    def __init__(self, body: _GenerationFields, served: ServedModel) -> None:
        self._body = body
        self._model = body.model or ollama_models.tag_name(served)
        residency = served.residency
        self._loading = residency if residency is not None and residency.info is None else None
        self._loaded_seconds = self._loading.load_seconds if self._loading else 0.0
        self._aligned = AlignedLogprobs()
        self._answer = Answer()  # as far as its calls go
        self._num_sent = 0  # of them: each goes out whole

    def encode(self, index: int, chunk: Chunk) -> bytes:
        located = self._aligned.push(chunk.text, chunk.logprobs) if self._body.logprobs else []
        lines = b""
        if chunk.reasoning:
            lines = self.line("", chunk.reasoning)
        if chunk.text or located:
            tokens = [_logprob(one)["logprobs"] for one in located]
            more: dict[str, Any] = {"logprobs": tokens} if tokens else {}
            lines += self.line(chunk.text, **more)
        if chunk.tool_calls:
            self._answer.add(Chunk("", tool_calls=chunk.tool_calls))
        calls = self._answer.tool_calls
        num_whole = len(calls) - (chunk.finish_reason is None)
        if num_whole > self._num_sent:
            lines += self.line(calls=[*enumerate(calls)][self._num_sent : num_whole])
            self._num_sent = num_whole
        if chunk.finish_reason is not None:
            lines += self.line(**self._statistics(chunk.finish_reason, chunk.usage))
        return lines

    def fail(self, error: LLMStreamError) -> bytes:
        """End the stream with a line that names the error."""
        return common.dump_line(ollama_models.ollama_error(error)) + b"\n"

    def line(self, text: str = "", reasoning: str = "", **more: Any) -> bytes:
        return common.dump_line(self.line_fields(text, reasoning, **more)) + b"\n"

    def line_fields(
        self, text: str = "", reasoning: str = "", calls: _Calls = (), **more: Any
    ) -> dict[str, Any]:
        """Return a line, which is not the last one unless its fields say so."""
        return {
            "model": self._model,
            "created_at": ollama_models.rfc3339(datetime.now(UTC)),
            **self._body.text_fields(text, reasoning, calls),
            "done": False,
            **more,
        }

    def body(self, answer: Answer) -> dict[str, Any]:
        """Return a response that is not streamed."""
        statistics = self._statistics(answer.finish_reason, answer.usage)
        calls = [*enumerate(answer.tool_calls)]
        more = {**statistics, **answer.logprobs}
        return self.line_fields(answer.text, answer.reasoning, calls, **more)

    def _statistics(self, reason: FinishReason, usage: Usage | None) -> dict[str, Any]:
        """Return why the answer ended and what it cost."""
        assert usage is not None  # every complete answer has one
        load_seconds = self._loading.load_seconds - self._loaded_seconds if self._loading else 0.0
        return {
            "done": True,
            "done_reason": "stop" if reason is FinishReason.TOOL_CALLS else reason,
            "total_duration": _nanoseconds(time.perf_counter() - current_exchange().started),
            "load_duration": round(load_seconds * 1e9),
            "prompt_eval_count": usage.prompt_tokens,
            "prompt_eval_duration": _nanoseconds(usage.prompt_seconds),
            "eval_count": usage.completion_tokens,
            "eval_duration": _nanoseconds(usage.completion_seconds),
        }


def _call_fields(numbered: tuple[int, AnswerCall]) -> dict[str, Any]:
    index, call = numbered
    arguments = tools.arguments_object(call.arguments)
    function = {"index": index, "name": call.name, "arguments": arguments}
    return {"id": tools.new_call_id(), "function": function}


def _nanoseconds(seconds: float) -> int:
    """Return at least 1: clients divide by durations."""
    return max(1, round(seconds * 1e9))


def _logprob(located: LocatedLogprob) -> dict[str, Any]:
    drawn = token_fields(located.logprob.drawn)
    top = [token_fields(token) for token in located.logprob.top]
    return {"logprobs": {**drawn, "top_logprobs": top} if top else drawn}


async def _answer(body: _GenerationFields) -> Response:
    served = server_context().models.find(body.model)
    defaults = served.sampling_for(body.thinks)
    request = await common.off_the_loop(body.generation_request, defaults)
    encoder = OllamaEncoder(body, served)
    streams = body.stream is not False
    if request is None:
        reason = await load_or_unload(served, body.keep_alive_seconds)
        done: dict[str, Any] = {"done": True, "done_reason": reason}
        if streams:
            return Response(encoder.line(**done), content_type=encoder.content_type)
        return common.json_response(encoder.line_fields(**done))
    if streams:
        return await stream(served, [request], encoder)
    (answer,) = await collect(served, [request], _logprob if body.logprobs else None)
    return common.json_response(encoder.body(answer))


async def load_or_unload(
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


@ollama_models.DIALECT.route(
    "/api/chat",
    "Answer a conversation, as Ollama's API does",
    "Comes as lines of JSON unless `stream` is false.",
    request=ChatRequest,
    streamed=OllamaEncoder.content_type,
)
async def chat(body: ChatRequest) -> Response:
    return await _answer(body)


@ollama_models.DIALECT.route(
    "/api/generate",
    "Answer or continue a prompt, as Ollama's API does",
    "Comes as lines of JSON unless `stream` is false.",
    request=GenerateRequest,
    streamed=OllamaEncoder.content_type,
)
async def generate(body: GenerateRequest) -> Response:
    return await _answer(body)
