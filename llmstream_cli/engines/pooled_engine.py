"""One engine of a pool: a request loads it, and it is unloaded when none has come for a while."""

import asyncio
import contextlib
import itertools
import logging
import math
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import replace
from enum import Enum, auto
from typing import Protocol

from llmstream_cli.api import (
    Chunk,
    EmbeddingRequest,
    Embeddings,
    Engine,
    EngineMetrics,
    EngineState,
    EngineStatus,
    GenerationRequest,
    ModelInfo,
    TokenizeRequest,
    Tokens,
)
from llmstream_cli.engines.keep_alive import Wishes
from llmstream_cli.errors import (
    EngineClosedError,
    EngineError,
    EngineNotReadyError,
    InvalidValueError,
    LLMStreamError,
    ModelError,
    NoRoomError,
    QueueFullError,
    copy_error,
)

_log = logging.getLogger(__name__)

_GIGABYTE = 1e9
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0  # seconds until a model that failed is tried again

_uses = itertools.count(1)  # a clock that ticks with each use


def _now() -> float:
    return asyncio.get_running_loop().time()


class Phase(Enum):
    ABSENT = auto()
    LOADING = auto()
    LOADED = auto()
    UNLOADING = auto()


class _Pool(Protocol):
    """What an engine asks of its pool; see `pool.EnginePool`."""

    max_bytes: float
    members: "list[PooledEngine]"

    def waiting(self, member: "PooledEngine") -> int: ...

    async def enter(self, member: "PooledEngine") -> None: ...

    def reject(self, member: "PooledEngine", error: LLMStreamError) -> None: ...

    def reschedule(self) -> None: ...


