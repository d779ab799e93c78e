"""What the page does while its server is busy, loading, locked or away."""

import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import pytest
from playwright.async_api import expect

from llmstream_cli.api import (
    Chunk,
    EngineMetrics,
    EngineState,
    EngineStatus,
    GenerationRequest,
)
from llmstream_cli.errors import (
    ContextLengthError,
    EngineDiedError,
    LLMStreamError,
    QueueFullError,
)
from tests.server.fakes import FakeEngine, fail_with, serving
from tests.web.browser import TIMEOUT, Tabs

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

LOADING = EngineStatus(EngineState.LOADING, "the model is being loaded")
READY = EngineStatus(EngineState.READY)


@dataclass
class FailingAtFirst(FakeEngine):
    """Fails so many requests before it answers.

    Attributes:
        failure: of each of them.
        failures: how many are to come.
    """

    failure: LLMStreamError = QueueFullError("9 requests wait already")  # noqa: RUF009
    failures: int = 1

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Chunk]:
        if self.failures:
            self.failures -= 1
            raise self.failure
        async with contextlib.aclosing(super().generate(request)) as chunks:
            async for chunk in chunks:
                yield chunk


async def test_a_full_queue_is_asked_again_by_itself(tabs: Tabs) -> None:
    async with serving(FailingAtFirst(failures=2)) as served:
        chat = await tabs.open(served.url)
        await chat.send("?")
        await expect(chat.note).to_contain_text("9 requests wait already")
        await expect(chat.note).to_contain_text("Asking again in")
        assert await chat.ended() == "one two three"
        await expect(chat.answer.locator(".error")).to_have_count(0)


async def test_waiting_for_a_full_queue_can_be_stopped(tabs: Tabs) -> None:
    async with serving(FailingAtFirst(failures=1000)) as served:
        chat = await tabs.open(served.url)
        await chat.send("?")
        await expect(chat.note).to_contain_text("Asking again in")
        await chat.button("Stop").click()
        assert await chat.ended() == ""
        await expect(chat.note).to_have_text("stopped")


async def test_the_place_in_the_queue_is_shown(tabs: Tabs) -> None:
    engine = FakeEngine(metrics=EngineMetrics(slots=1, waiting=1))
    engine.gate.clear()
    async with serving(engine) as served:
        first, second = await tabs.open(served.url), await tabs.open(served.url)
        await expect(first.state).to_have_text("Busy, 1 waiting")
        await first.send("?")
        await expect(first.note).to_have_text("Reading the conversation")
        await second.send("?")
        await expect(second.note).to_have_text("Waiting in the queue, place 1")
        engine.gate.set()
        assert await second.ended() == "one two three"


async def test_a_message_waits_until_the_model_is_loaded(tabs: Tabs) -> None:
    engine = FakeEngine(status=LOADING)
    async with serving(engine) as served:
        chat = await tabs.open(served.url)
        await expect(chat.state).to_have_text("Loading")
        await expect(chat.banner).to_contain_text("the model is being loaded")
        await chat.send("?")
        await expect(chat.note).to_contain_text("The message is sent when it is")
        engine.status = READY
        assert await chat.ended() == "one two three"
        await expect(chat.state).to_have_text("Ready")
        await expect(chat.banner).to_be_hidden()


async def test_a_model_that_cannot_be_used_is_no_reason_to_wait(tabs: Tabs) -> None:
    engine = FakeEngine(status=EngineStatus(EngineState.FAILED, "the file is broken"))
    async with serving(engine) as served:
        chat = await tabs.open(served.url)
        await expect(chat.banner).to_contain_text("Failed: the file is broken")
        await chat.send("?")
        await expect(chat.answer.locator(".error")).to_have_text("the file is broken")
        engine.status = READY
        await chat.button("Retry").click()
        await expect(chat.answer.locator(".body")).to_have_text("one two three")
        await expect(chat.answers).to_have_count(1)


async def test_an_error_stands_where_the_answer_would(tabs: Tabs) -> None:
    async with serving(fail_with(ContextLengthError(900, 512))) as served:
        chat = await tabs.open(served.url)
        await chat.ask("?")
        error = chat.answer.locator(".error")
        await expect(error).to_contain_text("maximum context length is 512 tokens")
        await chat.reload()
        await expect(error).to_contain_text("the prompt has 900", timeout=TIMEOUT)


