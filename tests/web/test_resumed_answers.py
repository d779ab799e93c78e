"""Answers that go on where the page was reloaded or the connection was lost."""

import pytest
from playwright.async_api import expect

from tests.server.fakes import FakeEngine, serving, until
from tests.web.browser import TIMEOUT, Chat, Tabs
from tests.web.relay import relaying

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

PIECES = ("wörd ", "€ ", "😀 ")


def answering(repeat: int = 40) -> FakeEngine:
    return FakeEngine(PIECES, repeat=repeat, pause=0.03)


async def begin(chat: Chat) -> None:
    await chat.send("?")
    await expect(chat.answer.locator(".body")).to_contain_text("€")


async def is_whole(chat: Chat, repeat: int = 40) -> None:
    assert await chat.ended() == "".join(PIECES * repeat).strip()
    await expect(chat.note).to_contain_text("complete")
    await expect(chat.note).to_contain_text(f"{3 * repeat} tokens")
    await expect(chat.answer.locator(".error")).to_have_count(0)


async def test_a_reload_goes_on_where_the_answer_was(tabs: Tabs) -> None:
    engine = answering()
    async with serving(engine) as served:
        chat = await tabs.open(served.url)
        await begin(chat)
        for _ in range(2):
            await chat.reload()
            await expect(chat.button("Stop")).to_be_visible(timeout=TIMEOUT)
        await is_whole(chat)
        await chat.reload()
        await is_whole(chat)
        assert len(engine.requests) == 1


async def test_an_answer_goes_on_when_its_connection_was_cut_within_characters(tabs: Tabs) -> None:
    engine = answering()
    async with serving(engine) as served, relaying(served.port) as relay:
        chat = await tabs.open(relay.url)
        await begin(chat)
        relay.cuts = 5
        await is_whole(chat)
        assert relay.cuts == 0
        assert len(engine.requests) == 1


async def test_an_answer_waits_until_the_network_is_back(tabs: Tabs) -> None:
    engine = answering()
    async with serving(engine) as served, relaying(served.port) as relay:
        chat = await tabs.open(relay.url)
        await begin(chat)
        relay.lose()
        await expect(chat.note).to_contain_text("The answer goes on when it is back")
        await until(lambda: engine.running == 0)  # the answer has ended meanwhile
        relay.is_lost = False
        await is_whole(chat)
        assert len(engine.requests) == 1


async def test_stop_stops_the_engine(tabs: Tabs) -> None:
    engine = answering(100_000)
    async with serving(engine) as served:
        chat = await tabs.open(served.url)
        for reloads in (0, 1):
            await begin(chat)
            for _ in range(reloads):
                await chat.reload()
            assert engine.running == 1
            await chat.button("Stop").click()
            text = await chat.ended()
            await until(lambda: engine.running == 0)
            await expect(chat.note).to_contain_text("stopped")
        await chat.reload()
        assert await chat.ended() == text
        await expect(chat.note).to_contain_text("stopped")


async def test_an_answer_that_had_come_to_its_end_is_complete(tabs: Tabs) -> None:
    engine = FakeEngine(("one ", "two", ""), pause=1.2)  # so that the page keeps it meanwhile
    async with serving(engine) as served:
        profile = await tabs.profile()
        chat = await tabs.open(served.url, profile)
        await chat.send("?")
        await expect(chat.answer.locator(".body")).to_have_text("one two")
        engine.gate.clear()
        await chat.saved()
        path = chat.page.url.removeprefix(served.url)
        await chat.page.close()
        engine.gate.set()
        await until(lambda: engine.running == 0)
        chat = await tabs.open(served.url, profile, path)
        assert await chat.ended() == "one two"
        await expect(chat.note).to_contain_text("complete")


async def test_an_answer_that_is_no_longer_there_was_cut(tabs: Tabs) -> None:
    async with serving(answering(100_000)) as served:
        profile = await tabs.profile()
        chat = await tabs.open(served.url, profile)
        await begin(chat)
        await chat.saved()
        path = chat.page.url.removeprefix(served.url)
        await chat.page.close()
        await served.context.answers.close()
        chat = await tabs.open(served.url, profile, path)
        await chat.ended()
        await expect(chat.answer.locator(".error")).to_contain_text("The answer broke off")
        await expect(chat.note).to_contain_text("cut")


async def test_another_tab_goes_on_when_the_one_that_read_is_closed(tabs: Tabs) -> None:
    engine = answering()
    async with serving(engine) as served:
        profile = await tabs.profile()
        first = await tabs.open(served.url, profile)
        await begin(first)
        await first.saved()
        second = await tabs.open(served.url, profile, first.page.url.removeprefix(served.url))
        await expect(second.note).to_contain_text("not finished")
        await first.page.close()
        await expect(second.button("Stop")).to_be_visible(timeout=TIMEOUT)
        await is_whole(second)
        assert len(engine.requests) == 1
