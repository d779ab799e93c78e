"""The engine in a process of its own, which is started again when it dies.

llama.cpp aborts on some inputs that other libraries would refuse, and a file or a grammar made for
the purpose can do worse. Here that costs the requests that were being answered, and no others:

1. A request of which something has been delivered ends with `EngineDiedError`.
2. One of which nothing has come yet is sent again to the next process, once, and within a bounded
   time; whoever waits for it notices nothing but the delay.
3. The next process is started after a pause that doubles from death to death. A process that has
   run well for a while makes the pause short again.
4. A model that the process reports as unusable is not tried again; one that kills the process while
   it is being loaded, a few times. One that was ready before is tried again for ever.
5. A process that answers no ping, with or without work, is killed, and so is one whose load makes
   no progress.

Everything here runs in one event loop, and nothing waits for a consumer: one that serves slow
readers bounds what it keeps for them, as it bounds the queue.
"""

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from llmstream_cli.api import (
    Chunk,
    EmbeddingRequest,
    Embeddings,
    EngineConfig,
    EngineMetrics,
    EngineState,
    EngineStatus,
    GenerationRequest,
    ModelInfo,
    TokenizeRequest,
    Tokens,
)
from llmstream_cli.engines import ipc
from llmstream_cli.engines.child import Child
from llmstream_cli.errors import (
    EngineClosedError,
    EngineDiedError,
    EngineError,
    EngineNotReadyError,
    InvalidValueError,
    LLMStreamError,
    ModelError,
    copy_error,
)

_log = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 30.0  # seconds before a process is started again
_RAN_WELL_SECONDS = 60.0
_MAX_LOADS = 4  # in a row that may kill the process
_RETRY_SECONDS = 30.0  # how long a request waits for the next process
_TICK_SECONDS = 1.0
_MAX_UNANSWERED = 10  # ticks without a sign of life until a process is killed
_MAX_STALLED = 30  # ticks in which a load neither computes nor reads


_Result = Chunk | Embeddings | Tokens | int


@dataclass(slots=True, eq=False)
class _Call:
    """A request on its way."""

    # What to send again if the process dies; None once something has been delivered, or when it has
    # been sent again already.
    command: ipc.Submit | ipc.Count | None
    # The time, by the loop's clock, until which it waits for the next process; None while a process
    # has it.
    expires: float | None = None
    # What has come and is not yet consumed.
    results: asyncio.Queue[_Result | LLMStreamError] = field(default_factory=asyncio.Queue)


