"""How far requests have come, and what became of them, for `GET /requests/{id}`.

`/token_stream` answers with the text and nothing else, so whoever asks there learns the rest here.
Counters and times alone are kept, of a bounded number of requests and for a bounded time. Ids are
the clients' own (`X-Request-Id`): who wants theirs to be nobody else's takes random ones.
"""

import itertools
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from pydantic import BaseModel, Field

from llmstream_cli.api import Chunk, Engine, EngineState, FinishReason
from llmstream_cli.errors import EngineError, LLMStreamError, NotFoundError

KEPT_SECONDS = 600.0
MAX_KEPT = 1024


class RequestState(StrEnum):
    """How far a request has come."""

    LOADING = "loading"  # its model is
    QUEUED = "queued"
    PROMPT = "prompt"  # the model reads it
    GENERATING = "generating"
    ENDED = "ended"


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
class Progress:
    """How far the answers to one request have come; times are those of the registry's clock."""

    request_id: str
    engine: Engine
    num_unfinished: int  # answers that have not ended
    fail: Callable[[LLMStreamError], None]  # ends all of them with an error
    started: float
    first_token: float | None = None
    ended: float | None = None
    prompt_tokens: int = 0  # of the answers that have ended, as are `cached_tokens`
    cached_tokens: int = 0
    generated_tokens: int = 0
    finish_reason: FinishReason | None = None  # of the answer that ended last
    error: str | None = None  # of the answer that failed last


def _ignore(_: LLMStreamError) -> None:
    """Void: the request has ended."""


class ProgressRegistry:
    """The requests that generate, and those that did lately."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self.active: dict[Progress, None] = {}  # a set, in order of arrival
        self._by_id: dict[str, Progress] = {}
        self._ended: deque[tuple[float, Progress]] = deque()

    def begin(
        self,
        request_id: str,
        engine: Engine,
        num_answers: int,
        fail: Callable[[LLMStreamError], None],
    ) -> Progress:
        """Note a request. One that takes the id of another takes its place."""
        self._forget()
        progress = Progress(request_id, engine, num_answers, fail, self._clock())
        self.active[progress] = None
        self._by_id[request_id] = progress
        return progress

    def note_chunk(self, progress: Progress, chunk: Chunk) -> None:
        """Count what a chunk brings."""
        if chunk.token_ids and progress.first_token is None:
            progress.first_token = self._clock()
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

    def end(self, progress: Progress) -> None:
        """Note that nothing more will come. Idempotent."""
        if progress.ended is not None:
            return
        progress.ended = self._clock()
        if progress.num_unfinished and progress.error is None:
            progress.finish_reason = FinishReason.CANCELLED
        progress.fail = _ignore  # or the request and its body would be kept as well
        del self.active[progress]
        self._ended.append((progress.ended, progress))
        self._forget()

    def describe(self, request_id: str) -> RequestProgress:
        self._forget()
        progress = self._by_id.get(request_id)
        if progress is None:
            raise NotFoundError(
                f"no request {request_id[:64]!r} is known; those that have ended are kept for "
                f"{KEPT_SECONDS / 60:g} minutes"
            )
        now = self._clock() if progress.ended is None else progress.ended
        first = progress.first_token
        steps = 0 if first is None or now <= first else progress.generated_tokens - 1
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
            first_token_seconds=None if first is None else first - progress.started,
            tokens_per_second=steps / (now - (first or 0.0)) if steps > 0 else 0.0,
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
        # Engines take the first to come first, so those that came first hold the slots.
        slots = progress.engine.metrics.slots
        ahead = sum(
            other.num_unfinished
            for other in itertools.takewhile(lambda other: other is not progress, self.active)
            if other.engine is progress.engine
        )
        if slots and ahead >= slots:
            return RequestState.QUEUED, ahead - slots + 1
        return RequestState.PROMPT, None

    def _forget(self) -> None:
        """Drop what ended too long ago, or before too many others."""
        oldest = self._clock() - KEPT_SECONDS
        while self._ended and (len(self._ended) > MAX_KEPT or self._ended[0][0] < oldest):
            _, progress = self._ended.popleft()
            if self._by_id.get(progress.request_id) is progress:
                del self._by_id[progress.request_id]