async def test_an_answer_that_breaks_off_keeps_its_text_and_says_why(tabs: Tabs) -> None:
    # A browser may drop what comes at the very moment of the end, so the text comes before it.
    engine = FakeEngine(("one ", "two", ""), pause=0.3, error=EngineDiedError("the engine died"))
    async with serving(engine) as served:
        chat = await tabs.open(served.url)
        assert await chat.ask("?") == "one two"
        await expect(chat.answer.locator(".error")).to_have_text(
            "The answer broke off: the engine died."
        )
        await expect(chat.note).to_contain_text("cut")
        await expect(chat.button("Regenerate")).to_be_visible()


async def test_a_server_that_goes_and_comes_back(tabs: Tabs) -> None:
    engine = FakeEngine(("word ",), repeat=100_000, pause=0.02)
    async with serving(engine) as served:
        port = served.port
        chat = await tabs.open(served.url)
        await chat.send("first")
        await expect(chat.answer.locator(".body")).to_contain_text("word")
    await expect(chat.note).to_contain_text("The answer goes on when it is back")
    await expect(chat.state).to_have_text("Not reachable")
    async with serving(port=port):  # another process, which has no such answer
        text = await chat.ended()
        assert text.startswith("word")
        await expect(chat.answer.locator(".error")).to_contain_text(
            "the connection to the server was lost"
        )
        await expect(chat.state).to_have_text("Ready")
    await expect(chat.state).to_have_text("Not reachable", timeout=TIMEOUT)
    await expect(chat.banner).to_contain_text("The server cannot be reached")
    await chat.send("second")
    await expect(chat.note).to_contain_text("sent when it is back")
    await chat.page.fill("#query", "third, half typed")
    async with serving(FakeEngine(None), port=port):
        assert await chat.ended() == "second"
        await expect(chat.state).to_have_text("Ready")
        await expect(chat.banner).to_be_hidden()
        await expect(chat.page.locator("#query")).to_have_value("third, half typed")
        await expect(chat.questions).to_have_text(["first", "second"])


async def test_a_key_is_asked_for_and_kept_for_the_session(tabs: Tabs) -> None:
    engine = FakeEngine()
    async with serving(engine, api_keys=("right",)) as served:
        profile = await tabs.profile()
        chat = await tabs.open(served.url, profile)
        key = chat.page.get_by_label("API key")
        await expect(chat.page.locator("#ask p")).to_have_text("Whoever started it has one.")
        await key.fill("wrong")
        await key.press("Enter")
        await expect(chat.state).to_have_text("Needs a key")
        await chat.send("?")
        await expect(chat.page.locator("#ask p")).to_contain_text("not one of this server's")
        await key.fill("right")
        await key.press("Enter")
        assert await chat.ended() == "one two three"
        await expect(chat.state).to_have_text("Ready")
        await chat.reload()
        await expect(chat.state).to_have_text("Ready", timeout=TIMEOUT)
        kept = await chat.page.evaluate("JSON.stringify([localStorage, document.cookie])")
        assert "right" not in kept
        other = await tabs.open(served.url, profile)  # another tab is another session
        await expect(other.page.get_by_label("API key")).to_be_visible()


async def test_the_key_can_be_declined(tabs: Tabs) -> None:
    async with serving(api_keys=("right",)) as served:
        chat = await tabs.open(served.url)
        await chat.button("Cancel").click()
        await chat.send("?")
        await chat.button("Cancel").click()
        await expect(chat.answer.locator(".error")).to_contain_text("a key is needed")
        await expect(chat.button("Retry")).to_be_visible()


async def test_a_page_without_a_database_still_talks(tabs: Tabs) -> None:
    async with serving(FakeEngine(None)) as served:
        profile = await tabs.profile()
        await profile.add_init_script(
            "Object.defineProperty(window, 'indexedDB', {get() { throw new Error('blocked'); }})"
        )
        chat = await tabs.open(served.url, profile)
        await expect(chat.notice).to_contain_text("conversations last until it is closed")
        assert await chat.ask("one") == "one"
        await chat.button("New conversation").click()
        assert await chat.ask("two") == "two"
        await chat.titles.last.click()
        await expect(chat.questions).to_have_text(["one"])
