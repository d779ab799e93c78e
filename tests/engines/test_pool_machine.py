"""The pool under any order of events: its bound holds, nobody is interrupted, nobody forgotten."""

import asyncio
import math
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from llmstream_cli.api import EngineState
from llmstream_cli.engines.pool import EnginePool
from llmstream_cli.engines.pooled_engine import Phase, PooledEngine
from llmstream_cli.errors import EngineError, ModelError
from tests.engines.pool_fakes import Asker, Factory, PoolEngine, jumping_runner, turns

BOUND = 10
SIZES = (4, 4, 6, 10)
KEEP = 100.0

indices = st.integers(0, len(SIZES) - 1)
clients = st.sampled_from(["", "one", "other"])
keep_alives = st.sampled_from([None, None, 0.0, 5.0, math.inf])


class CarefulEngine(PoolEngine):
    """May only be closed when it answers nobody."""

    careful = True

    async def aclose(self) -> None:
        assert not (self.careful and self.running), "an answer was interrupted"
        await super().aclose()


class CarefulFactory(Factory):
    def __call__(self) -> PoolEngine:
        engine = CarefulEngine()
        self.engines.append(engine)
        return engine


class PoolMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.runner = jumping_runner()
        self.factories = [CarefulFactory(automatic=False) for _ in SIZES]
        self.askers: list[Asker] = []
        self.runner.run(self._set_up())

    async def _set_up(self) -> None:
        self.pool = EnginePool(BOUND)
        self.members = [
            PooledEngine(
                self.pool, str(size), factory, needed_bytes=size, keep_alive=KEEP, max_requests=6
            )
            for size, factory in zip(SIZES, self.factories, strict=True)
        ]

    def do(self, *actions: Any) -> None:
        """Run functions in the loop, and let everything run that can."""

        async def act() -> None:
            for action in actions:
                action()
            await turns()

        self.runner.run(act())

    def present(self, index: int) -> PoolEngine | None:
        factory = self.factories[index]
        return factory.engine if factory.is_open else None

    # ---- what can happen ----------------------------------------------------------------------

    @rule(index=indices, keep_alive=keep_alives, number=st.integers(1, 3), client=clients)
    def ask(self, index: int, keep_alive: float | None, number: int, client: str) -> None:
        for _ in range(number):
            self.do(lambda: self.askers.append(Asker(self.members[index], keep_alive, client)))

    @precondition(lambda self: self.askers)
    @rule(data=st.data(), number=st.integers(1, 3))
    def cancel(self, data: st.DataObject, number: int) -> None:
        chosen = [data.draw(st.sampled_from(self.askers)) for _ in range(number)]
        self.do(*(asker.task.cancel for asker in chosen))

    @rule(index=indices, fails=st.sampled_from([False, False, False, True]))
    def end_load(self, index: int, fails: bool) -> None:
        engine = self.present(index)
        if engine is not None and not engine.loaded.is_set():
            engine.load_error = ModelError("damaged") if fails else None
            self.do(engine.loaded.set)

    @rule(index=indices, data=st.data(), delay=st.integers(-3, 3))
    def end_load_about_when_one_is_cancelled(
        self, index: int, data: st.DataObject, delay: int
    ) -> None:
        engine = self.present(index)
        waiting = [one for one in self.askers if one.engine is self.members[index]]
        if engine is None or not waiting:
            return
        asker = data.draw(st.sampled_from(waiting))
        first, second = engine.loaded.set, asker.task.cancel
        if delay < 0:
            first, second = second, first  # type: ignore[assignment]

        async def act() -> None:
            first()
            await turns(abs(delay))
            second()
            await turns()

        self.runner.run(act())

    @rule(index=indices)
    def end_answers(self, index: int) -> None:
        engine = self.present(index)
        if engine is not None:
            self.do(engine.answered.set)

    @rule(index=indices)
    def fail_for_good(self, index: int) -> None:
        engine = self.present(index)
        if engine is not None and engine.state is EngineState.READY:
            engine.state = EngineState.FAILED

    @rule(index=indices, closes=st.booleans())
    def slow_down_closing(self, index: int, closes: bool) -> None:
        for engine in self.factories[index].engines:
            if engine.is_open:
                self.do(engine.closed.set if closes else engine.closed.clear)

    @rule(index=indices)
    def unload(self, index: int) -> None:
        self.do(self.members[index].unload)

    @rule(seconds=st.sampled_from([0.5, 3.0, KEEP, 10 * KEEP]))
    def wait(self, seconds: float) -> None:
        self.runner.run(asyncio.sleep(seconds))
        self.do()

    # ---- what always holds --------------------------------------------------------------------

    @invariant()
    def the_bound_holds(self) -> None:
        sizes = zip(SIZES, self.factories, strict=True)
        assert sum(size for size, factory in sizes if factory.is_open) <= BOUND
        assert all(sum(engine.is_open for engine in f.engines) <= 1 for f in self.factories)

    @invariant()
    def leases_are_those_of_the_answers_that_run(self) -> None:
        for member, factory in zip(self.members, self.factories, strict=True):
            running = sum(
                asker.begun and not asker.done for asker in self.askers if asker.engine is member
            )
            assert member.leases == running
            assert sum(engine.running for engine in factory.engines) == running

    @invariant()
    def a_request_ends_once(self) -> None:
        for asker in self.askers:
            assert asker.ends == (asker.done and not asker.task.cancelled())

    @invariant()
    def who_is_loading_is_waited_for(self) -> None:
        for member in self.members:
            assert member.phase is not Phase.LOADING or self.pool.waiting(member)

    @invariant()
    def who_waits_while_the_model_is_loaded_waits_behind_another(self) -> None:
        waiting = [ticket.member for ticket in self.pool._tickets]
        for member in self.members:
            if member.phase is Phase.LOADED and member in waiting:
                assert waiting[0] is not member

    @invariant()
    def who_is_loaded_and_idle_will_be_unloaded(self) -> None:
        for member in self.members:
            assert (member._timer is not None) == (
                member.phase is Phase.LOADED
                and not member.leases
                and all(wish.keep_alive < math.inf for wish in member._wishes)
            )

    # ---- the end ------------------------------------------------------------------------------

    def teardown(self) -> None:
        async def go_well() -> None:
            for _ in range(200):  # each turn lets whoever is there get further
                for factory in self.factories:
                    factory.automatic = True
                    for engine in factory.engines:
                        engine.closed.set()
                        engine.loaded.set()
                        engine.answered.set()
                await turns()
            assert all(asker.done for asker in self.askers), "a request was forgotten"
            assert not any(member.leases for member in self.members)
            for member in self.members:
                for client in ("", "one", "other"):
                    member.unload(client)
            await turns()
            assert not any(factory.is_open for factory in self.factories)
            last = [Asker(member) for member in self.members]
            await asyncio.sleep(0)
            CarefulEngine.careful = False
            try:
                await self.pool.aclose()
            finally:
                CarefulEngine.careful = True
            await turns()
            assert all(asker.ends == 1 for asker in last)
            assert all(isinstance(one.error, EngineError | ModelError | None) for one in last)
            assert not any(factory.is_open for factory in self.factories)
            assert not any(member._timer for member in self.members)
            assert not self.pool._tickets

        try:
            self.runner.run(go_well())
        finally:
            self.runner.close()


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=50, stateful_step_count=40)
