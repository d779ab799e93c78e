"""Engines without a model for the tests of the pool, and an event loop whose time only jumps."""

import asyncio
import contextlib
import functools
import math
import selectors
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from llmstream_cli.api import (
    Chunk,
    EmbeddingRequest,
    Embeddings,
    EngineMetrics,
    EngineState,
    EngineStatus,
    FinishReason,
    GenerationRequest,
    ModelInfo,
    TokenizeRequest,
    Tokens,
    Usage,
)
from llmstream_cli.engines.pool import EnginePool
from llmstream_cli.engines.pooled_engine import Phase, PooledEngine
from llmstream_cli.errors import EngineClosedError, EngineError, LLMStreamError

KEEP = 300.0
INFO = ModelInfo("fake", "a fake", 1024, 0.0, {})


class PoolEngine:
    """An engine that does each thing when it is told to.

    Attributes:
        loaded: set this, or `load_error`, to let a load end.
        answered: set this to let the answers end.
        closed: set this to let `aclose` end; it is set from the start.
        running: answers that have begun and not ended.
        is_open: it was started, and `aclose` has not ended.
    """

    def __init__(self) -> None:
        self.loaded = asyncio.Event()
        self.load_error: Exception | None = None
        self.answered = asyncio.Event()
        self.closed = asyncio.Event()
        self.closed.set()
        self.running = 0
        self.is_open = False
        self.rss_bytes = 0
        self.generated_tokens = 0
        self.state = EngineState.LOADING

    @property
    def status(self) -> EngineStatus:
        return EngineStatus(self.state, "" if self.state is EngineState.READY else "why")

    @property
    def metrics(self) -> EngineMetrics:
        return EngineMetrics(
            running=self.running, rss_bytes=self.rss_bytes, generated_tokens=self.generated_tokens
        )

    def start(self) -> None:
        assert not self.is_open
        self.is_open = True

    async def ready(self) -> ModelInfo:
        await self.loaded.wait()
        if self.load_error is not None:
            self.state = EngineState.FAILED
            raise self.load_error
        self.state = EngineState.READY
        return INFO

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Chunk]:
        assert (request.keep_alive, request.client) == (None, "")
        assert self.is_open
        if self.state is EngineState.FAILED:
            raise EngineError("why")
        self.running += 1
        try:
            self.generated_tokens += 1
            yield Chunk("a", (1,))
            await self.answered.wait()
            if self.state is EngineState.CLOSED:
                raise EngineClosedError
            yield Chunk("", (), FinishReason.STOP, Usage(1, 1, 0.1, 0.1))
        finally:
            self.running -= 1

    async def count_tokens(self, request: GenerationRequest) -> int:
        assert self.is_open
        self.running += 1
        try:
            await self.answered.wait()
        finally:
            self.running -= 1
        return 5

    async def tokenize(self, request: TokenizeRequest) -> Tokens:
        assert self.is_open
        await self.answered.wait()
        return Tokens((1,), (b"a",))

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        assert (request.keep_alive, request.client) == (None, "")
        assert self.is_open
        self.running += 1
        try:
            await self.answered.wait()
        finally:
            self.running -= 1
        return Embeddings((b"abcd",), 1)

    async def aclose(self) -> None:
        self.state = EngineState.CLOSED
        self.answered.set()
        await self.closed.wait()
        self.is_open = False


@dataclass
class Factory:
    """Makes the engines of one model, and keeps them.

    Attributes:
        automatic: they load, and answer, without being told.
        engines: all that were made; the last one is the present one.
    """

    automatic: bool = True
    rss_bytes: int = 0
    engines: list[PoolEngine] = field(default_factory=list)

    def __call__(self) -> PoolEngine:
        engine = PoolEngine()
        engine.rss_bytes = self.rss_bytes
        if self.automatic:
            engine.loaded.set()
            engine.answered.set()
        self.engines.append(engine)
        return engine

    @property
    def engine(self) -> PoolEngine:
        return self.engines[-1]

    @property
    def is_open(self) -> bool:
        return any(engine.is_open for engine in self.engines)


class Asker:
    """Asks in a task of its own.

    Attributes:
        text: of the answer so far.
        error: that ended it.
        ends: how often it ended.
    """

    def __init__(
        self, engine: PooledEngine, keep_alive: float | None = None, client: str = ""
    ) -> None:
        self.engine = engine
        self.text = ""
        self.error: LLMStreamError | None = None
        self.ends = 0
        self.task = asyncio.get_running_loop().create_task(self._ask(keep_alive, client))

    async def _ask(self, keep_alive: float | None, client: str) -> None:
        request = GenerationRequest(prompt="?", keep_alive=keep_alive, client=client)
        try:
            async with contextlib.aclosing(self.engine.generate(request)) as chunks:
                async for chunk in chunks:
                    self.text += chunk.text
                    self.ends += chunk.finish_reason is not None
        except LLMStreamError as error:
            self.error = error
            self.ends += 1

    @property
    def begun(self) -> bool:
        return bool(self.text)

    @property
    def done(self) -> bool:
        return self.task.done()


async def turns(number: int = 20) -> None:
    """Let everything run that can; nothing here needs more steps than that."""
    for _ in range(number):
        await asyncio.sleep(0)


class _Jumping(selectors.DefaultSelector):
    """Never waits: the time it was to wait for has passed when it returns."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None, "everything waits, and nothing will come"
        self.now += timeout
        return super().select(0)


class _JumpingLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


def jumping_runner() -> asyncio.Runner:
    """Make what runs coroutines in a loop in which hours pass in no time."""
    return asyncio.Runner(loop_factory=_JumpingLoop)


def timeless(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Let an asynchronous test run in such a loop."""

    @functools.wraps(test)
    def wrapped(*arguments: Any, **named: Any) -> None:
        with jumping_runner() as runner:
            runner.run(test(*arguments, **named))

    return wrapped


class Models:
    """A pool with models of one gigabyte each, called a, b, c, …

    Args:
        number: how many.
        room: for how many of them there is memory.
        automatic: they load and answer without being told.
        keep_alive, max_requests: see `PooledEngine`.
    """

    def __init__(
        self,
        number: int = 2,
        room: float = 1,
        *,
        automatic: bool = True,
        keep_alive: float = KEEP,
        max_requests: float = math.inf,
    ) -> None:
        self.pool = EnginePool(room * 1e9)
        self.factories = [Factory(automatic) for _ in range(number)]
        self.members = [
            PooledEngine(
                self.pool,
                name,
                factory,
                needed_bytes=10**9,
                keep_alive=keep_alive,
                max_requests=max_requests,
            )
            for name, factory in zip("abcdefgh", self.factories, strict=False)
        ]

    def __getitem__(self, index: int) -> PooledEngine:
        return self.members[index]

    @property
    def open(self) -> list[int]:
        """Which of them have an engine."""
        return [index for index, factory in enumerate(self.factories) if factory.is_open]

    @property
    def loaded(self) -> list[int]:
        return [i for i, member in enumerate(self.members) if member.phase is Phase.LOADED]


def state(member: PooledEngine) -> EngineState:
    return member.status.state


async def answered(
    member: PooledEngine, keep_alive: float | None = None, client: str = ""
) -> Asker:
    asker = Asker(member, keep_alive, client)
    await asker.task
    await turns()
    return asker
