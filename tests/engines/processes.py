"""Engines in processes of their own, for tests."""

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmstream_cli.api import Chunk, Engine, EngineConfig, EngineState, GenerationRequest
from llmstream_cli.engines.supervised import SupervisedEngine
from llmstream_cli.errors import LLMStreamError
from tests.engines.test_in_process import GREEDY

ENDLESS = replace(GREEDY, max_tokens=5000)
SHORT = replace(GREEDY, max_tokens=8)

# One thread: with more, each step waits for all of them on a busy machine.
ONE_THREAD: dict[str, Any] = {"threads": 1, "ctx_size": 1024}


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(300):
        while not condition():  # noqa: ASYNC110  (other processes take part)
            await asyncio.sleep(0.005)


def pid(engine: SupervisedEngine) -> int:
    assert engine._child is not None
    return engine._child.pid


def state(engine: Engine) -> EngineState:
    return engine.status.state


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@contextlib.asynccontextmanager
async def running(path: Path, **settings: Any) -> AsyncGenerator[SupervisedEngine]:
    engine = SupervisedEngine(EngineConfig(model_path=str(path), **{**ONE_THREAD, **settings}))
    engine.start()
    process = pid(engine)
    try:
        yield engine
    finally:
        await engine.aclose()
        assert engine.status.state is EngineState.CLOSED
        assert not engine._calls
        assert not is_alive(process)


class Reader:
    """Reads an answer in a task of its own."""

    def __init__(self, engine: Engine, request: GenerationRequest) -> None:
        self.chunks: list[Chunk] = []
        self.error: LLMStreamError | None = None
        self.task = asyncio.ensure_future(self._read(engine, request))

    async def _read(self, engine: Engine, request: GenerationRequest) -> None:
        async with contextlib.aclosing(engine.generate(request)) as chunks:
            try:
                async for chunk in chunks:
                    self.chunks.append(chunk)
            except LLMStreamError as error:
                self.error = error
