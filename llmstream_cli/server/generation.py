"""The answers to one request while they are being generated.

Each answer has a task of its own that reads the engine and fills a queue; whoever answers the
request empties it. So the engine never waits for a reader, n answers merge in the order their
chunks come, and to cancel is one synchronous call. It is made when the task that handles the
request ends, whichever way: the iterator of a response that was never begun, because the client
went before, never runs its clean-up.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

from llmstream_cli.api import Chunk, GenerationRequest
from llmstream_cli.core.grammar.json_schema import read_schema
from llmstream_cli.errors import (
    BusyError,
    InvalidValueError,
    LLMStreamError,
    SchemaError,
    SlowReaderError,
    TimeLimitError,
)
from llmstream_cli.server.context import ServerContext
from llmstream_cli.server.http.exchange import current_exchange
from llmstream_cli.server.served import ServedModel

# What may wait for a slow reader. A chunk counts a little more than its text.
_MAX_WAITING_BYTES = 4 * 1024 * 1024
_CHUNK_BYTES = 256

_Item = tuple[int, Chunk] | Exception


class Generation:
    """Generates the answers to one request, and hands out their chunks.

    Args:
        context: the server's.
        served: the model that generates.
        requests: one for each answer.

    Raises:
        BusyError: the server is about to stop.
    """

    def __init__(
        self, context: ServerContext, served: ServedModel, requests: Sequence[GenerationRequest]
    ) -> None:
        if context.draining:
            raise BusyError("the server is shutting down")
        self._context = context
        self._queue: asyncio.Queue[_Item] = asyncio.Queue()
        self._waiting_bytes = 0
        self._unfinished = len(requests)
        self._deadline = asyncio.get_running_loop().time() + context.settings.timeout_seconds
        self._exchange = exchange = current_exchange()
        owned = [
            replace(request, client=exchange.owner, cache_scope=exchange.cache_scope)
            for request in requests
        ]
        self._tasks = [
            asyncio.create_task(self._read(index, served.engine.generate(request)))
            for index, request in enumerate(owned)
        ]
        self._model = served.name
        self._exchange.model = served.name
        if (schema := requests[0].sampling.json_schema) is not None:
            self._exchange.schema_ignored = read_schema(schema).ignored
        self._progress = context.requests.begin(
            self._exchange.request_id, served.engine, len(requests)
        )
        self._started = time.perf_counter()
        self._last_tokens: dict[int, float] = {}
        context.generations.add(self)
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(lambda _: self.cancel())

    def cancel(self) -> None:
        """Stop generating; the engine does within one step. Void when called again."""
        self._context.generations.discard(self)
        self._context.requests.end(self._exchange.request_id, self._progress)
        for task in self._tasks:
            task.cancel()

    def fail(self, error: LLMStreamError) -> None:
        """Let the reader's next call raise this error, after the chunks that came before it."""
        self._put_error(error)

    async def chunks(self, wait_seconds: float | None = None) -> list[tuple[int, Chunk]]:
        """Return what has come since the last call, at least one chunk; nothing at the end.

        Args:
            wait_seconds: how long to wait for one.

        Raises:
            TimeoutError: none came in that time.
            LLMStreamError: an answer failed, or took too long.
        """
        if not self._unfinished:
            return []
        batch = [await self._first(wait_seconds)]
        with contextlib.suppress(asyncio.QueueEmpty):
            while not isinstance(batch[-1], Exception):
                batch.append(self._queue.get_nowait())
        found = [item for item in batch if not isinstance(item, Exception)]
        if not found:
            assert isinstance(batch[0], Exception)
            raise batch[0]
        if isinstance(batch[-1], Exception):  # its chunks first
            self._queue.put_nowait(batch[-1])
        for _, chunk in found:
            self._waiting_bytes -= _size(chunk)
            self._unfinished -= chunk.finish_reason is not None
        return found

    def _put_error(self, error: Exception) -> None:
        self._context.requests.note_error(self._progress, error)
        self._queue.put_nowait(error)

    def _measure(self, index: int, chunk: Chunk) -> None:
        """Note the times of a chunk's tokens, and count them for the log's line."""
        self._context.requests.note_chunk(self._progress, chunk)
        if chunk.usage is not None:
            self._exchange.prompt_tokens += chunk.usage.prompt_tokens
        if not chunk.token_ids:
            return
        self._exchange.generated_tokens += len(chunk.token_ids)
        now, last = time.perf_counter(), self._last_tokens.get(index)
        self._last_tokens[index] = now
        metrics = self._context.metrics
        if last is None:
            metrics.first_token_seconds.labels(self._model).observe(now - self._started)
        else:
            metrics.token_gap_seconds.labels(self._model).observe(now - last)

    async def _first(self, wait_seconds: float | None) -> _Item:
        now = asyncio.get_running_loop().time()
        if now >= self._deadline:
            raise self._too_long()
        if not self._queue.empty():
            return self._queue.get_nowait()
        wake = self._deadline if wait_seconds is None else min(self._deadline, now + wait_seconds)
        try:
            # Not `wait_for`, which on Python 3.11 can lose a cancellation.
            async with asyncio.timeout_at(wake):
                return await self._queue.get()
        except TimeoutError as error:
            if wake < self._deadline:
                raise
            raise self._too_long() from error

    def _too_long(self) -> TimeLimitError:
        seconds = self._context.settings.timeout_seconds
        error = TimeLimitError(f"the answer took longer than {seconds:g} seconds")
        self._context.requests.note_error(self._progress, error)
        return error

    async def _read(self, index: int, chunks: AsyncGenerator[Chunk]) -> None:
        try:
            async with contextlib.aclosing(chunks):
                async for chunk in chunks:
                    self._measure(index, chunk)
                    self._waiting_bytes += _size(chunk)
                    if self._waiting_bytes > _MAX_WAITING_BYTES:
                        raise SlowReaderError("the client does not read its answer")
                    self._queue.put_nowait((index, chunk))
        except SchemaError as error:
            self._put_error(InvalidValueError(str(error), self._exchange.schema_field))
        except Exception as error:  # noqa: BLE001  (whoever waits for the answer raises it)
            self._put_error(error)


def _size(chunk: Chunk) -> int:
    return len(chunk.text) + len(chunk.reasoning) + _CHUNK_BYTES
