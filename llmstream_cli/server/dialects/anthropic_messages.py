"""Anthropic's API: `POST /v1/messages`, whole or as events, and `/v1/messages/count_tokens`.

https://docs.anthropic.com/en/api/messages and https://docs.anthropic.com/en/api/messages-streaming
"""

from typing import Any, Literal

from pydantic import BaseModel
from quart import Response

from llmstream_cli.api import Chunk, FinishReason, Usage
from llmstream_cli.errors import LLMStreamError, one_line
from llmstream_cli.server.context import server_context
from llmstream_cli.server.dialects import common
from llmstream_cli.server.dialects.anthropic_request import MessagesRequest
from llmstream_cli.server.dialects.tools import arguments_object, new_call_id
from llmstream_cli.server.http.exchange import current_request_id
from llmstream_cli.server.http.failure import ERROR_TYPES
from llmstream_cli.server.respond import Answer, Encoder, collect, count_tokens, stream
from llmstream_cli.server.served import ServedModel

# https://docs.anthropic.com/en/api/errors
_ERROR_TYPES = {
    **ERROR_TYPES,
    413: "request_too_large",
    503: "overloaded_error",
    504: "timeout_error",
}
_STOP_REASONS = {
    FinishReason.STOP: "end_turn",
    FinishReason.LENGTH: "max_tokens",
    FinishReason.TOOL_CALLS: "tool_use",
}


class AnthropicErrorDetails(BaseModel):
    """What went wrong."""

    type: str
    message: str


class AnthropicError(BaseModel):
    """The answer of a request that failed, as Anthropic's API words it."""

    type: Literal["error"]
    error: AnthropicErrorDetails
    request_id: str


def _error_body(error: LLMStreamError) -> dict[str, Any]:
    default = "api_error" if error.status >= 500 else "invalid_request_error"  # noqa: PLR2004
    type_ = _ERROR_TYPES.get(error.status, default)
    details = {"type": type_, "message": one_line(error)}
    body = {"type": "error", "error": details}
    return {**body, "request_id": request_id} if (request_id := current_request_id()) else body


DIALECT = common.Dialect("/v1/messages", _error_body, AnthropicError)


# ---- answers --------------------------------------------------------------------------------


def _event(kind: str, **values: Any) -> bytes:
    data = common.dump_line({"type": kind, **values})
    return b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"


def _usage(usage: Usage | None) -> dict[str, int]:
    """Return what the answer cost; before it has ended that is not known."""
    cached = usage.cached_tokens if usage else 0
    return {
        "input_tokens": usage.prompt_tokens - cached if usage else 0,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": usage.completion_tokens if usage else 0,
    }


def _stop(reason: FinishReason, stop_string: str) -> dict[str, str | None]:
    """Return why the answer ended."""
    if reason is FinishReason.STOP and stop_string:
        return {"stop_reason": "stop_sequence", "stop_sequence": stop_string}
    return {"stop_reason": _STOP_REASONS.get(reason, "end_turn"), "stop_sequence": None}


class MessagesEncoder(Encoder):
    """Events, each of which says what it is, or one body."""

    content_type = "text/event-stream; charset=utf-8"
    heartbeat = _event("ping")

    def __init__(self, served: ServedModel) -> None:
        self._head = {
            "id": new_call_id("msg_"),
            "type": "message",
            "role": "assistant",
            "model": served.name,
        }
        self._num_blocks = 0
        self._open: str | tuple[str, int] = ""  # the block that has begun: its kind, or which call

    def begin(self) -> bytes:
        nothing: dict[str, Any] = {"content": [], "stop_reason": None, "stop_sequence": None}
        message = {**self._head, **nothing, "usage": _usage(None)}
        return _event("message_start", message=message) + _event("ping")

    def encode(self, index: int, chunk: Chunk) -> bytes:
        events = b""
        if chunk.reasoning:
            events += self._start("thinking", {"thinking": "", "signature": ""})
            events += self._delta("thinking_delta", thinking=chunk.reasoning)
        if chunk.text:
            events += self._start("text", {"text": ""}) + self._delta("text_delta", text=chunk.text)
        for call in chunk.tool_calls:
            events += self._start(
                ("tool_use", call.index),
                {"id": new_call_id("toolu_"), "name": call.name, "input": {}},
            )
            if call.arguments:
                events += self._delta("input_json_delta", partial_json=call.arguments)
        if chunk.finish_reason is not None:
            events += self._end_block()
            delta = _stop(chunk.finish_reason, chunk.stop_string)
            events += _event("message_delta", delta=delta, usage=_usage(chunk.usage))
        return events

    def _start(self, block: str | tuple[str, int], empty: dict[str, Any]) -> bytes:
        """Begin a block, unless it is the one that has begun already."""
        if self._open == block:
            return b""
        ended = self._end_block()
        self._open = block
        kind = block if isinstance(block, str) else block[0]
        return ended + _event(
            "content_block_start", index=self._num_blocks, content_block={"type": kind, **empty}
        )

    def _delta(self, kind: str, **values: str) -> bytes:
        delta = {"type": kind, **values}
        return _event("content_block_delta", index=self._num_blocks, delta=delta)

    def _end_block(self) -> bytes:
        if not self._open:
            return b""
        # Clients want one, to send back with the thinking; it would prove whose that is.
        signed = self._delta("signature_delta", signature="") if self._open == "thinking" else b""
        ended = signed + _event("content_block_stop", index=self._num_blocks)
        self._open, self._num_blocks = "", self._num_blocks + 1
        return ended

    def end(self) -> bytes:
        return _event("message_stop")

    def fail(self, error: LLMStreamError) -> bytes:
        """End the stream with an error; `message_stop` does not come."""
        return b"event: error\ndata: " + common.dump_line(_error_body(error)) + b"\n\n"

    def body(self, answer: Answer) -> dict[str, Any]:
        """Return a response that is not streamed."""
        content: list[dict[str, Any]] = []
        if answer.reasoning:
            content.append({"type": "thinking", "thinking": answer.reasoning, "signature": ""})
        if answer.text:
            content.append({"type": "text", "text": answer.text})
        for call in answer.tool_calls:
            input_ = arguments_object(call.arguments)
            content.append(
                {
                    "type": "tool_use",
                    "id": new_call_id("toolu_"),
                    "name": call.name,
                    "input": input_,
                }
            )
        stop = _stop(answer.finish_reason, answer.stop_string)
        return {**self._head, "content": content, **stop, "usage": _usage(answer.usage)}


@DIALECT.route(
    "/v1/messages",
    "Answer a conversation, as Anthropic's API does",
    "With `stream`, the answer comes as server-sent events.",
    request=MessagesRequest,
    streamed=MessagesEncoder.content_type,
)
async def messages(body: MessagesRequest) -> Response:
    served = server_context().models.find(body.model)
    defaults = served.sampling_for(body.thinks)
    request = await common.off_the_loop(body.generation_request, defaults)
    encoder = MessagesEncoder(served)
    if body.stream:
        return await stream(served, [request], encoder)
    (answer,) = await collect(served, [request])
    return common.json_response(encoder.body(answer))


@DIALECT.route(
    "/v1/messages/count_tokens",
    "Count the tokens of a prompt, as Anthropic's API does",
    "Takes the body of `/v1/messages`; nothing is generated.",
    request=MessagesRequest,
)
async def count(body: MessagesRequest) -> Response:
    served = server_context().models.find(body.model)
    defaults = served.sampling_for(body.thinks)
    request = await common.off_the_loop(body.generation_request, defaults)
    return common.json_response({"input_tokens": await count_tokens(served, request)})
