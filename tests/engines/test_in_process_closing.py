"""The engine in this process: cancellation takes effect within a step, closing at once."""

import asyncio
import contextlib
import gc
import threading
import weakref
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmstream_cli.api import (
    EngineConfig,
    EngineState,
    EngineStatus,
)
from llmstream_cli.core.runner import Runner
from llmstream_cli.core.step_loop import StepLoop
from llmstream_cli.engines.in_process import InProcessEngine
from llmstream_cli.errors import (
    EngineClosedError,
)
from tests.engines.test_in_process import GREEDY, PROMPTS, collect, question, running, text

pytestmark = pytest.mark.slow


@pytest.fixture
async def engine(model_path: Path) -> AsyncGenerator[InProcessEngine]:
    async with running(model_path) as engine:
        yield engine


class Steps:
    """Counts the tokens of each step, and holds the engine's thread before one when asked to."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.held = threading.Event()
        self.go_on = threading.Event()
        self.hold_at: int | None = None

    def count(self, size: int) -> None:
        self.sizes.append(size)
        if len(self.sizes) == self.hold_at:
            self.held.set()
            assert self.go_on.wait(300)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    steps = Steps()
    run = Runner.run

    def counting(self: Runner, step: Any) -> Any:
        steps.count(sum(part.end - part.start for part in step.parts))
        return run(self, step)

    monkeypatch.setattr(Runner, "run", counting)
    return steps


async def test_closing_the_stream_cancels_within_one_step(
    engine: InProcessEngine, steps: Steps
) -> None:
    steps.hold_at = 5
    endless = question(PROMPTS[1], replace(GREEDY, max_tokens=5000))
    async with contextlib.aclosing(engine.generate(endless)) as chunks:
        await anext(chunks)
        await asyncio.to_thread(steps.held.wait)
    # The fifth step is running; whatever follows finds the engine free.
    after = asyncio.ensure_future(
        collect(engine.generate(question(PROMPTS[0], replace(GREEDY, max_tokens=1))))
    )
    while engine._steps._inbox.qsize() < 2:  # noqa: ASYNC110  (the cancellation, and the new request)
        await asyncio.sleep(0.001)
    steps.go_on.set()
    await after
    assert len(steps.sizes) == 6


async def test_a_cancelled_prefill_computes_no_further_part(
    engine: InProcessEngine, steps: Steps
) -> None:
    steps.hold_at = 2
    long = asyncio.ensure_future(collect(engine.generate(question("word " * 3000))))
    await asyncio.to_thread(steps.held.wait)
    long.cancel()
    with pytest.raises(asyncio.CancelledError):
        await long
    steps.go_on.set()
    await collect(engine.generate(question(PROMPTS[0], replace(GREEDY, max_tokens=1))))
    assert len(steps.sizes) == 3


async def test_closing_ends_a_running_answer_and_a_waiting_one(model_path: Path) -> None:
    engine = InProcessEngine(EngineConfig(model_path=str(model_path)))
    engine.start()
    chunks = engine.generate(question(PROMPTS[1], replace(GREEDY, max_tokens=5000)))
    await anext(chunks)
    waiting = asyncio.ensure_future(collect(engine.generate(question(PROMPTS[0]))))
    await asyncio.sleep(0)
    await engine.aclose()
    assert not engine._thread.is_alive()
    with pytest.raises(EngineClosedError):
        await collect(chunks)
    with pytest.raises(EngineClosedError):
        await waiting
    with pytest.raises(EngineClosedError):
        await collect(engine.generate(question(PROMPTS[0])))


async def test_closing_interrupts_a_step(model_path: Path) -> None:
    """One step of this size takes seconds; the abort flag ends it at the next operation."""
    engine = InProcessEngine(EngineConfig(model_path=str(model_path), max_batch_tokens=4096))
    engine.start()
    decoding = threading.Event()
    await engine.ready()
    assert engine._steps._runner is not None
    decode = engine._steps._runner.contexts.current.decode

    finished: list[bool] = []

    def watched(batch: Any) -> None:
        decoding.set()
        decode(batch)
        finished.append(True)

    contexts = engine._steps._runner.contexts
    assert contexts.make_room(8192, wait=True)
    decode = contexts.current.decode
    contexts.current.decode = watched  # type: ignore[method-assign]
    request = asyncio.ensure_future(collect(engine.generate(question("word " * 4000))))
    await asyncio.to_thread(decoding.wait)
    await engine.aclose()
    with pytest.raises(EngineClosedError):
        await request
    assert not finished


async def test_status_from_loading_to_closed(
    model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    load = StepLoop._load

    def slow(self: StepLoop) -> Any:
        go_on.wait()
        return load(self)

    monkeypatch.setattr(StepLoop, "_load", slow)
    async with running(model_path) as engine:
        assert engine.status == EngineStatus(EngineState.LOADING, "the model is being loaded")
        go_on.set()
        await engine.ready()
        assert engine.status == EngineStatus(EngineState.READY)
        await collect(engine.generate(question(PROMPTS[0])))
        assert engine.metrics.generated_tokens == 48
        assert (engine.metrics.restarts, engine.metrics.rss_bytes) == (0, 0)
        assert engine._steps.loaded is not None
        model = weakref.ref(engine._steps.loaded.model)
        await engine.aclose()
    assert engine.status == EngineStatus(EngineState.CLOSED, "the engine has been closed")
    with pytest.raises(EngineClosedError):
        await engine.ready()
    gc.collect()
    assert model() is None  # its memory is released


async def test_closing_does_not_wait_for_a_load(
    model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    load = StepLoop._load

    def slow(self: StepLoop) -> Any:
        go_on.wait()
        return load(self)

    monkeypatch.setattr(StepLoop, "_load", slow)
    engine = InProcessEngine(EngineConfig(model_path=str(model_path)))
    engine.start()
    waiting = asyncio.ensure_future(engine.ready())
    await asyncio.sleep(0)
    await engine.aclose()
    assert engine._thread.is_alive()
    go_on.set()
    await waiting  # it was asked for before the engine was closed
    await asyncio.to_thread(engine._thread.join)


async def test_a_loop_that_has_gone_does_not_stop_the_engine(engine: InProcessEngine) -> None:
    await engine.ready()
    loop = asyncio.new_event_loop()
    loop.close()
    engine._loop = loop
    engine._steps.tell_ready(-1)
    assert text(await collect(engine.generate(question(PROMPTS[0]))))
