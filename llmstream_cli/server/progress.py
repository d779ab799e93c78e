"""How far requests have come, and what became of them, for `GET /requests/{id}`.

`/token_stream` answers with the text and nothing else, so whoever asks there learns the rest here.
Counters and times alone are kept, of a bounded number of requests and for a bounded time. Ids are
the clients' own (`X-Request-Id`): who wants theirs to be nobody else's takes random ones.
"""

import itertools
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from pydantic import BaseModel, Field

from llmstream_cli.api import Chunk, Engine, EngineState, FinishReason
from llmstream_cli.errors import EngineError, NotFoundError

KEPT_SECONDS = 600.0
MAX_KEPT = 1024


class RequestState(StrEnum):
    """How far a request has come."""

    LOADING = "loading"  # its model is
    QUEUED = "queued"
    PROMPT = "prompt"  # the model reads it
    GENERATING = "generating"
    ENDED = "ended"


@dataclass(slots=True, eq=False)
class Progress:
    """How far the answers to one request have come.

    Attributes:
        engine: generates them.
        num_unfinished: answers that have not ended.
        started: when they were asked for, on the registry's clock, as the other times.
        first_token: when the first token came.
        ended: when the last of them ended.
        prompt_tokens: of the answers that have ended, as are `cached_tokens`.
        cached_tokens: those of them that the prefix cache had.
        generated_tokens: so far.
        finish_reason: of the answer that ended last.
        error: why one of them failed.
    """

    engine: Engine
    num_unfinished: int
    started: float
    first_token: float | None = None
    ended: float | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    finish_reason: FinishReason | None = None
    error: str | None = None


class RequestProgress(BaseModel):
    """How far a request has come, or what became of it."""

    id: str = Field(description="What the response's X-Request-Id says.")
    state: RequestState
    position: int | None = Field(None, description="In the queue, from 1; while it is queued.")
    prompt_tokens: int | None = Field(None, description="Known when an answer has come to its end.")
    cached_tokens: int | None = Field(None, description="Those of them that were not computed.")
    generated_tokens: int
    seconds: float = Field(description="Since the request, or from it to its end.")
    first_token_seconds: float | None = Field(None, description="From the request to the token.")
    tokens_per_second: float = Field(description="Since the first token, which does not count.")
    finish_reason: FinishReason | None = None
    error: str | None = Field(None, description="Why it failed, in a line for a person.")


@dataclass(slots=True, eq=False)
class ProgressRegistry:
    """The requests that generate, and those that did lately.

    Attributes:
        clock: seconds that only ever grow.
    """

    clock: Callable[[], float] = time.perf_counter
    _active: dict[Progress, None] = field(default_factory=dict)  # a set, in order of arrival
    _by_id: dict[str, Progress] = field(default_factory=dict)
    _ended: deque[tuple[str, Progress]] = field(default_factory=deque)

    def begin(self, request_id: str, engine: Engine, num_answers: int) -> Progress:
        """Note a request. One that takes the id of another takes its place."""
        self._forget()
        progress = Progress(engine, num_answers, self.clock())
        self._active[progress] = None
        self._by_id[request_id] = progress
        return progress

    def note_chunk(self, progress: Progress, chunk: Chunk) -> None:
        """Count what a chunk brings."""
        if chunk.token_ids and progress.first_token is None:
            progress.first_token = self.clock()
        progress.generated_tokens += len(chunk.token_ids)
        if chunk.finish_reason is not None:
            progress.num_unfinished -= 1
            progress.finish_reason = chunk.finish_reason
        if chunk.usage is not None:
            progress.prompt_tokens += chunk.usage.prompt_tokens
            progress.cached_tokens += chunk.usage.cached_tokens

    def note_error(self, progress: Progress, error: Exception) -> None:
        """Note why an answer failed. What may quote the request is not kept: its response did."""
        known = isinstance(error, EngineError)
        progress.error = str(error) if known else "the request failed; its response says why"

    def end(self, request_id: str, progress: Progress) -> None:
        """Note that nothing more will come. Void when called again."""
        if progress.ended is not None:
            return
        progress.ended = self.clock()
        if progress.num_unfinished and progress.error is None:
            progress.finish_reason = FinishReason.CANCELLED
        del self._active[progress]
        self._ended.append((request_id, progress))
        self._forget()

    def describe(self, request_id: str) -> RequestProgress:
        """Return how far a request has come.

        Raises:
            NotFoundError: it never generated, or ended too long ago.
        """
        self._forget()
        progress = self._by_id.get(request_id)
        if progress is None:
            raise NotFoundError(
                f"no request {request_id[:64]!r} is known; those that have ended are kept for "
                f"{KEPT_SECONDS / 60:g} minutes"
            )
        now = self.clock() if progress.ended is None else progress.ended
        is_counted = progress.prompt_tokens > 0  # a prompt has a token at least
        state, position = self._state(progress)
        return RequestProgress(
            id=request_id,
            state=state,
            position=position,
            prompt_tokens=progress.prompt_tokens if is_counted else None,
            cached_tokens=progress.cached_tokens if is_counted else None,
            generated_tokens=progress.generated_tokens,
            seconds=now - progress.started,
            first_token_seconds=_between(progress.started, progress.first_token),
            tokens_per_second=_speed(progress, now),
            finish_reason=progress.finish_reason if progress.ended is not None else None,
            error=progress.error,
        )

    def _state(self, progress: Progress) -> tuple[RequestState, int | None]:
        if progress.ended is not None:
            return RequestState.ENDED, None
        if progress.first_token is not None:
            return RequestState.GENERATING, None
        if progress.engine.status.state is not EngineState.READY:
            return RequestState.LOADING, None
        position = self._position(progress)
        return (RequestState.QUEUED, position) if position else (RequestState.PROMPT, None)

    def _position(self, progress: Progress) -> int | None:
        """Return the place in the queue; None for one that has a slot.

        Engines take the first to come first, so those that came first hold the slots.
        """
        slots = progress.engine.metrics.slots
        ahead = sum(
            other.num_unfinished
            for other in itertools.takewhile(lambda other: other is not progress, self._active)
            if other.engine is progress.engine
        )
        return ahead - slots + 1 if slots and ahead >= slots else None

    def _forget(self) -> None:
        """Drop what ended too long ago, or before too many others."""
        oldest = self.clock() - KEPT_SECONDS
        while self._ended and (len(self._ended) > MAX_KEPT or _end(self._ended[0][1]) < oldest):
            request_id, progress = self._ended.popleft()
            if self._by_id.get(request_id) is progress:
                del self._by_id[request_id]


def _end(progress: Progress) -> float:
    assert progress.ended is not None
    return progress.ended


def _between(start: float, end: float | None) -> float | None:
    return None if end is None else end - start


def _speed(progress: Progress, now: float) -> float:
    steps = progress.generated_tokens - 1
    if progress.first_token is None or steps < 1 or now <= progress.first_token:
        return 0.0
    return steps / (now - progress.first_token)