class SupervisedEngine:
    """Generates with a model in a child process; implements `api.Engine`.

    While the model is being loaded, first or again, requests are refused with
    `EngineNotReadyError`.

    `log` takes the lines of llama.cpp's log and of whatever else the process writes to standard
    error; None drops them, but for the one that tells why it died.
    """

    def __init__(self, config: EngineConfig, *, log: Callable[[str], object] | None = None) -> None:
        self._config = config
        self._log = log
        self._child: Child | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._status = EngineStatus(EngineState.LOADING, "the model is being loaded")
        self._settled = asyncio.Event()  # ready, failed, or closed
        self._closing = asyncio.Event()
        self._failure: LLMStreamError | None = None  # why it will never be ready again
        self._info: ModelInfo | None = None
        self._ready_since: float | None = None  # by the loop's clock, for the current process
        self._failed_loads = 0
        self._pause = _FIRST_PAUSE
        self._quiet_ticks = 0  # without an answer to a ping, or without progress of the load
        self._activity: object = None  # of the process, when it was looked at last
        self._calls: dict[int, _Call] = {}
        self._request_ids = itertools.count()
        self._past = EngineMetrics()  # counters of the processes that have died
        self._present = EngineMetrics(slots=config.max_seqs)

    @property
    def status(self) -> EngineStatus:
        return self._status

    @property
    def metrics(self) -> EngineMetrics:
        """State and counters after the last step; counters go on over restarts."""
        return replace(
            self._present.after(self._past),
            waiting=max(0, len(self._calls) - self._present.running),
            rss_bytes=0 if self._child is None else self._child.rss_bytes,
        )

    def start(self) -> None:
        """Start the process, in the event loop; that it cannot be is an `EngineError`."""
        self._child = Child(self._config, self._receive, self._log)
        self._supervisor = asyncio.create_task(self._supervise(self._child))

    async def ready(self) -> ModelInfo:
        """Wait until the model is loaded, for the first time or again; see `Engine.ready`."""
        while self._status.state is not EngineState.READY:
            await self._settled.wait()
            if self._failure is not None:
                raise copy_error(self._failure)
        assert self._info is not None
        return self._info

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Chunk]:
        """Stream the answer; see `Engine.generate`.

        Raises:
            EngineNotReadyError: the model is being loaded; or it was, for too long, when the
                process had died before anything was generated.
            EngineDiedError: the process died; the chunks before it are good.
        """
        with self._call(ipc.Submit(next(self._request_ids), request)) as call:
            while True:
                result = await call.results.get()
                if isinstance(result, LLMStreamError):
                    raise result
                assert isinstance(result, Chunk)
                yield result
                if result.finish_reason is not None:
                    return

    async def count_tokens(self, request: GenerationRequest) -> int:
        """Return how many tokens a request's prompt has; see `Engine.count_tokens`."""
        with self._call(ipc.Count(next(self._request_ids), request)) as call:
            result = await call.results.get()
        if isinstance(result, LLMStreamError):
            raise result
        assert isinstance(result, int)
        return result

    async def tokenize(self, request: TokenizeRequest) -> Tokens:
        """Return the tokens of a text, or those that are given; see `Engine.tokenize`."""
        with self._call(ipc.Submit(next(self._request_ids), request)) as call:
            result = await call.results.get()
        if isinstance(result, LLMStreamError):
            raise result
        assert isinstance(result, Tokens)
        return result

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Return a vector for each input; see `Engine.embed`, and `generate` for what it raises."""
        parts: list[Embeddings] = []
        with self._call(ipc.Submit(next(self._request_ids), request)) as call:
            while not parts or not parts[-1].finished:
                result = await call.results.get()
                if isinstance(result, LLMStreamError):
                    raise result
                assert isinstance(result, Embeddings)
                parts.append(result)
        return Embeddings.joined(parts)

    async def aclose(self) -> None:
        """End all requests, and the process, by force if it does not leave within a second."""
        self._closing.set()
        if self._status.state is not EngineState.CLOSED:
            self._fail(EngineState.CLOSED, EngineClosedError())
        if self._child is not None:
            self._child.hang_up()
        if self._supervisor is not None:
            await asyncio.wait([self._supervisor])

    @contextlib.contextmanager
    def _call(self, command: ipc.Submit | ipc.Count) -> Iterator[_Call]:
        """Send a request, and listen to what comes of it."""
        if self._failure is not None:
            raise copy_error(self._failure)
        if self._status.state is not EngineState.READY:
            raise EngineNotReadyError(f"{self._status.reason}; try again later")
        assert self._child is not None
        self._child.send(command)
        call = self._calls[command.request_id] = _Call(command)
        try:
            yield call
        finally:
            # Synchronous, as clean-up in a generator has to be.
            if self._calls.pop(command.request_id, None) and self._child is not None:
                self._child.send(ipc.Cancel(command.request_id))

    # ---- the processes, one after the other ---------------------------------------------------

    async def _supervise(self, child: Child | None) -> None:
        """Keep a process running until the engine is closed, or has failed for good."""
        watch = asyncio.create_task(self._watch())
        try:
            while child is not None:
                self._handle_death(await child.ended())
                child = await self._restart()
        except Exception as error:  # noqa: BLE001  (a bug; whoever waits must hear of it)
            self._fail(EngineState.FAILED, EngineError(f"the engine failed: {error!r}"))
        finally:
            watch.cancel()
            if child is not None:
                child.kill("the engine is not supervised any more")

    async def _restart(self) -> Child | None:
        """Start a process after a pause; return None if there is to be none."""
        while self._failure is None:
            pause, self._pause = self._pause, min(2 * self._pause, _LONGEST_PAUSE)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), pause)
                return None
            try:
                self._child = Child(self._config, self._receive, self._log)
            except EngineError as error:  # of files or memory, say: no fault of the model
                self._set_status(EngineState.RESTARTING, f"{error}; it is tried again")
                _log.warning("%s", self._status.reason)
            else:
                self._past = replace(self._past, restarts=self._past.restarts + 1)
                return self._child
        return None

    def _handle_death(self, reason: str) -> None:
        """Decide what becomes of the engine, and of its requests, after its process has died."""
        self._past = self._present.after(self._past)
        self._present = EngineMetrics(slots=self._config.max_seqs)
        self._child = None
        self._quiet_ticks = 0
        if self._failure is not None:
            return
        now = asyncio.get_running_loop().time()
        if self._ready_since is None:
            self._failed_loads += 1
        elif now - self._ready_since >= _RAN_WELL_SECONDS:
            self._pause = _FIRST_PAUSE
        self._ready_since = None
        if self._failed_loads == _MAX_LOADS and self._info is None:
            error = ModelError(f"cannot load {Path(self._config.model_path).name}: {reason}")
            self._fail(EngineState.FAILED, error)
            return
        self._set_status(EngineState.RESTARTING, f"{reason}; it is being started again")
        _log.warning("%s", self._status.reason)
        for request_id, call in [*self._calls.items()]:
            if call.expires is None and call.command is not None:
                call.expires = now + _RETRY_SECONDS
            elif call.expires is None:
                self._end(request_id, EngineDiedError(self._status.reason))

    async def _watch(self) -> None:
        """End what takes too long: a request that waits for a process, a process that is stuck."""
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            now = asyncio.get_running_loop().time()
            for request_id, call in [*self._calls.items()]:
                if call.expires is not None and call.expires < now:
                    self._end(request_id, EngineNotReadyError(f"{self._status.reason}; try again"))
            if self._child is not None:
                self._watch_child(self._child)

    def _watch_child(self, child: Child) -> None:
        if self._status.state is EngineState.READY:
            limit, trouble = _MAX_UNANSWERED, "the engine's process gave no sign of life for"
            stalled = True
            child.send(ipc.Ping())
        else:
            limit, trouble = _MAX_STALLED, "loading the model made no progress for"
            before, self._activity = self._activity, child.activity()
            stalled = self._activity is not None and self._activity == before
        if stalled and self._quiet_ticks >= limit:
            child.kill(f"{trouble} {limit * _TICK_SECONDS:g} seconds")
        self._quiet_ticks = self._quiet_ticks + 1 if stalled else 0

    # ---- what the process says ----------------------------------------------------------------

    def _receive(self, report: ipc.Report) -> None:
        match report:
            case ipc.Results(results, metrics):
                self._present = metrics
                for request_id, result in results:
                    self._deliver(request_id, result)
            case ipc.Counted(request_id, num_tokens):
                if request_id in self._calls:
                    self._end(request_id, num_tokens)
            case ipc.Loaded(info):
                self._become_ready(info)
            case ipc.Ended(failure):
                self._note_end(failure.error())
            case ipc.Pong():
                self._quiet_ticks = 0

    def _become_ready(self, info: ModelInfo) -> None:
        """Take requests; send those again that the last process did not get to."""
        assert self._child is not None
        self._info = info
        self._failed_loads = self._quiet_ticks = 0
        self._ready_since = asyncio.get_running_loop().time()
        self._set_status(EngineState.READY)
        if self._past.restarts:
            _log.info("the model is loaded again")
        for call in self._calls.values():
            if call.command is not None:
                self._child.send(call.command)
                call.command = call.expires = None

    def _note_end(self, error: LLMStreamError) -> None:
        """Give up where the next process could only fail in the same way."""
        assert self._child is not None
        if isinstance(error, ModelError | InvalidValueError) and self._info is None:
            self._fail(EngineState.FAILED, error)
        else:
            self._set_status(EngineState.RESTARTING, str(error))
        self._child.exit_reason = str(error)
        self._child.hang_up()

    def _deliver(self, request_id: int, result: Chunk | Embeddings | Tokens | ipc.Failure) -> None:
        call = self._calls.get(request_id)
        if call is None:  # nobody waits for it any more
            return
        if isinstance(result, ipc.Failure):
            self._end(request_id, result.error())
            return
        if not isinstance(result, Chunk) or result.progress is None:
            call.command = None  # what has been told of its progress may be told again
        match result:
            case Chunk(finish_reason=None) | Embeddings(finished=False):
                call.results.put_nowait(result)
            case _:
                self._end(request_id, result)

    def _end(self, request_id: int, last: _Result | LLMStreamError) -> None:
        self._calls.pop(request_id).results.put_nowait(last)

    def _fail(self, state: EngineState, error: LLMStreamError) -> None:
        """Tell every request, present and future, why the engine has ended."""
        self._failure = error
        self._set_status(state, str(error))
        for request_id in [*self._calls]:
            self._end(request_id, copy_error(error))

    def _set_status(self, state: EngineState, reason: str = "") -> None:
        self._status = EngineStatus(state, reason)
        if state is EngineState.RESTARTING:
            self._settled.clear()
        else:
            self._settled.set()
