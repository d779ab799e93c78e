"""Engines that share a memory: who loads when, who gives way, and that nobody is forgotten."""

import asyncio
import logging
import math
from collections.abc import AsyncGenerator

import pytest

from llmstream_cli.api import Chunk, EngineState, GenerationRequest
from llmstream_cli.engines import keep_alive as keep_alive_module
from llmstream_cli.errors import (
    EngineDiedError,
    EngineError,
    EngineNotReadyError,
    InvalidValueError,
    LLMStreamError,
    ModelError,
    QueueFullError,
)
from tests.engines.pool_fakes import (
    INFO,
    KEEP,
    Asker,
    Models,
    answered,
    state,
    timeless,
    turns,
)

# ---- one model ------------------------------------------------------------------------------


@timeless
async def test_a_request_loads_the_model_and_the_time_unloads_it() -> None:
    models = Models(1, automatic=False)
    member, factory = models[0], models.factories[0]
    assert state(member) is EngineState.IDLE
    assert (member.info, member.memory_bytes, models.open) == (None, 0, [])
    asker = Asker(member)
    await turns()
    assert state(member) is EngineState.LOADING
    assert (member.memory_bytes, member.metrics.waiting) == (10**9, 1)
    factory.engine.loaded.set()
    await turns()
    assert state(member) is EngineState.READY
    assert (member.info, asker.begun, asker.done) == (INFO, True, False)
    await asyncio.sleep(2 * KEEP)
    assert (models.open, member.expires_seconds) == ([0], KEEP)  # not before it has answered
    factory.engine.answered.set()
    await asker.task
    await asyncio.sleep(KEEP - 1)
    assert member.expires_seconds == pytest.approx(1, abs=0.01)
    assert models.open == [0]
    await asyncio.sleep(2)
    assert (state(member), models.open) == (EngineState.IDLE, [])
    assert (member.loads, member.unloads, member.memory_bytes) == (1, 1, 0)
    assert asker.ends == 1


@timeless
async def test_to_count_tokens_loads_the_model_and_holds_it_meanwhile() -> None:
    models = Models(1, automatic=False)
    member, factory = models[0], models.factories[0]
    counting = asyncio.ensure_future(member.count_tokens(GenerationRequest(prompt="?")))
    await turns()
    assert state(member) is EngineState.LOADING
    factory.engine.loaded.set()
    await asyncio.sleep(2 * KEEP)
    assert (models.open, member.leases) == ([0], 1)
    factory.engine.answered.set()
    assert await counting == 5
    await asyncio.sleep(KEEP + 1)
    assert (models.open, member.leases) == ([], 0)


@timeless
async def test_a_request_may_say_how_long_its_model_stays() -> None:
    models = Models(1)
    await answered(models[0], keep_alive=0)
    assert models.open == []
    await answered(models[0])
    await answered(models[0], keep_alive=10)
    await asyncio.sleep(9)
    assert models.open == [0]
    await asyncio.sleep(2)
    assert models.open == []
    await answered(models[0], keep_alive=math.inf)
    assert models[0].expires_seconds == math.inf
    await asyncio.sleep(100 * KEEP)
    assert models.open == [0]
    models[0].unload()
    await turns()
    assert models.open == []
    await answered(models[0])  # as the pool was told again
    assert models[0].expires_seconds == KEEP


@timeless
async def test_a_client_lets_go_of_a_model_for_itself_alone() -> None:
    models = Models(1)
    await answered(models[0], client="one")
    await asyncio.sleep(10)
    await answered(models[0], keep_alive=0, client="other")
    assert not models[0].unload("other")
    assert models[0].expires_seconds == KEEP - 10
    assert models.open == [0]
    await answered(models[0], keep_alive=0, client="one")
    assert models.open == []


@timeless
async def test_who_launches_a_model_is_no_client() -> None:
    models = Models(1, keep_alive=math.inf)
    models[0].start()
    await models[0].ready()
    assert models[0].unload("one")
    await turns()
    assert models.open == []


@timeless
@pytest.mark.parametrize("client", ["", "one"])
async def test_whoever_is_answered_later_keeps_the_model(client: str) -> None:
    """Also where clients cannot be told apart."""
    models = Models(1)
    await answered(models[0], keep_alive=0)
    await answered(models[0], client=client)
    assert models[0].expires_seconds == KEEP
    assert models[0].unload(client)
    await turns()
    assert models.open == []


@timeless
async def test_of_too_many_clients_the_first_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keep_alive_module, "_MAX_CLIENTS", 2)
    models = Models(1)
    for client, keep_alive in (("one", math.inf), ("two", 9), ("one", math.inf), ("three", 9)):
        await answered(models[0], keep_alive, client)
    assert models[0].expires_seconds == math.inf


@timeless
async def test_counters_go_on_and_gauges_do_not() -> None:
    models = Models(1)
    await answered(models[0], keep_alive=0)
    await answered(models[0])
    assert models[0].metrics.generated_tokens == 2
    models.factories[0].engine.rss_bytes = 5
    assert models[0].metrics.rss_bytes == 5
    models[0].unload()
    await turns()
    assert models[0].metrics.rss_bytes == 0
    assert models[0].metrics.generated_tokens == 2


@timeless
async def test_a_launched_model_refuses_until_it_is_loaded() -> None:
    models = Models(1, automatic=False)
    models[0].start()
    await turns()
    assert state(models[0]) is EngineState.LOADING
    early = await answered(models[0])
    assert isinstance(early.error, EngineNotReadyError)
    loading = asyncio.create_task(models[0].ready())
    await turns()
    models.factories[0].engine.loaded.set()
    assert await loading == INFO
    models.factories[0].engine.answered.set()
    assert (await answered(models[0])).error is None
    await asyncio.sleep(KEEP + 1)
    assert models.open == []
    models.factories[0].automatic = True
    assert (await answered(models[0])).error is None  # from now on, requests wait


