"""How far requests have come: the registry on a clock of its own."""

import pytest

from llmstream_cli.api import Chunk, Engine, EngineMetrics, EngineState, EngineStatus, FinishReason
from llmstream_cli.errors import EngineDiedError, InvalidValueError, NotFoundError
from llmstream_cli.server.progress import (
    KEPT_SECONDS,
    MAX_KEPT,
    Progress,
    ProgressRegistry,
    RequestState,
)
from tests.server.scripted import ScriptedEngine, last


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def registry(clock: Clock) -> ProgressRegistry:
    return ProgressRegistry(clock)


def begin(registry: ProgressRegistry, request_id: str, engine: Engine, num: int) -> Progress:
    return registry.begin(request_id, engine, num, lambda _: None)


def engine_with(slots: int) -> ScriptedEngine:
    engine = ScriptedEngine()
    engine.metrics = EngineMetrics(slots=slots)
    return engine


def test_a_request_goes_through_its_states(registry: ProgressRegistry, clock: Clock) -> None:
    engine = engine_with(1)
    progress = begin(registry, "a", engine, 1)
    assert registry.describe("a").state is RequestState.PROMPT
    clock.now += 2
    registry.note_chunk(progress, Chunk("one", (1,)))
    clock.now += 1
    registry.note_chunk(progress, Chunk("two", (2, 3)))
    told = registry.describe("a")
    assert told.state is RequestState.GENERATING
    assert (told.generated_tokens, told.first_token_seconds) == (3, 2)
    assert (told.seconds, told.tokens_per_second) == (3, 2)
    assert (told.prompt_tokens, told.cached_tokens, told.finish_reason) == (None, None, None)
    registry.note_chunk(progress, last(reason=FinishReason.LENGTH))
    registry.end(progress)
    clock.now += 50
    told = registry.describe("a")
    assert told.state is RequestState.ENDED
    assert told.finish_reason is FinishReason.LENGTH
    assert (told.prompt_tokens, told.cached_tokens) == (12, 4)
    assert (told.seconds, told.tokens_per_second) == (3, 2)  # time stands still at the end


def test_the_first_to_come_hold_the_slots(registry: ProgressRegistry) -> None:
    engine, other = engine_with(2), engine_with(1)
    first = begin(registry, "first", engine, 1)
    begin(registry, "elsewhere", other, 1)
    for name in ("second", "third", "fourth"):
        begin(registry, name, engine, 1)
    assert registry.describe("second").state is RequestState.PROMPT
    assert registry.describe("elsewhere").state is RequestState.PROMPT
    assert [registry.describe(name).position for name in ("third", "fourth")] == [1, 2]
    assert registry.describe("third").state is RequestState.QUEUED
    registry.end(first)
    assert registry.describe("third").state is RequestState.PROMPT
    assert registry.describe("fourth").position == 1


def test_each_answer_of_a_request_takes_a_slot(registry: ProgressRegistry) -> None:
    engine = engine_with(4)
    progress = begin(registry, "three", engine, 3)
    begin(registry, "two", engine, 2)
    begin(registry, "last", engine, 1)
    assert registry.describe("last").position == 2
    registry.note_chunk(progress, last())
    assert registry.describe("last").position == 1


def test_an_engine_that_tells_of_no_slots_has_no_queue(registry: ProgressRegistry) -> None:
    for name in ("a", "b"):
        begin(registry, name, engine_with(0), 1)
    assert registry.describe("b").state is RequestState.PROMPT


def test_a_model_that_is_not_ready_is_loading(registry: ProgressRegistry) -> None:
    engine = engine_with(1)
    engine.status = EngineStatus(EngineState.RESTARTING, "it died")
    begin(registry, "a", engine, 1)
    assert registry.describe("a").state is RequestState.LOADING


def test_what_is_ended_early_was_cancelled(registry: ProgressRegistry) -> None:
    progress = begin(registry, "a", engine_with(1), 1)
    registry.note_chunk(progress, Chunk("one", (1,)))
    registry.end(progress)
    registry.end(progress)
    told = registry.describe("a")
    assert told.finish_reason is FinishReason.CANCELLED
    assert (told.prompt_tokens, told.error) == (None, None)


def test_an_error_is_told_unless_it_may_quote_the_request(registry: ProgressRegistry) -> None:
    errors = {"a": EngineDiedError("it died"), "b": InvalidValueError("'secret' is no schema")}
    for name, error in errors.items():
        progress = begin(registry, name, engine_with(1), 1)
        registry.note_error(progress, error)
        registry.end(progress)
    told = registry.describe("a")
    assert (told.state, told.error, told.finish_reason) == (RequestState.ENDED, "it died", None)
    assert "secret" not in registry.describe("b").model_dump_json()


def test_those_that_ended_are_kept_for_some_time(registry: ProgressRegistry, clock: Clock) -> None:
    registry.end(begin(registry, "a", engine_with(1), 1))
    clock.now += KEPT_SECONDS
    assert registry.describe("a").state is RequestState.ENDED
    clock.now += 1
    with pytest.raises(NotFoundError, match="no request 'a' is known"):
        registry.describe("a")


def test_so_many_are_kept_and_all_that_generate(registry: ProgressRegistry, clock: Clock) -> None:
    engine = engine_with(1)
    begin(registry, "runs", engine, 1)
    for number in range(MAX_KEPT + 1):
        registry.end(begin(registry, str(number), engine, 1))
    with pytest.raises(NotFoundError):
        registry.describe("0")
    assert registry.describe("1").state is RequestState.ENDED
    clock.now += KEPT_SECONDS * 10
    assert registry.describe("runs").state is RequestState.PROMPT


def test_the_newest_has_the_id(registry: ProgressRegistry, clock: Clock) -> None:
    engine = engine_with(2)
    old = begin(registry, "a", engine, 1)
    new = begin(registry, "a", engine, 1)
    registry.end(old)
    assert registry.describe("a").state is RequestState.PROMPT
    clock.now += KEPT_SECONDS + 1
    assert registry.describe("a").state is RequestState.PROMPT  # and is not forgotten with the old
    registry.end(new)
    assert registry.describe("a").state is RequestState.ENDED


def test_a_request_that_has_ended_is_kept_without_what_it_held() -> None:
    held: list[object] = []
    registry = ProgressRegistry()
    progress = registry.begin("id", ScriptedEngine([]), 1, held.append)
    registry.end(progress)
    progress.fail(EngineDiedError("late"))
    assert not held
