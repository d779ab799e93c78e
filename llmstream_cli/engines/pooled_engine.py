"""One engine of a pool: it loads when a request comes, and unloads when none has come for a while.

    ABSENT ──▶ LOADING ──▶ LOADED ──▶ UNLOADING ──▶ ABSENT
                  └────── failed, given up ──▲

A request holds a lease from before its engine is asked until its generator is closed, and an engine
with a lease is never unloaded. The pool says when to load, and when to unload for another's sake.
"""

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
    Engine,
    EngineMetrics,
    EngineState,
    EngineStatus,
    GenerationRequest,
    ModelInfo,
)
from llmstream_cli.engines.wishes import Wishes
from llmstream_cli.errors import (
    EngineClosedError,
    EngineError,
    EngineNotReadyError,
    InvalidValueError,
    LLMStreamError,
    ModelError,
    QueueFullError,
    copy_error,
)

_log = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0  # seconds until a model that failed is tried again

_uses = itertools.count(1)  # a clock that ticks with each use


def _now() -> float:
    return asyncio.get_running_loop().time()


class Phase(Enum):
    """Where an engine is in its life."""

    ABSENT = auto()
    LOADING = auto()
    LOADED = auto()
    UNLOADING = auto()


class _Pool(Protocol):
    """What an engine asks of its pool; see `pool.EnginePool`."""

    def check_room(self, name: str, needed_bytes: int) -> None: ...

    def waiting(self, member: "PooledEngine") -> int: ...

    async def enter(self, member: "PooledEngine") -> None: ...

    def reject(self, member: "PooledEngine", error: LLMStreamError) -> None: ...

    def reschedule(self) -> None: ...


