"""From requests to a model to the response, streamed or whole, in any wire format."""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from quart import Response

from llmstream_cli.api import Chunk, FinishReason, GenerationRequest, Usage
from llmstream_cli.errors import BusyError, EngineError, LLMStreamError, TimeLimitError
from llmstream_cli.server.context import ServerContext, server_context
from llmstream_cli.server.dialects.logprobs import AlignedLogprobs, JsonList, LocatedLogprob
from llmstream_cli.server.generation import Generation
from llmstream_cli.server.http.answers import resume_seconds
from llmstream_cli.server.http.exchange import CutError, current_exchange
from llmstream_cli.server.served import ServedModel

_log = logging.getLogger(__name__)


class Encoder(ABC):
    """Writes the answers of one response in a wire format."""

    content_type: ClassVar[str]
    heartbeat: ClassVar[bytes] = b""
    """Sent during long silences; empty where the format has no bytes that mean nothing."""

    def begin(self) -> bytes:
        """Return what comes before the first chunk."""
        return b""

    @abstractmethod
    def encode(self, index: int, chunk: Chunk) -> bytes:
        """Return what was added to the answer of that index, from 0; may be empty."""

    def end(self) -> bytes:
        """Return what comes after the last chunk of the last answer."""
        return b""

    @abstractmethod
    def fail(self, error: LLMStreamError) -> bytes | None:
        """Return how the format tells of an error after the first byte; None cuts the response."""


LogprobFields = Callable[[LocatedLogprob], Mapping[str, object]]
"""Returns what each list of a format's log probabilities has for a token, by the list's name."""


@dataclass(slots=True)
class AnswerCall:
    """A call of a tool, as far as it has come."""

    name: str = ""
    arguments: str = ""  # JSON, of an answer that was cut maybe the beginning of it


@dataclass(slots=True)
class Answer:
    """A whole answer: what its chunks have together."""

    text: str = ""
    reasoning: str = ""
    token_ids: list[int] = field(default_factory=list)
    tool_calls: list[AnswerCall] = field(default_factory=list)
    # The lists of log probabilities by name, written as JSON chunk by chunk: thousands of them at
    # once would hold up the event loop.
    logprobs: dict[str, JsonList] = field(default_factory=lambda: defaultdict(JsonList))
    finish_reason: FinishReason = FinishReason.STOP
    usage: Usage | None = None
    stop_string: str = ""  # that ended it
    _aligned: AlignedLogprobs = field(default_factory=AlignedLogprobs)

    def add(self, chunk: Chunk, logprob_fields: LogprobFields | None = None) -> None:
        """Add a chunk; `logprob_fields` is None where no log probabilities are wanted."""
        self.text += chunk.text
        self.reasoning += chunk.reasoning
        self.token_ids += chunk.token_ids
        for delta in chunk.tool_calls:
            while len(self.tool_calls) <= delta.index:
                self.tool_calls.append(AnswerCall())
            call = self.tool_calls[delta.index]
            call.name += delta.name
            call.arguments += delta.arguments
        self.finish_reason = chunk.finish_reason or self.finish_reason
        self.usage = chunk.usage or self.usage
        self.stop_string = chunk.stop_string
        if logprob_fields is not None:
            for located in self._aligned.push(chunk.text, chunk.logprobs):
                for name, value in logprob_fields(located).items():
                    self.logprobs[name].append(value)


async def collect(
    served: ServedModel,
    requests: Sequence[GenerationRequest],
    logprob_fields: LogprobFields | None = None,
) -> list[Answer]:
    """Return the whole answers, in the order of the requests; cancel when the client has gone.

    Raises:
        LLMStreamError: one of them failed; the others are cancelled.
    """
    answers = [Answer() for _ in requests]
    generation = Generation(server_context(), served, requests)
    try:
        while (batch := await generation.next_batch()) is not None:
            for index, chunk in batch:
                answers[index].add(chunk, logprob_fields)
    finally:
        generation.cancel()
    return answers


async def count_tokens(served: ServedModel, request: GenerationRequest) -> int:
    """Return how many tokens a request's prompt has; its model is loaded for that.

    Raises:
        LLMStreamError: there can be no prompt, or no model.
    """
    context, exchange = server_context(), current_exchange()
    if context.draining:
        raise BusyError("the server is shutting down")
    exchange.model = served.name
    limit = context.settings.timeout_seconds
    try:
        async with asyncio.timeout(limit):
            return await served.engine.count_tokens(replace(request, client=exchange.owner))
    except TimeoutError as error:
        raise TimeLimitError(f"the prompt was not made within {limit:g} seconds") from error


async def stream(
    served: ServedModel,
    requests: Sequence[GenerationRequest],
    encoder: Encoder,
    *,
    resume: int | None = None,
) -> Response:
    """Return the response that streams the answers, once their first chunk is there.

    So an error before it is an ordinary error, with its status. Where the format has heartbeats
    the response begins without a chunk if none comes for a heartbeat's time. For `resume` see
    `answers.resume_seconds`.

    Raises:
        LLMStreamError: an answer failed before anything was sent.
    """
    context = server_context()
    beat = context.settings.heartbeat_seconds if encoder.heartbeat else None
    seconds = resume_seconds(resume)
    body = _body(context, served, requests, encoder, beat)
    if seconds:
        answer = await context.answers.begin(seconds, encoder.content_type, body)
        response = Response(context.answers.follow(answer), content_type=encoder.content_type)
        response.headers["Location"] = f"/answers/{answer.id}"
    else:
        await anext(body)
        response = Response(body, content_type=encoder.content_type)
    response.timeout = None  # Quart's own would cut the stream after a minute, and say nothing
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"  # nginx would collect the chunks
    return response


async def _body(
    context: ServerContext,
    served: ServedModel,
    requests: Sequence[GenerationRequest],
    encoder: Encoder,
    beat: float | None,
) -> AsyncGenerator[bytes]:
    """Write the chunks; first of all nothing, when it is certain that the response begins."""
    generation = Generation(context, served, requests)
    batch = await generation.next_batch(beat)
    try:
        yield b""
        begin = encoder.begin()
        while batch is not None:
            data = b"".join(encoder.encode(*item) for item in batch) if batch else encoder.heartbeat
            if begin + data:
                yield begin + data
                begin = b""
            batch = await generation.next_batch(beat)
        data = encoder.end()
    except Exception as error:  # noqa: BLE001  (GeneratorExit and CancelledError are none)
        data = _tell(error, encoder)
    finally:
        generation.cancel()
    yield begin + data


def _tell(error: Exception, encoder: Encoder) -> bytes:
    """Return the end of a response that failed, and note that it did.

    Raises:
        CutError: its format cannot tell.
    """
    if not isinstance(error, LLMStreamError):
        _log.error("a response failed", exc_info=error)
        error = EngineError("the server failed; its log says more")
    current_exchange().ended = "cut"
    data = encoder.fail(error)
    if data is None:
        raise CutError(str(error)) from error
    return data
