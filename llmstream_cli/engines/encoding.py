"""Requests encoded by processes that the kernel limits; see `engines.encoder`.

A chat template is a program from the model file, a schema one from a stranger, and llama.cpp's
tokenizers take quadratic time on some texts and crash on others. Here that costs the request which
brings it, and nobody else:

1. Every request has a process of its own, limited in CPU time and memory.
2. Most need some milliseconds. One that needs more than a moment starts again in the slow lane,
   where only one runs at a time, with low priority: who asks for little never waits behind it.
3. Only so many wait in the slow lane; more are refused.
4. Closing the connection ends the process, wherever it is.
"""

import contextlib
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING

from llmstream_cli.api import (
    EngineConfig,
    GenerationRequest,
    ModelInfo,
    SamplingParams,
    Tokens,
)
from llmstream_cli.core.model import EncodedRequest, EncodedTexts
from llmstream_cli.engines import encoder
from llmstream_cli.engines.ipc import Request, spawn
from llmstream_cli.errors import (
    EngineClosedError,
    EngineError,
    InvalidValueError,
    LLMStreamError,
    PromptError,
    QueueFullError,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

ENCODER_MODULE = "llmstream_cli.engines.encoder"

Outcome = EncodedRequest | EncodedTexts | Tokens | LLMStreamError  # by the kind of the request

_NO_LIMIT = 2**31  # tokens; nothing is computed of them
_MAX_SLOW = 8  # requests that wait in the slow lane
_WALL_SECONDS = 60.0  # in which a process has its CPU time, however busy the machine is


@dataclass(slots=True)
class Lane:
    places: int  # how many at once
    seconds: float  # CPU time for each
    low_priority: bool = False  # see `encoder.Job`
    waiting: "deque[_Job]" = field(default_factory=deque)
    running: "dict[Connection, _Job]" = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Job:
    request_id: int
    request: Request
    info: ModelInfo
    deadline: float = 0.0
    compiling: bool = False

    @property
    def is_constrained(self) -> bool:
        request = self.request
        return isinstance(request, GenerationRequest) and request.is_constrained


class EncodingPool:
    """Encodes requests in processes of their own. Not thread-safe.

    `deliver` takes a request's id, the request, and what was made of it or why there is nothing; at
    most once for each. It must not block.
    """

    def __init__(
        self,
        config: EngineConfig,
        deliver: Callable[[int, Request, Outcome], object],
        *,
        quick: Lane | None = None,
        slow: Lane | None = None,
    ) -> None:
        self._config = config
        self._deliver = deliver
        self._quick = quick or Lane(places=2, seconds=0.15)
        self._slow = slow or Lane(places=1, seconds=5.0, low_priority=True)
        self._start()

    def _start(self) -> None:
        """Start the process that is forked for each request; it gets ready meanwhile."""
        self._process, self._control = spawn(ENCODER_MODULE)
        with Connection(os.dup(self._control.fileno())) as control, contextlib.suppress(OSError):
            control.send(self._config)

    @property
    def connections(self) -> list[Connection]:
        """Those that may become readable, upon which `receive` has something to do."""
        return [*self._quick.running, *self._slow.running]

    def submit(self, request_id: int, request: Request, info: ModelInfo) -> None:
        """Encode a request as soon as there is a place."""
        self._quick.waiting.append(_Job(request_id, request, info))
        self._fill(self._quick)

    def cancel(self, request_id: int) -> None:
        """Forget a request; it is not delivered any more."""
        for lane in (self._quick, self._slow):
            lane.waiting = deque(job for job in lane.waiting if job.request_id != request_id)
            for connection, job in [*lane.running.items()]:
                if job.request_id == request_id:
                    del lane.running[connection]
                    connection.close()
            self._fill(lane)

    def receive(self, ready: Sequence[object]) -> None:
        """Take what has come; also, end what takes too long. Call it every second or so."""
        now = time.monotonic()
        for lane in (self._quick, self._slow):
            for connection, job in [*lane.running.items()]:
                if connection in ready:
                    self._take(lane, connection, job)
                elif job.deadline < now:
                    self._end_or_slow(lane, connection, job)
            self._fill(lane)

    def close(self) -> None:
        """End all processes, and wait for it."""
        for connection in self.connections:
            connection.close()
        self._control.close()
        self._process.wait()

    def _fill(self, lane: Lane) -> None:
        while lane.waiting and len(lane.running) < lane.places:
            job = lane.waiting.popleft()
            connection = self._fork(job)
            connection.send(
                encoder.Job(job.request, job.info.ctx_size, lane.seconds, lane.low_priority)
            )
            job.deadline = time.monotonic() + _WALL_SECONDS
            lane.running[connection] = job

    def _fork(self, job: _Job) -> Connection:
        kind = encoder.CONSTRAINED if job.is_constrained else encoder.PLAIN
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self._control, [kind], [theirs.fileno()])
            except OSError:  # the process was killed
                self._control.close()
                self._process.wait()
                self._start()
                socket.send_fds(self._control, [kind], [theirs.fileno()])
        return Connection(ours.detach())

    def _take(self, lane: Lane, connection: Connection, job: _Job) -> None:
        try:
            message = connection.recv()
        except (EOFError, OSError):
            self._end_or_slow(lane, connection, job)
            return
        if message == encoder.COMPILING:
            job.compiling = True
            return
        del lane.running[connection]
        if isinstance(message, EncodedRequest) and job.is_constrained:
            constraint = RemoteConstraint(
                connection, job.info.vocab_size, is_active=not message.constraint_begins_later
            )
            message = replace(message, constraint=constraint)
        else:
            connection.close()
        self._deliver(job.request_id, job.request, message)

    def _end_or_slow(self, lane: Lane, connection: Connection, job: _Job) -> None:
        """Go on after a process that has made nothing within its limits."""
        connection.close()
        del lane.running[connection]
        if lane is self._slow:
            self._deliver(job.request_id, job.request, _too_expensive(job, lane))
        elif len(self._slow.waiting) >= _MAX_SLOW:
            many = f"{_MAX_SLOW} requests that are as expensive to prepare wait already"
            self._deliver(job.request_id, job.request, QueueFullError(f"{many}; try again later"))
        else:
            self._slow.waiting.append(_Job(job.request_id, job.request, job.info))
            self._fill(self._slow)


