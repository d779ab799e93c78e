"""Engines that share a memory: who loads when, who gives way, and that nobody is forgotten."""

import asyncio
import logging
import math
from collections.abc import AsyncGenerator

import pytest

from llmstream_cli.api import Chunk, EngineState, GenerationRequest
from llmstream_cli.engines.pool import EnginePool
from llmstream_cli.engines.pooled_engine import Phase, PooledEngine
from llmstream_cli.errors import (
    EngineClosedError,
    EngineDiedError,
    EngineError,
    EngineNotReadyError,
    InvalidValueError,
    LLMStreamError,
    ModelError,
    NoRoomError,
    QueueFullError,
)
from tests.engines.pool_fakes import INFO, Asker, Factory, timeless, turns

KEEP = 300.0


class Models:
    """A pool with models of one gigabyte each, called a, b, c, …

    Args:
        number: how many.
        room: for how many of them there is memory.
        automatic: they load and answer without being told.
        keep_alive, max_requests: see `EnginePool.add`.
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
    assert member.expires_seconds == KEEP  # not before it has answered
    await asyncio.sleep(2 * KEEP)
    assert models.open == [0]
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
async def test_each_request_begins_the_time_anew() -> None:
    models = Models(1)
    for _ in range(5):
        await answered(models[0])
        await asyncio.sleep(KEEP - 1)
    assert (models.open, models[0].loads) == ([0], 1)
    assert await models[0].ready() == INFO  # to look does not
    await asyncio.sleep(2)
    assert models.open == []
    await models[0].load()
    await asyncio.sleep(KEEP - 1)
    await models[0].load()  # to ask for the model alone does
    await asyncio.sleep(KEEP - 1)
    assert (models.open, models[0].loads) == ([0], 2)


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
async def test_to_load_alone_may_say_it_too() -> None:
    models = Models(1, keep_alive=0)
    await models[0].load(keep_alive=10)
    await asyncio.sleep(9)
    assert models.open == [0]
    await asyncio.sleep(2)
    assert models.open == []


@timeless
async def test_unloading_waits_for_the_answers() -> None:
    models = Models(1, automatic=False)
    asker = Asker(models[0])
    await turns()
    models.factories[0].engine.loaded.set()
    await turns()
    models[0].unload()
    await turns()
    assert (asker.begun, models.open) == (True, [0])
    models.factories[0].engine.answered.set()
    await asker.task
    await turns()
    assert (asker.error, models.open) == (None, [])


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
async def test_a_request_that_is_cancelled_at_once_leaves_nothing() -> None:
    models = Models(1, automatic=False)
    asker = Asker(models[0])
    await asyncio.sleep(0)
    asker.task.cancel()
    await turns()
    assert (models.open, models[0].phase, models[0].leases) == ([], Phase.ABSENT, 0)


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


# ---- several models -------------------------------------------------------------------------


@timeless
async def test_the_least_recently_used_gives_way() -> None:
    models = Models(4, room=2)
    for index in (0, 1, 0, 2):
        await answered(models[index])
    assert models.loaded == [0, 2]
    await answered(models[3])
    assert models.loaded == [2, 3]


@timeless
async def test_what_fits_beside_the_others_unloads_none() -> None:
    models = Models(3, room=3)
    for index in (0, 1, 2, 0):
        await answered(models[index])
    assert models.loaded == [0, 1, 2]
    assert [member.loads for member in models.members] == [1, 1, 1]


@timeless
async def test_no_more_are_unloaded_than_have_to_be() -> None:
    pool = EnginePool(10)
    sizes = (2, 6, 2, 5)
    factories = [Factory() for _ in sizes]
    members = [
        PooledEngine(pool, "m", f, needed_bytes=n) for f, n in zip(factories, sizes, strict=True)
    ]
    for member in members:
        await answered(member)
    # For the last, the first two of 2 and 6 had to be considered, and 6 was enough.
    assert [member.phase is Phase.LOADED for member in members] == [True, False, True, True]


@timeless
async def test_memory_that_is_about_to_be_free_counts_as_free() -> None:
    models = Models(3, room=2)
    await answered(models[0])
    await answered(models[1])
    models.factories[0].engine.closed.clear()
    wanted = Asker(models[2])
    await turns()
    assert await models[1].load() == INFO  # calls for another look at who has to give way
    await turns()
    assert models.loaded == [1]
    models.factories[0].engine.closed.set()
    await wanted.task
    assert models.loaded == [1, 2]


@timeless
async def test_a_running_answer_is_never_interrupted() -> None:
    models = Models(2, automatic=False)
    first, second = Asker(models[0]), Asker(models[1])
    await turns()
    models.factories[0].engine.loaded.set()
    await turns()
    assert (first.begun, second.begun, models.open) == (True, False, [0])
    assert state(models[1]) is EngineState.IDLE
    assert "memory that other models hold" in models[1].status.reason
    models.factories[0].engine.closed.clear()
    models.factories[0].engine.answered.set()
    await first.task
    await turns()
    assert (first.error, models.open) == (None, [0])  # its process has not gone
    models.factories[0].engine.closed.set()
    await turns()
    assert models.open == [1]
    models.factories[1].engine.loaded.set()
    models.factories[1].engine.answered.set()
    await second.task
    assert second.error is None


@timeless
async def test_a_stream_of_requests_for_one_model_does_not_starve_another() -> None:
    models = Models(3, automatic=False)

    async def ask_for_ever() -> None:
        while True:
            await Asker(models[0]).task

    streams = [asyncio.create_task(ask_for_ever()) for _ in range(4)]
    await turns()
    models.factories[0].engine.loaded.set()
    await turns()
    for factory in models.factories:
        factory.automatic = True
    waiting = [Asker(models[1]), Asker(models[2]), Asker(models[1])]
    models.factories[0].engine.answered.set()
    await asyncio.gather(*(asker.task for asker in waiting))
    assert [asker.error for asker in waiting] == [None] * 3
    assert models[1].loads == 1  # both of its requests began with the same load
    await turns()
    assert models[0].loads >= 2  # and the stream goes on
    for stream in streams:
        stream.cancel()
    await turns()


@timeless
async def test_small_models_do_not_overtake_a_large_one() -> None:
    pool = EnginePool(3)
    factories = [Factory(automatic=False) for _ in range(3)]
    running, large, small = (
        PooledEngine(pool, "m", factory, needed_bytes=size)
        for factory, size in zip(factories, (2, 3, 1), strict=True)
    )
    askers = [Asker(running)]
    await turns()
    factories[0].engine.loaded.set()
    askers += [Asker(large), Asker(small)]
    await turns()
    assert small.phase is Phase.ABSENT  # though it would fit
    for factory in factories:
        factory.automatic = True
    factories[0].engine.answered.set()
    await asyncio.wait([asker.task for asker in askers[1:]], return_when=asyncio.FIRST_COMPLETED)
    assert [asker.done for asker in askers] == [True, True, False]
    await askers[2].task


@timeless
async def test_models_load_in_the_order_in_which_they_were_asked_for() -> None:
    models = Models(4)
    order: list[int] = []

    async def ask(index: int) -> None:
        await Asker(models[index]).task
        order.append(index)

    await asyncio.gather(*(ask(index) for index in (2, 0, 3, 1, 0, 2)))
    assert order == [2, 2, 0, 0, 3, 1]


@timeless
async def test_who_no_longer_needs_memory_frees_who_gave_way() -> None:
    models = Models(2, automatic=False)
    running = Asker(models[0])
    await turns()
    models.factories[0].engine.loaded.set()
    await turns()
    wanted = Asker(models[1])
    await turns()
    behind = Asker(models[0])
    await turns()
    assert (running.begun, behind.begun) == (True, False)  # it gives way already
    wanted.task.cancel()
    await turns()
    assert behind.begun
    assert models[0].loads == 1


@timeless
async def test_a_model_that_cannot_fit_is_refused_with_both_numbers() -> None:
    pool = EnginePool(2e9)
    member = PooledEngine(pool, "large", Factory(), needed_bytes=4_370_000_000)
    with pytest.raises(NoRoomError, match=r"large needs 4\.37 GB .* may take 2\.00 GB"):
        member.start()
    assert isinstance((await answered(member)).error, NoRoomError)
    with pytest.raises(NoRoomError):
        await member.load()


@timeless
async def test_what_a_process_takes_counts_from_then_on() -> None:
    models = Models(3, room=3)
    models.factories[0].rss_bytes = 2_500_000_000
    await answered(models[0])
    assert models[0].memory_bytes == 2_500_000_000
    await answered(models[1])
    assert models.loaded == [1]
    await answered(models[2])
    assert models.loaded == [1, 2]
    await answered(models[0])
    assert models.loaded == [0]


@timeless
async def test_one_that_grows_while_it_answers_pushes_idle_ones_out() -> None:
    models = Models(3, room=3)
    for index in (1, 2, 0):
        await answered(models[index])
    models.factories[0].engine.rss_bytes = 2_000_000_000
    await answered(models[0])
    assert models.loaded == [0, 2]


@timeless
async def test_one_that_takes_more_than_there_is_still_answers() -> None:
    models = Models(2)
    models.factories[0].rss_bytes = 2_000_000_000
    for index in (0, 1, 0, 1):
        assert (await answered(models[index])).error is None
        assert len(models.loaded) <= 1


# ---- the end --------------------------------------------------------------------------------


@timeless
async def test_closing_ends_all_requests_and_all_engines() -> None:
    models = Models(3, room=2, automatic=False)
    running, loading, waiting = (Asker(member) for member in models.members)
    await turns()
    models.factories[0].engine.loaded.set()
    await turns()
    assert (running.begun, models.open) == (True, [0, 1])
    await models.pool.aclose()
    await turns()
    assert models.open == []
    for asker in (running, loading, waiting):
        assert (asker.ends, type(asker.error)) == (1, EngineClosedError)
    for member in models.members:
        assert state(member) is EngineState.CLOSED
        assert isinstance((await answered(member)).error, EngineClosedError)
        await member.aclose()


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
