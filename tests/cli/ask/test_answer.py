"""What has come of an answer, at any time."""

import time

import pytest

from llmstream_cli.api import Chunk, FinishReason, GenerationRequest, Usage
from llmstream_cli.cli.ask.answer import Answer, receive
from llmstream_cli.errors import EngineDiedError
from llmstream_cli.prompts.messages import Message
from tests.server.fakes import FakeEngine

REQUEST = GenerationRequest((Message("user", "hi"),))


async def test_every_chunk_is_shown_and_kept() -> None:
    answer, shown = Answer(time.perf_counter()), list[str]()
    await receive(FakeEngine(), REQUEST, answer, lambda chunk: shown.append(chunk.text))
    assert shown == ["one ", "two ", "three", ""]
    assert answer.text == "one two three"
    assert answer.finish_reason is FinishReason.STOP
    assert answer.usage == Usage(7, 3, 0.1, 0.1, 3)


async def test_what_came_before_a_failure_is_kept() -> None:
    engine, answer = FakeEngine(error=EngineDiedError("gone")), Answer(time.perf_counter())
    with pytest.raises(EngineDiedError):
        await receive(engine, REQUEST, answer, lambda _: None)
    assert (answer.text, answer.finish_reason, answer.usage) == ("one two three", None, None)


async def test_what_cannot_be_shown_is_kept_and_cancelled() -> None:
    def show(chunk: Chunk) -> None:
        raise BrokenPipeError

    engine, answer = FakeEngine(), Answer(time.perf_counter())
    with pytest.raises(BrokenPipeError):
        await receive(engine, REQUEST, answer, show)
    assert (answer.text, engine.running) == ("one ", 0)


@pytest.mark.parametrize(
    "chunk", [Chunk("", (7,)), Chunk("text"), Chunk("", reasoning="thought")], ids=str
)
def test_the_first_token_is_whatever_comes_of_it_first(chunk: Chunk) -> None:
    answer = Answer(time.perf_counter() - 5)
    answer.add(Chunk(""))
    assert [answer.first_token_seconds] == [None]
    answer.add(chunk)
    first: float | None = answer.first_token_seconds
    assert (first or 0) >= 5
    answer.add(chunk)
    assert answer.first_token_seconds == first


def test_reasoning_is_apart_from_the_answer() -> None:
    answer = Answer(0.0)
    answer.add(Chunk("", reasoning="hm, "))
    answer.add(Chunk("yes", reasoning="well"))
    assert (answer.reasoning, answer.text) == ("hm, well", "yes")