class PooledEngine:
    """An engine that is there when it is asked; implements `Engine` and `Residency`.

        ABSENT ──▶ LOADING ──▶ LOADED ──▶ UNLOADING ──▶ ABSENT
                      └────── failed, given up ──▲

    While the model is being loaded for a request, requests wait. While it is being launched, that
    is loaded because `start` was called, they are refused with `EngineNotReadyError`. A request
    holds a lease from before its engine is asked until its generator is closed, and an engine with
    a lease is never unloaded.

    Args:
        factory: makes the engine, which this starts and closes, once for each load.
        needed_bytes: what it will take, as far as that is known.
        keep_alive: seconds until it is unloaded if nobody asks; infinite is for good.
        max_requests: that it may answer at once and that may wait for it, together.
    """

    def __init__(
        self,
        pool: _Pool,
        name: str,
        factory: Callable[[], Engine],
        *,
        needed_bytes: int = 0,
        keep_alive: float = math.inf,
        max_requests: float = math.inf,
    ) -> None:
        pool.members.append(self)
        self.name = name
        self.phase = Phase.ABSENT
        self.leases = 0  # requests that it answers
        self.last_used = 0  # grows from use to use, over all engines
        # The estimate, or the most that its process was seen to take if that is more.
        self.needed_bytes = needed_bytes
        self.loads = 0
        self.load_seconds = 0.0
        self.unloads = 0
        self._pool = pool
        self._factory = factory
        self._estimated_bytes = needed_bytes
        self._wishes = Wishes(keep_alive)
        self._max_requests = max_requests
        self._engine: Engine | None = None
        self._info: ModelInfo | None = None
        self._task: asyncio.Task[None] | None = None  # loads, or unloads
        self._timer: asyncio.TimerHandle | None = None
        self._launching = False  # `start` was called, and it was not loaded since
        self._closed = False
        self._failure: LLMStreamError | None = None  # of the last load
        self._retry_at = 0.0  # by the loop's clock
        self._pause = _FIRST_PAUSE
        self._past = EngineMetrics()  # counters of the engines before

    @property
    def status(self) -> EngineStatus:
        if self._closed:
            return EngineStatus(EngineState.CLOSED, str(EngineClosedError()))
        if self.phase is Phase.LOADED:
            return self._loaded_engine().status
        if self.phase is Phase.LOADING:
            return EngineStatus(EngineState.LOADING, "the model is being loaded")
        if self._failure is not None and _now() < self._retry_at:
            return EngineStatus(EngineState.FAILED, str(self._failure))
        if self._pool.waiting(self):
            return EngineStatus(EngineState.IDLE, "it waits for memory that other models hold")
        return EngineStatus(EngineState.IDLE, "it is not loaded; a request loads it")

    @property
    def metrics(self) -> EngineMetrics:
        present = EngineMetrics() if self._engine is None else self._engine.metrics
        waiting = present.waiting + self._pool.waiting(self)
        return replace(present.after(self._past), waiting=waiting)

    def start(self) -> None:
        """Launch the model; an event loop has to run. A `NoRoomError` is raised at once."""
        self._check_room()
        self._launching = True
        self.begin_loading()

    async def ready(self) -> ModelInfo:
        """Wait until the model is loaded, which it will be if it is not; see `Engine.ready`."""
        if self.info is not None and self.status.state is EngineState.READY:
            return self.info
        return await self.load(client=None)  # nobody's wish: whoever launches a model waits too

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Chunk]:
        """Stream the answer, once the model is loaded; see `Engine.generate`.

        For a while after a load that failed, nobody tries again, and its error is raised.
        """
        if self._launching:
            raise EngineNotReadyError(f"{self.status.reason}; try again later")
        measured = False
        async with self._leased(request.keep_alive, request.client) as engine:
            chunks = engine.generate(replace(request, keep_alive=None, client=""))
            async with contextlib.aclosing(chunks):
                async for chunk in chunks:
                    if not measured:  # the context may have grown for the prompt
                        measured = True
                        self._measure()
                        self._pool.reschedule()
                    yield chunk

    async def count_tokens(self, request: GenerationRequest) -> int:
        """Return how many tokens a request's prompt has, once the model is loaded."""
        if self._launching:
            raise EngineNotReadyError(f"{self.status.reason}; try again later")
        async with self._leased(request.keep_alive, request.client) as engine:
            return await engine.count_tokens(request)

    async def tokenize(self, request: TokenizeRequest) -> Tokens:
        """Return the tokens of a text, once the model is loaded; see `Engine.tokenize`."""
        if self._launching:
            raise EngineNotReadyError(f"{self.status.reason}; try again later")
        async with self._leased(request.keep_alive, request.client) as engine:
            return await engine.tokenize(request)

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Return the vectors, once the model is loaded; see `Engine.embed`."""
        if self._launching:
            raise EngineNotReadyError(f"{self.status.reason}; try again later")
        async with self._leased(request.keep_alive, request.client) as engine:
            return await engine.embed(replace(request, keep_alive=None, client=""))

    async def aclose(self) -> None:
        """End all requests, those that wait too, and the engine; see `Engine.aclose`."""
        if not self._closed:
            self._closed = True
            self._pool.reject(self, EngineClosedError())
            if self.phase is Phase.LOADED:
                self.begin_unloading("the server is closing")
            elif self.phase is Phase.LOADING:
                self._abandon()
        while self._task is not None and not self._task.done():
            await asyncio.wait([self._task])

    # ---- Residency --------------------------------------------------------------------------

    @property
    def info(self) -> ModelInfo | None:
        return self._info if self.phase is Phase.LOADED else None

    @property
    def memory_bytes(self) -> int:
        return 0 if self.phase is Phase.ABSENT else self.needed_bytes  # until its process has gone

    @property
    def expires_seconds(self) -> float:
        if self.phase is not Phase.LOADED:
            return 0.0
        wish = self._wishes.longest()
        return wish.keep_alive if self.leases else max(0.0, wish.expiry - _now())

    async def load(self, keep_alive: float | None = None, client: str | None = "") -> ModelInfo:
        async with self._leased(keep_alive, client) as engine:
            return await engine.ready()

    def unload(self, client: str = "") -> bool:
        """Unload the model as soon as it answers no request; see `Residency.unload`."""
        if self.phase is Phase.LOADED:
            self._wishes.note(client, 0.0, _now())
            self._rest()
        return not self.expires_seconds

    # ---- for the pool -----------------------------------------------------------------------

    def lease(self) -> None:
        self._stop_timer()
        self.leases += 1
        self.last_used = next(_uses)

    def release(self, client: str | None = None) -> None:
        assert self.leases
        self.leases -= 1
        self.last_used = next(_uses)
        self._wishes.restart(client, _now())
        if self.phase is Phase.LOADED:
            self._measure()
            self._rest()
        self._pool.reschedule()

    def begin_loading(self) -> None:
        assert self.phase is Phase.ABSENT
        self._failure = None
        self._change(Phase.LOADING, self._load())

    def begin_unloading(self, why: str) -> None:
        if not self._closed:
            _log.info("unloading %s: %s", self.name, why)
        self._stop_timer()
        self.unloads += 1
        self._change(Phase.UNLOADING, self._close_engine())

    def give_up_loading(self) -> None:
        """Stop loading, for nobody waits any more; a launch goes on."""
        if self.phase is Phase.LOADING and not self._launching:
            _log.info("gave up loading %s: nobody waits for it any more", self.name)
            self._abandon()

    @contextlib.asynccontextmanager
    async def _leased(self, keep_alive: float | None, client: str | None) -> AsyncGenerator[Engine]:
        """Wait for a lease; refuse a request that could only fail."""
        if self._closed:
            raise EngineClosedError
        self._check_room()
        if self._failure is not None and _now() < self._retry_at:
            raise copy_error(self._failure)
        present = self.leases + self._pool.waiting(self)
        if present >= self._max_requests:
            raise QueueFullError(
                f"{present} requests run on {self.name} or wait for it already; try again later"
            )
        await self._pool.enter(self)
        try:
            if client is not None:
                self._wishes.note(client, keep_alive, _now())
            yield self._loaded_engine()
        finally:
            self.release(client)  # synchronous, as clean-up in a generator has to be

    def _check_room(self) -> None:
        if self._estimated_bytes > self._pool.max_bytes:
            raise NoRoomError(
                f"{self.name} needs {self._estimated_bytes / _GIGABYTE:.2f} GB of memory, and all "
                f"models together may take {self._pool.max_bytes / _GIGABYTE:.2f} GB"
            )

    def _loaded_engine(self) -> Engine:
        if self._engine is None:
            raise EngineClosedError  # since the lease was taken; nothing else unloads it then
        return self._engine

    # ---- loading and unloading --------------------------------------------------------------

    def _change(self, phase: Phase, work: Coroutine[None, None, None]) -> None:
        self.phase = phase
        self._task = asyncio.create_task(work)

    async def _load(self) -> None:
        self._log(logging.INFO, "loading %s", self.name)
        started = _now()
        try:
            self._engine = self._factory()
            self._engine.start()
            self._info = await self._engine.ready()
        except LLMStreamError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001  (a bug; whoever waits must hear of it)
            _log.exception("a bug kept %s from being loaded", self.name)
            self._fail(EngineError(f"{self.name} could not be loaded: {error!r}"))
        else:
            self.phase = Phase.LOADED
            self._wishes.reset(_now())
            self.loads += 1
            self.load_seconds += (seconds := _now() - started)
            self.last_used = next(_uses)
            self._log(logging.INFO, "loaded %s in %.3f seconds", self.name, seconds)
            self._launching = False
            self._pause = _FIRST_PAUSE
            self._measure()
            self._pool.reschedule()
            self._rest()

    def _log(self, level: int, message: str, *values: object) -> None:
        """Log what comes of a load, unless it is a launch, of which whoever launched it tells."""
        if not self._launching:
            _log.log(level, message, *values)

    def _fail(self, error: LLMStreamError) -> None:
        """Note why the model cannot be used, for all who wait and who will ask soon."""
        if isinstance(error, InvalidValueError) and not self._launching:
            error = ModelError(f"cannot load {self.name}: {error}")  # no value of the request's
        self._log(logging.WARNING, "%s cannot be used: %s", self.name, error)
        self._failure = error
        self._retry_at = _now() + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        self._launching = False
        self._pool.reject(self, error)
        self._change(Phase.UNLOADING, self._close_engine())

    def _abandon(self) -> None:
        assert self._task is not None
        self._task.cancel()
        self._change(Phase.UNLOADING, self._close_engine())

    async def _close_engine(self) -> None:
        if self._engine is not None:
            try:
                await self._engine.aclose()
            except Exception:  # noqa: BLE001  (a bug; others wait for the memory)
                _log.exception("a bug kept %s from being unloaded well", self.name)
            self._past = self._engine.metrics.after(self._past)
        self._engine = self._info = None
        self.phase = Phase.ABSENT
        self._pool.reschedule()

    def _measure(self) -> None:
        """Learn what the model takes: weights are read and caches grow as they are used."""
        self.needed_bytes = max(self.needed_bytes, self._loaded_engine().metrics.rss_bytes)

    def _rest(self) -> None:
        """Where no request uses the model: unload it, or let the time run until that."""
        self._stop_timer()
        if self.phase is not Phase.LOADED or self.leases:
            return
        if self.status.state is EngineState.FAILED:
            self._fail(EngineError(self.status.reason))
            return
        wish = self._wishes.longest()
        if wish.expiry <= _now():
            self.begin_unloading("it is not to be kept")
        elif math.isfinite(wish.expiry):
            why = f"nobody has asked for {wish.keep_alive:g} seconds"
            self._timer = asyncio.get_running_loop().call_at(wish.expiry, self.begin_unloading, why)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
