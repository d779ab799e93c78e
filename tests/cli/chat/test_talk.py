"""A chat's turns, with an engine that is made up."""

from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest

from llmstream_cli.api import Chunk, FinishReason, GenerationRequest, ModelInfo
from llmstream_cli.cli.ask.engine import OpenEngine
from llmstream_cli.cli.ask.options import EngineOptions
from llmstream_cli.cli.chat import talk as talk_module
from llmstream_cli.cli.chat.talk import Talk
from llmstream_cli.errors import (
    EngineDiedError,
    ModelError,
    ModelNotFoundError,
)
from llmstream_cli.prompts.messages import Message
from llmstream_cli.sampling import SamplingParams
from tests.cli.chat.talks import talking
from tests.server.fakes import FakeEngine

ANSWER = "one two three"


def said(talk: Talk) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in talk.conversation.asking("")[:-1]]


def test_a_chat_may_ask_for_reasoning_or_for_none() -> None:
    engine = FakeEngine()
    with talking(engine) as talk:
        talk.ask("first")
        talk.setup = talk.setup._replace(think=False)
        talk.ask("second")
    assert [request.thinking for request in engine.requests] == [None, False]


def test_each_turn_sees_those_before_it(capfd: pytest.CaptureFixture[str]) -> None:
    engine = FakeEngine()
    with talking(engine, system="be brief") as talk:
        talk.ask("first")
        talk.ask("second")
    assert engine.requests[1].messages == (
        Message("system", "be brief"),
        Message("user", "first"),
        Message("assistant", ANSWER),
        Message("user", "second"),
    )
    assert said(talk)[-1] == ("assistant", ANSWER)
    assert capfd.readouterr() == (ANSWER + ANSWER, "\n\n")


def test_answers_to_lines_of_a_pipe_end_in_a_line_break(capfd: pytest.CaptureFixture[str]) -> None:
    with talking(FakeEngine(), typed=False) as talk:
        talk.ask("first")
        talk.ask("second")
    assert capfd.readouterr().out == f"{ANSWER}\n{ANSWER}\n"


def test_a_question_of_which_nothing_came_is_asked_again() -> None:
    engine = FakeEngine(pieces=(), error=EngineDiedError("gone"))
    with talking(engine) as talk:
        with pytest.raises(EngineDiedError):
            talk.ask("first")
        assert said(talk) == []
        engine.pieces, engine.error = ("yes",), None
        talk.retry()
        assert said(talk) == [("user", "first"), ("assistant", "yes")]


def test_retry_draws_with_another_seed() -> None:
    engine = FakeEngine()
    with talking(engine, seed=7) as talk:
        talk.ask("first")
        talk.retry()
        talk.ask("second")
    assert [request.sampling.seed for request in engine.requests] == [7, None, 7]
    assert engine.requests[0].messages == engine.requests[1].messages
    assert len(talk.conversation.turns) == 4


def test_the_old_answer_stays_if_retry_fails() -> None:
    engine = FakeEngine()
    with talking(engine) as talk:
        talk.ask("first")
        before, last = said(talk), talk.last
        engine.pieces, engine.error = (), EngineDiedError("gone")
        with pytest.raises(EngineDiedError):
            talk.retry()
        assert (said(talk), talk.last) == (before, last)


def test_a_new_conversation_keeps_the_system_message() -> None:
    with talking(FakeEngine(), system="be brief") as talk:
        talk.ask("first")
        talk.clear()
        assert said(talk) == [("system", "be brief")]
        assert talk.last is None


def test_sampling_is_what_was_set_over_what_is_advised() -> None:
    engine = FakeEngine()
    with talking(engine, temperature=0.0) as talk:
        talk.ask("first")
    assert engine.requests[0].sampling == SamplingParams(temperature=0.0, top_p=0.5)
    assert "temperature" not in engine.requests[0].unset
    assert "top_p" in engine.requests[0].unset


class Full(FakeEngine):
    """Says that there is room for no more."""

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Chunk]:
        async for chunk in super().generate(request):
            cut = chunk.finish_reason is not None
            yield replace(chunk, finish_reason=FinishReason.LENGTH) if cut else chunk


@pytest.mark.parametrize(("most", "told"), [(None, True), (100, True), (3, False)])
def test_a_full_context_is_told(
    most: int | None, told: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    engine = Full()
    with talking(engine, max_tokens=most) as talk:
        talk.ask("first")
        assert len(talk.conversation.turns) == 2
    assert ("the context is full" in capfd.readouterr().err) is told


def test_another_model_goes_on_with_the_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = FakeEngine(), FakeEngine(pieces=("new",))

    def open_engine(options: EngineOptions, *, verbose: bool) -> OpenEngine:
        if options.model == "none":
            raise ModelNotFoundError("there is no none")
        return OpenEngine(options, new, "new", "")

    monkeypatch.setattr(talk_module, "open_engine", open_engine)
    with talking(old) as talk:
        talk.ask("first")
        with pytest.raises(ModelNotFoundError):
            talk.change_model("none")
        assert (talk.opened.name, old.closed) == ("fake", False)
        talk.change_model("new")
        assert (talk.opened.name, old.closed, new.closed) == ("new", True, False)
        talk.ask("second")
    assert len(new.requests[0].messages) == 3


def test_a_model_that_cannot_be_loaded_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(FakeEngine):
        async def ready(self) -> ModelInfo:
            raise ModelError("it is broken")

    old, broken = FakeEngine(), Broken()
    opened = OpenEngine(EngineOptions(), broken, "broken", "")
    monkeypatch.setattr(talk_module, "open_engine", lambda *_, **__: opened)
    with talking(old) as talk:
        with pytest.raises(ModelError):
            talk.change_model("broken")
        assert (talk.opened.name, old.closed, broken.closed) == ("fake", False, True)