class PooledEngine:
    """An engine that is there when it is asked; implements `api.Engine` and `Residency`.

    While the model is being loaded for a request, requests wait. While it is being launched, that
    is loaded because `start` was called, they are refused with `EngineNotReadyError`.

    Args:
        pool: that this belongs to; it makes these objects.
        name: for the log.
        factory: makes the engine, once for each load.
        needed_bytes: what it will take, as far as that is known.
        keep_alive: seconds until it is unloaded if nobody asks.
        max_requests: that it may answer at once and that may wait for it, together.
    """

    def __init__(
        self,
        pool: _Pool,
        name: str,
        factory: Callable[[], Engine],
        *,
        needed_bytes: int,
        keep_alive: float,
        max_requests: float,
    ) -> None:
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

    # ---- Engine -----------------------------------------------------------------------------

    @property
    def status(self) -> EngineStatus:
        """The state now; see `Engine.status`. `IDLE` takes requests."""
        if self._closed:
            return EngineStatus(EngineState.CLOSED, str(EngineClosedError()))
        match self.phase:
            case Phase.LOADED:
                return self._loaded_engine().status
            case Phase.LOADING:
                return EngineStatus(EngineState.LOADING, "the model is being loaded")
        if self._failure is not None and _now() < self._retry_at:
            return EngineStatus(EngineState.FAILED, str(self._failure))
        if self._pool.waiting(self):
            return EngineStatus(EngineState.IDLE, "it waits for memory that other models hold")
        return EngineStatus(EngineState.IDLE, "it is not loaded; a request loads it")

    @property
    def metrics(self) -> EngineMetrics:
        """State and counters after the last step; counters go on over loads."""
        present = EngineMetrics() if self._engine is None else self._engine.metrics
        waiting = present.waiting + self._pool.waiting(self)
        return replace(present.after(self._past), waiting=waiting)

    def start(self) -> None:
        """Begin to load the model and return at once; an event loop has to run.

        Raises:
            NoRoomError: it needs more memory than there is for models.
        """
        self._pool.check_room(self.name, self._estimated_bytes)
        self._launching = True
        self.begin_loading()

    async def ready(self) -> ModelInfo:
        """Wait until the model is loaded, which it will be if it is not; see `Engine.ready`."""
        if self.info is not None and self.status.state is EngineState.READY:
            return self.info
        return await self.load(client=None)  # nobody's wish: whoever launches a model waits too

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Chunk]:
        """Stream the answer, once the model is loaded; see `Engine.generate`.

        Raises:
            EngineNotReadyError: the model is being launched, or its process started again.
            NoRoomError: it needs more memory than there is for models.
            ModelError: it cannot be loaded; for a while after a failure, nobody tries.
        """
        if self._launching:
            raise EngineNotReadyError(f"{self.status.reason}; try again later")
        await self._enter(request.keep_alive, request.client)
        measured = False
        try:
            chunks = self._loaded_engine().generate(replace(request, keep_alive=None, client=""))
            async with contextlib.aclosing(chunks):
                async for chunk in chunks:
                    if not measured:  # the context may have grown for the prompt
                        measured = True
                        self._measure()
                        self._pool.reschedule()
                    yield chunk
        finally:
            self.release(request.client)  # synchronous, as clean-up in a generator has to be

    async def aclose(self) -> None:
        """End all requests, those that wait too, and the engine; see `Engine.aclose`."""
        if not self._closed:
            self._closed = True
            self._pool.reject(self, EngineClosedError())
            match self.phase:
                case Phase.LOADED:
                    self.begin_unloading("the server is closing")
                case Phase.LOADING:
                    self._abandon()
        while self._task is not None and not self._task.done():
            await asyncio.wait([self._task])

    # ---- Residency --------------------------------------------------------------------------

    @property
    def info(self) -> ModelInfo | None:
        """The model, if it is loaded; see `Residency.info`."""
        return self._info if self.phase is Phase.LOADED else None

    @property
    def memory_bytes(self) -> int:
        """What the model takes; it does until its process has gone."""
        return 0 if self.phase is Phase.ABSENT else self.needed_bytes

    @property
    def expires_seconds(self) -> float:
        """Seconds until it is unloaded; see `Residency.expires_seconds`."""
        if self.phase is not Phase.LOADED:
            return 0.0
        wish = self._wishes.longest()
        return wish.keep_alive if self.leases else max(0.0, wish.expiry - _now())

    async def load(self, keep_alive: float | None = None, client: str | None = "") -> ModelInfo:
        """Wait until the model is loaded; see `Residency.load`."""
        await self._enter(keep_alive, client)
        try:
            return await self._loaded_engine().ready()
        finally:
            self.release(client)

    def unload(self, client: str = "") -> bool:
        """Unload the model as soon as it answers no request; see `Residency.unload`."""
        if self.phase is Phase.LOADED:
            self._wishes.note(client, 0.0, _now())
            self._rest()
        return not self.expires_seconds

    # ---- for the pool -----------------------------------------------------------------------

    def lease(self) -> None:
        """Count a request that the engine answers."""
        assert self.phase is Phase.LOADED
        self._stop_timer()
        self.leases += 1
        self.last_used = next(_uses)

    def release(self, client: str | None = None) -> None:
        """Count one less."""
        assert self.leases
        self.leases -= 1
        self.last_used = next(_uses)
        if client is not None:
            self._wishes.note_answered(client, _now())
        if self.phase is Phase.LOADED:
            self._measure()
            self._rest()
        self._pool.reschedule()

    def begin_loading(self) -> None:
        """Begin to load the model."""
        assert self.phase is Phase.ABSENT
        self._failure = None
        self._change(Phase.LOADING, self._load())

    def begin_unloading(self, why: str) -> None:
        """Begin to unload the model; a request that it still answers ends with an error."""
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

    # ---- requests ---------------------------------------------------------------------------

    async def _enter(self, keep_alive: float | None, client: str | None) -> None:
        """Wait for a lease, which has to be released; refuse a request that could only fail."""
        if self._closed:
            raise EngineClosedError
        self._pool.check_room(self.name, self._estimated_bytes)
        if self._failure is not None and _now() < self._retry_at:
            raise copy_error(self._failure)
        present = self.leases + self._pool.waiting(self)
        if present >= self._max_requests:
            raise QueueFullError(
                f"{present} requests run on {self.name} or wait for it already; try again later"
            )
        await self._pool.enter(self)
        if client is not None:
            self._wishes.note(client, keep_alive, _now())

    def _loaded_engine(self) -> Engine:
        if self._engine is None:
            raise EngineClosedError  # since the lease was taken; nothing else unloads it then
        return self._engine

    # ---- loading and unloading --------------------------------------------------------------

    def _change(self, phase: Phase, work: Coroutine[None, None, None]) -> None:
        self.phase = phase
        self._task = asyncio.create_task(work)

    async def _load(self) -> None:
        self._tell("loading %s", self.name)
        started = _now()
        try:
            self._engine = self._factory()
            self._engine.start()
            info = await self._engine.ready()
        except LLMStreamError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001  (a bug; whoever waits must hear of it)
            _log.exception("a bug kept %s from being loaded", self.name)
            self._fail(EngineError(f"{self.name} could not be loaded: {error!r}"))
        else:
            seconds = _now() - started
            self._tell("loaded %s in %.3f seconds", self.name, seconds)
            self._begin(info, seconds)

    def _tell(self, message: str, *values: object, level: int = logging.INFO) -> None:
        """Log what comes of a load, unless it is a launch, of which whoever launched it tells."""
        if not self._launching:
            _log.log(level, message, *values)

    def _begin(self, info: ModelInfo, seconds: float) -> None:
        """Take requests."""
        self._info = info
        self.phase = Phase.LOADED
        self._wishes.begin(_now())
        self.loads += 1
        self.load_seconds += seconds
        self.last_used = next(_uses)
        self._launching = False
        self._pause = _FIRST_PAUSE
        self._measure()
        self._pool.reschedule()
        self._rest()

    def _fail(self, error: LLMStreamError) -> None:
        """Note why the model cannot be used, for all who wait and who will ask soon."""
        if isinstance(error, InvalidValueError) and not self._launching:
            error = ModelError(f"cannot load {self.name}: {error}")  # no value of the request's
        self._tell("%s cannot be used: %s", self.name, error, level=logging.WARNING)
        self._failure = error
        self._retry_at = _now() + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        self._launching = False
        self._pool.reject(self, error)
        self._change(Phase.UNLOADING, self._close_engine())

    def _abandon(self) -> None:
        """Stop loading."""
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
        status = self._loaded_engine().status
        if status.state is EngineState.FAILED:
            self._fail(EngineError(status.reason))
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