@timeless
async def test_a_launched_model_is_loaded_though_who_waited_has_gone() -> None:
    models = Models(1, automatic=False)
    models[0].start()
    waiting = asyncio.create_task(models[0].ready())
    await turns()
    waiting.cancel()
    await turns()
    models.factories[0].engine.loaded.set()
    await turns()
    assert state(models[0]) is EngineState.READY
    assert models[0].expires_seconds == KEEP


# ---- failures -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ModelError("damaged"), ModelError),
        (EngineError("no memory"), EngineError),
        (InvalidValueError("ctx_size is 9, and the model …"), ModelError),
        (RuntimeError("a bug"), EngineError),
    ],
)
def test_a_load_that_fails_is_tried_again_after_a_pause(
    error: Exception, expected: type[LLMStreamError]
) -> None:
    @timeless
    async def scenario() -> None:
        models = Models(1, automatic=False)
        askers = [Asker(models[0]) for _ in range(3)]
        for attempt, pause in enumerate((1, 2, 4, 8, 16, 32, 60, 60), start=1):
            await turns()
            engine = models.factories[0].engine
            engine.load_error = error
            engine.loaded.set()
            await turns()
            assert [type(asker.error) for asker in askers] == [expected] * len(askers)
            assert len({id(asker.error) for asker in askers}) == len(askers)
            assert state(models[0]) is EngineState.FAILED
            assert models.open == []
            await asyncio.sleep(pause - 0.5)
            refused = await answered(models[0])
            assert str(refused.error) == str(askers[0].error)
            assert len(models.factories[0].engines) == attempt
            await asyncio.sleep(1)
            askers = [Asker(models[0])]
        await turns()
        models.factories[0].engine.loaded.set()
        models.factories[0].engine.answered.set()
        await askers[0].task
        assert (askers[0].error, models.loaded) == (None, [0])

    scenario()


@timeless
async def test_an_engine_that_has_failed_for_good_makes_room_for_another_try() -> None:
    models = Models(1)
    await answered(models[0])
    models.factories[0].engine.state = EngineState.FAILED
    assert isinstance((await answered(models[0])).error, EngineError)
    assert (state(models[0]), models.open) == (EngineState.FAILED, [])
    await asyncio.sleep(2)
    assert (await answered(models[0])).error is None
    assert len(models.factories[0].engines) == 2


@timeless
async def test_an_answer_that_fails_gives_its_lease_back() -> None:
    models = Models(1, automatic=False)
    asker = Asker(models[0])
    await turns()
    engine = models.factories[0].engine
    engine.loaded.set()
    await turns()
    asker.task.cancel()
    await turns()
    assert (engine.running, models[0].leases) == (0, 0)

    async def dies(request: GenerationRequest) -> AsyncGenerator[Chunk]:
        yield Chunk("a", (1,))
        raise EngineDiedError("died")

    engine.generate = dies  # type: ignore[method-assign]
    assert isinstance((await answered(models[0])).error, EngineDiedError)
    assert (models[0].leases, models.open) == (0, [0])


@timeless
async def test_a_load_that_nobody_waits_for_is_given_up() -> None:
    models = Models(2, automatic=False)
    askers = [Asker(models[0]) for _ in range(2)]
    other = Asker(models[1])
    await turns()
    askers[0].task.cancel()
    await turns()
    assert models.open == [0]
    askers[1].task.cancel()
    await turns()
    assert models.open == [1]  # whose turn it is
    models.factories[1].engine.loaded.set()
    models.factories[1].engine.answered.set()
    await other.task
    assert (other.error, models[0].loads) == (None, 0)
    again = Asker(models[0])  # that it was given up is no failure
    await turns()
    models.factories[0].engine.loaded.set()
    models.factories[0].engine.answered.set()
    await again.task
    assert again.error is None


@timeless
async def test_a_full_queue() -> None:
    models = Models(1, automatic=False, max_requests=3)
    askers = [Asker(models[0]) for _ in range(3)]
    await turns()
    for loaded in (False, True):
        late = await answered(models[0])
        assert isinstance(late.error, QueueFullError), loaded
        assert str(late.error).startswith("3 requests run on "), loaded
        models.factories[0].engine.loaded.set()
        await turns()
    models.factories[0].engine.answered.set()
    await asyncio.gather(*(asker.task for asker in askers))
    assert [asker.error for asker in askers] == [None] * 3


# ---- the end --------------------------------------------------------------------------------


@timeless
async def test_an_engine_that_cannot_be_closed_does_not_keep_its_memory(
    caplog: pytest.LogCaptureFixture,
) -> None:
    models = Models(2)
    await answered(models[0])

    async def fails() -> None:
        raise RuntimeError("a bug")

    models.factories[0].engine.aclose = fails  # type: ignore[method-assign]
    assert (await answered(models[1])).error is None
    assert "a bug kept a from being unloaded well" in caplog.text


@timeless
async def test_loads_and_unloads_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "llmstream_cli.engines")
    models = Models(2)
    await answered(models[0])
    await answered(models[1])
    await asyncio.sleep(KEEP + 1)
    assert [record.getMessage() for record in caplog.records] == [
        "loading a",
        "loaded a in 0.000 seconds",
        "unloading a: b needs its memory",
        "loading b",
        "loaded b in 0.000 seconds",
        "unloading b: nobody has asked for 300 seconds",
    ]
