"""Engines that share a memory: which of them gives way, and to whom."""

import asyncio
import math

import pytest

from llmstream_cli.engines.pool import EnginePool
from llmstream_cli.engines.pooled_engine import Phase, PooledEngine
from llmstream_cli.errors import (
    NoRoomError,
)
from tests.engines.pool_fakes import (
    INFO,
    Asker,
    Factory,
    Models,
    answered,
    timeless,
    turns,
)


@timeless
async def test_the_least_recently_used_gives_way() -> None:
    models = Models(4, room=2)
    for index in (0, 1, 0, 2):
        await answered(models[index])
    assert models.loaded == [0, 2]
    await answered(models[3])
    assert models.loaded == [2, 3]


@timeless
async def test_one_that_answers_is_the_last_to_give_way() -> None:
    models = Models(3, room=2, keep_alive=math.inf)  # no time unloads the idle one
    models.factories[0].automatic = False
    first = Asker(models[0])
    await turns()
    models.factories[0].engine.loaded.set()
    await answered(models[1])
    await answered(models[2])
    assert (models.loaded, first.begun, first.done) == ([0, 2], True, False)
    models.factories[0].engine.answered.set()
    await first.task


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
