"""The answers to one request while they are being generated.

Each answer has a task of its own that reads the engine and fills a batch; whoever answers the
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

Batch = list[tuple[int, Chunk]]
"""Chunks, each with the index of its answer."""


class Generation:
    """Generates one answer for each of the requests, and hands out their chunks.

    Raises:
        BusyError: the server is about to stop.
    """

    def __init__(
        self, context: ServerContext, served: ServedModel, requests: Sequence[GenerationRequest]
    ) -> None:
        if context.draining:
            raise BusyError("the server is shutting down")
        self._context = context
        self._model = served.name
        self._unfinished = len(requests)
        self._deadline = asyncio.get_running_loop().time() + context.settings.timeout_seconds
        self._started = time.perf_counter()
        self._last_tokens: dict[int, float] = {}  # when the last token came, by answer
        self._batch: Batch = []
        self._batch_bytes = 0
        self._error: Exception | None = None  # comes after the batch, and nothing after it
        self._arrived = asyncio.Event()  # there is something in the batch, or an error
        self._exchange = exchange = current_exchange()
        exchange.model = served.name
        if (schema := requests[0].sampling.json_schema) is not None:
            exchange.schema_ignored += read_schema(schema).ignored
        self._progress = context.requests.begin(
            exchange.request_id, served.engine, len(requests), self._fail
        )
        self._tasks = [
            asyncio.create_task(self._read(index, served.engine.generate(request)))
            for index, request in enumerate(
                replace(
                    request,
                    client=exchange.owner,
                    cache_scope=exchange.cache_scope,
                    unset=exchange.unset,
                )
                for request in requests
            )
        ]
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(lambda _: self.cancel())

    def cancel(self) -> None:
        """Stop generating; the engine does within one step. Idempotent."""
        self._context.requests.end(self._progress)
        for task in self._tasks:
            task.cancel()

    async def next_batch(self, wait_seconds: float | None = None) -> Batch | None:
        """Return what has come since the last call; None at the end.

        The batch is empty where nothing came within `wait_seconds`.

        Raises:
            LLMStreamError: an answer failed, or took too long.
        """
        if not self._unfinished:
            return None
        now = asyncio.get_running_loop().time()
        wake = self._deadline if wait_seconds is None else min(self._deadline, now + wait_seconds)
        if now < self._deadline and not self._arrived.is_set():
            try:
                # Not `wait_for`, which on Python 3.11 can lose a cancellation.
                async with asyncio.timeout_at(wake):
                    await self._arrived.wait()
            except TimeoutError:
                if wake < self._deadline:
                    return []
                now = wake
        if now >= self._deadline:
            seconds = self._context.settings.timeout_seconds
            self._batch.clear()
            self._fail(TimeLimitError(f"the answer took longer than {seconds:g} seconds"))
        if not self._batch:
            assert self._error is not None
            raise self._error
        batch, self._batch, self._batch_bytes = self._batch, [], 0
        if self._error is None:
            self._arrived.clear()
        self._unfinished -= sum(chunk.finish_reason is not None for _, chunk in batch)
        return batch

    async def _read(self, index: int, chunks: AsyncGenerator[Chunk]) -> None:
        try:
            async with contextlib.aclosing(chunks):
                async for chunk in chunks:
                    self._measure(index, chunk)
                    if self._error is not None:
                        return
                    self._batch.append((index, chunk))
                    self._batch_bytes += _num_bytes(chunk)
                    self._arrived.set()
                    if self._batch_bytes > _MAX_WAITING_BYTES:
                        raise SlowReaderError("the client does not read its answer")
        except SchemaError as error:
            self._fail(InvalidValueError(str(error), self._exchange.schema_field))
        except Exception as error:  # noqa: BLE001  (whoever waits for the answer raises it)
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """Let the reader get this error, after the chunks that came before it."""
        if self._error is None:
            self._error = error
            self._context.requests.note_error(self._progress, error)
            self._arrived.set()

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


def _num_bytes(chunk: Chunk) -> int:
    calls = sum(len(delta.name) + len(delta.arguments) for delta in chunk.tool_calls)
    return len(chunk.text) + len(chunk.reasoning) + calls + _CHUNK_BYTES