def counting(request: GenerationRequest, info: ModelInfo) -> tuple[GenerationRequest, ModelInfo]:
    """Return what has a request's prompt made, however long it is, and no grammar for its text."""
    # A grammar rules reasoning out, which the prompt may have to close.
    thinking = False if request.sampling.is_constrained else request.thinking
    request = replace(request, sampling=SamplingParams(), thinking=thinking)
    return request, replace(info, ctx_size=_NO_LIMIT)


def _too_expensive(job: _Job, lane: Lane) -> LLMStreamError:
    if not job.compiling:
        limit = f"{lane.seconds:g} seconds or {encoder.PROMPT_BYTES >> 20} MiB"
        if not isinstance(job.request, GenerationRequest):
            return PromptError(f"the input has no tokens within {limit}; send less at once")
        return PromptError(f"the messages made no prompt within {limit}; shorten them")
    assert isinstance(job.request, GenerationRequest)
    limit = f"{encoder.COMPILE_SECONDS:g} second or {encoder.COMPILE_BYTES >> 20} MiB"
    if job.request.callable_tools:
        why = f"tools: their schemas need more than {limit} to compile; send fewer, or simpler ones"
        return InvalidValueError(why, "tools")
    what = "grammar" if job.request.sampling.json_schema is None else "JSON schema"
    return InvalidValueError(f"{what}: it needs more than {limit} to compile; simplify it")


class LongPrompts:
    """Encodes long prompts one after another, for an engine that encodes others in its process."""

    def __init__(self, config: EngineConfig) -> None:
        self._outcomes: list[Outcome] = []
        self._pool = EncodingPool(
            config,
            lambda _, __, outcome: self._outcomes.append(outcome),
            slow=Lane(places=1, seconds=5.0),
        )
        self._lock = threading.Lock()

    def encode(
        self, request: Request, info: ModelInfo, given_up: threading.Event
    ) -> EncodedRequest | EncodedTexts | Tokens:
        """Encode a request; see `LoadedModel.encode`. Blocks until `given_up` at the latest."""
        with self._lock:
            self._outcomes.clear()
            self._pool.submit(0, request, info)
            while not self._outcomes and not given_up.is_set():
                self._pool.receive(wait(self._pool.connections, 0.1))
            self._pool.cancel(0)
            outcome = self._outcomes.pop() if self._outcomes else EngineClosedError()
        if isinstance(outcome, LLMStreamError):
            raise outcome
        return outcome

    def close(self) -> None:
        """End the processes."""
        with self._lock:
            self._pool.close()


class RemoteConstraint:
    """Follows an answer through its grammar in another process; see `constraint.Constraint`."""

    def __init__(self, connection: Connection, vocab_size: int, *, is_active: bool) -> None:
        self.is_active = is_active
        self._connection = connection
        self._vocab_size = vocab_size
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self._mask: npt.NDArray[np.bool_] | None = None
        self._on_time = True

    def is_ready(self, seconds: float) -> bool:
        """Tell whether `allowed` returns at once; wait so long, if it did the last time."""
        if self._mask is None and self.is_active:
            self._on_time = bool(self._poll.poll(1000 * seconds if self._on_time else 0))
            return self._on_time
        return True

    def begin(self, text: str) -> None:
        """Hold after a text; `allowed` tells whether the grammar begins so."""
        self._mask, self.is_active = None, True
        with contextlib.suppress(OSError):
            self._connection.send(text)

    def allowed(self) -> "npt.NDArray[np.bool_]":
        """Tell for each token whether it may come next; see `Constraint.allowed`."""
        import numpy as np

        if self._mask is None:
            message = self._receive() if self.is_active else b""
            self.is_active = bool(message)
            if not self.is_active:
                return np.ones(self._vocab_size, np.bool_)
            bits = np.frombuffer(message, np.uint8)
            mask = np.unpackbits(bits, count=self._vocab_size, bitorder="little")
            self._mask = mask.view(np.bool_)
        return self._mask

    def accept(self, token: int) -> None:
        """Go on with a token, which must be an allowed one."""
        if not self.is_active:
            return
        self._mask = None
        with contextlib.suppress(OSError):  # its end is seen when the next token is asked for
            self._connection.send(token)

    def _receive(self) -> bytes:
        try:
            message = self._connection.recv()
        except (EOFError, OSError) as error:
            limit = f"{encoder.MASK_SECONDS:g} seconds or {encoder.COMPILE_BYTES >> 20} MiB"
            raise EngineError(f"the grammar needs more than {limit} for a token") from error
        if isinstance(message, LLMStreamError):
            raise message
        assert isinstance(message, bytes)
        return message
