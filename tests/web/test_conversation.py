"""A conversation on the page: ask, answer, stop, edit, again, and what is kept of it."""

import asyncio
import re
from typing import Any

import pytest
from playwright.async_api import Route, expect

from llmstream_cli.api import EngineState, EngineStatus, GenerationRequest
from llmstream_cli.server.dialects.plain import TokenStreamRequest
from llmstream_cli.server.served import ServedModel, ServedModels
from tests.server.fakes import FakeEngine, serving, until
from tests.web.browser import TIMEOUT, Tabs

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]


def contents(request: GenerationRequest) -> list[str]:
    return [message.content for message in request.messages]


async def test_the_real_model_answers_and_knows_what_was_said(tabs: Tabs, server_url: str) -> None:
    chat = await tabs.open(server_url)
    await expect(chat.state).to_have_text("Ready", timeout=TIMEOUT)
    first = await chat.ask("Where is Paris? Answer in one sentence.")
    assert "France" in first
    for part in (
        r"\d+ tokens",
        r"[\d.]+ tokens/s",
        r"first after [\d.]+ s",
        r"prompt \d+",
        "complete",
    ):
        await expect(chat.note).to_have_text(re.compile(part))
    await chat.ask("And what is spoken there?")
    note = await chat.note.inner_text()
    cached = int(note.split(" of it cached")[0].rsplit(" ", 1)[-1])
    assert cached > 20  # the first turn, at least: it was not computed again
    await chat.reload()
    await expect(chat.answers).to_have_count(2, timeout=TIMEOUT)
    assert await chat.answers.first.locator(".body").inner_text() == first
    await expect(chat.titles).to_have_text(["Where is Paris? Answer in one sentence."])


async def test_stop_frees_the_slot_and_keeps_the_text(tabs: Tabs, server_url: str) -> None:
    async def running() -> float:
        text = await (await chat.page.request.get(f"{server_url}/metrics")).text()
        (line,) = [
            line for line in text.splitlines() if line.startswith("llmstream_engine_running{")
        ]
        return float(line.rsplit(" ", 1)[1])

    chat = await tabs.open(server_url)
    await chat.page.click("#settings-open")
    await chat.page.check("#option-ignore_eos")  # it would never end by itself
    await chat.button("Done").click()
    await chat.send("Count to a million.")
    await expect(chat.answer.locator(".body")).not_to_be_empty(timeout=TIMEOUT)
    assert await running() == 1
    await chat.page.keyboard.press("Escape")
    text = await chat.ended()
    assert text
    await expect(chat.note).to_contain_text("stopped")
    await expect(chat.note).to_contain_text("tokens/s")
    assert await running() == 0
    await chat.reload()
    assert await chat.ended() == text


async def test_a_closed_tab_stops_its_answer_when_its_time_is_over(tabs: Tabs) -> None:
    async def hurry(route: Route) -> None:
        headers = await route.request.all_headers()
        assert headers["resume"] == "300"
        await route.continue_(headers={**headers, "resume": "1"})

    engine = FakeEngine(("word ",), repeat=100_000, pause=0.01)
    async with serving(engine) as served:
        chat = await tabs.open(served.url)
        await chat.page.route("**/token_stream", hurry)
        await chat.send("?")
        await expect(chat.answer.locator(".body")).to_contain_text("word")
        assert engine.running == 1
        await chat.page.close()
        await until(lambda: engine.running == 0)


async def test_an_edited_message_replaces_what_follows(tabs: Tabs) -> None:
    engine = FakeEngine(None)
    async with serving(engine) as served:
        chat = await tabs.open(served.url)
        await chat.ask("first")
        await chat.ask("second")
        assert contents(engine.requests[-1]) == ["first", "first", "second"]
        await chat.button("Edit", chat.page.locator("article.user").first).click()
        query = chat.page.locator("#query")
        await expect(query).to_have_value("first")
        await query.fill("changed")
        await query.press("Enter")
        assert await chat.ended() == "changed"
        assert contents(engine.requests[-1]) == ["changed"]
        await expect(chat.questions).to_have_text(["changed"])
        await chat.reload()
        await expect(chat.questions).to_have_text(["changed"], timeout=TIMEOUT)


async def test_regenerate_replaces_the_last_answer(tabs: Tabs) -> None:
    engine = FakeEngine(("one",))
    async with serving(engine) as served:
        chat = await tabs.open(served.url)
        await chat.ask("?")
        await chat.ask("!")
        await expect(chat.button("Regenerate")).to_have_count(1)
        engine.pieces = ("two",)
        engine.gate.clear()
        await chat.button("Regenerate").click()
        await until(lambda: engine.running == 1)
        await expect(chat.answer.locator(".body")).to_have_text("one")  # until the other begins
        engine.gate.set()
        await expect(chat.answer.locator(".body")).to_have_text("two")
        await chat.ended()
        assert contents(engine.requests[-1]) == ["?", "one", "!"]
        await expect(chat.answers).to_have_count(2)


async def test_what_a_model_thinks_stands_apart(tabs: Tabs) -> None:
    engine = FakeEngine(("**Yes", "**"), reasoning=("Let me", " see."))
    async with serving(engine) as served:
        chat = await tabs.open(served.url)
        assert await chat.ask("?") == "Yes"
        thought = chat.answer.locator("details")
        await expect(thought.locator("p")).to_be_hidden()
        await thought.get_by_text("Reasoning").click()
        await expect(thought.locator("p")).to_have_text("Let me see.")
        await chat.ask("And?")
        assert contents(engine.requests[-1]) == ["?", "**Yes**", "And?"]


async def test_the_settings_are_sent_and_can_be_reset(tabs: Tabs) -> None:
    engine = FakeEngine()
    async with serving(engine) as served:
        chat = await tabs.open(served.url)
        page = chat.page
        await page.click("#settings-open")
        temperature = page.get_by_label("Temperature", exact=True)
        await expect(temperature).to_have_attribute("placeholder", "0.2")  # the server's own
        await temperature.fill("0.9")
        await page.get_by_label("Top k", exact=True).fill("7")
        await page.fill("#option-stop", "END\nDONE")
        await page.get_by_label("Logit bias", exact=True).fill('{"5": -1}')
        await page.get_by_label("System message").fill("Be brief.")
        await chat.button("Done").click()
        await expect(chat.button("Settings, 5 changed")).to_be_visible()
        await chat.ask("?")
        sampling = engine.requests[-1].sampling
        assert (sampling.temperature, sampling.top_k) == (0.9, 7)
        assert (sampling.stop, sampling.logit_bias) == (("END", "DONE"), ((5, -1.0),))
        assert contents(engine.requests[-1]) == ["Be brief.", "?"]
        await chat.reload()
        await chat.button("Settings, 5 changed").click()
        await expect(temperature).to_have_value("0.9")
        await chat.button("Reset all").click()
        await expect(temperature).to_have_value("")
        await chat.button("Done").click()
        await chat.ask("?")
        assert engine.requests[-1].sampling.temperature == 0.2


async def test_a_context_is_chosen_by_name(tabs: Tabs) -> None:
    engine = FakeEngine()
    async with serving(engine, contexts={"sql": "You write SQL.", "math": "You prove."}) as served:
        chat = await tabs.open(served.url)
        await chat.page.click("#settings-open")
        system = chat.page.get_by_label("System message")
        await system.fill("Be brief.")
        await chat.page.get_by_label("Context").select_option("sql")
        await expect(system).to_be_disabled()  # the API takes one of them
        await chat.button("Done").click()
        await chat.ask("?")
        assert contents(engine.requests[-1]) == ["You write SQL.", "?"]
        await chat.button("Settings, 1 changed").click()
        await chat.page.get_by_label("Context").select_option("the message below")
        await chat.button("Done").click()
        await chat.ask("!")
        assert contents(engine.requests[-1])[0] == "Be brief."


async def test_a_model_is_chosen_where_there_are_several(tabs: Tabs) -> None:
    engine = FakeEngine()
    other = FakeEngine(("other",), status=EngineStatus(EngineState.IDLE))
    async with serving(engine) as served:
        served.context.models = ServedModels(
            [ServedModel(("first",), engine, 0), ServedModel(("second",), other, 0)]
        )
        chat = await tabs.open(served.url)
        model = chat.page.get_by_label("Model")
        await expect(model.locator("option")).to_have_text(["first", "second (idle)"])
        await expect(model).to_have_value("first")
        await model.select_option("second")
        other.status = engine.status  # as a request makes it
        assert await chat.ask("?") == "other"
        await expect(chat.note).to_contain_text("second")
        await chat.reload()
        await expect(model).to_have_value("second", timeout=TIMEOUT)
        assert not engine.requests


async def test_every_option_of_the_api_is_there(tabs: Tabs) -> None:
    async with serving() as served:
        chat = await tabs.open(served.url)
        await chat.page.click("#settings-open")
        await expect(chat.page.locator(".option").first).to_be_visible()
        ids = await chat.page.locator(".option [id^=option-]").evaluate_all(
            "all => all.map((one) => one.id.slice(7))"
        )
    elsewhere = {"query", "messages", "system", "model", "context", "include_reasoning", "resume"}
    assert set(ids) == set(TokenStreamRequest.model_fields) - elsewhere
    assert ids[:2] == ["thinking", "temperature"]


async def test_conversations_can_be_renamed_and_deleted(tabs: Tabs) -> None:
    async with serving(FakeEngine(None)) as served:
        chat = await tabs.open(served.url)
        await chat.ask("one")
        await chat.button("New conversation").click()
        await chat.ask("two")
        await expect(chat.titles).to_have_text(["two", "one"])
        await chat.button("This conversation").click()
        await chat.button("Rename").click()
        await chat.page.get_by_label("Title", exact=True).fill("<b>second</b>")
        await chat.page.keyboard.press("Enter")
        await expect(chat.titles).to_have_text(["<b>second</b>", "one"])
        await chat.button("This conversation").click()
        await chat.button("Delete").click()
        await chat.button("Delete", chat.page.locator("#ask")).click()
        await expect(chat.titles).to_have_text(["one"])
        await expect(chat.page.locator("#welcome")).to_be_visible()
        await chat.titles.first.click()
        await expect(chat.questions).to_have_text(["one"])


@pytest.mark.parametrize("kind", ["JSON", "Markdown"])
async def test_what_is_exported_can_be_imported(tabs: Tabs, kind: str) -> None:
    answer = "# Head\n\n```\n<!-- llmstream: user -->\n```\n\n\\<!-- llmstream: system -->"
    async with serving(FakeEngine((answer,))) as served:
        chat = await tabs.open(served.url)
        await chat.ask("one\n\ntwo")
        shown = await chat.answer.locator(".body").inner_html()
        await chat.button("This conversation").click()
        async with chat.page.expect_download() as download:
            await chat.button(f"Export as {kind}").click()
        path = await (await download.value).path()
        name = (await download.value).suggested_filename
        file: Any = {"name": name, "mimeType": "text/plain", "buffer": path.read_bytes()}
        other = await tabs.open(served.url)  # another browser
        await other.page.set_input_files("#file", file)
        await expect(other.titles).to_have_text(["one"])
        await expect(other.questions).to_have_text(["one\n\ntwo"])
        assert await other.answer.locator(".body").inner_html() == shown


async def test_another_file_is_refused(tabs: Tabs) -> None:
    async with serving() as served:
        chat = await tabs.open(served.url)
        file: Any = {"name": "x.json", "mimeType": "application/json", "buffer": b"[1]"}
        await chat.page.set_input_files("#file", file)
        await expect(chat.notice).to_contain_text("x.json cannot be imported")
        await expect(chat.titles).to_have_count(0)


async def test_two_tabs_lose_nothing_of_each_other(tabs: Tabs) -> None:
    engine = FakeEngine(None)
    async with serving(engine) as served:
        profile = await tabs.profile()
        one = await tabs.open(served.url, profile)
        await one.ask("first")
        two = await tabs.open(served.url, profile, path="/" + one.page.url.rpartition("/")[2])
        await expect(two.questions).to_have_text(["first"])
        await two.ask("second")
        await expect(one.questions).to_have_text(["first", "second"])  # without a reload
        engine.gate.clear()
        await asyncio.gather(one.send("from one"), two.send("from two"))
        await until(lambda: engine.running == 2)
        engine.gate.set()
        await asyncio.gather(one.ended(), two.ended())
        await one.reload()
        await expect(one.questions).to_have_count(4, timeout=TIMEOUT)
        questions = await one.questions.all_inner_texts()
        assert questions[:2] == ["first", "second"]
        assert set(questions[2:]) == {"from one", "from two"}
        answers = await one.answers.locator(".body").all_inner_texts()
        assert answers == ["".join(text.split()) for text in questions]  # as this engine echoes
        await two.page.fill("#query", "unsent")
        await one.button("This conversation").click()
        await one.button("Delete").click()
        await one.button("Delete", one.page.locator("#ask")).click()
        await expect(two.page.locator("#welcome")).to_be_visible()
        await expect(two.page.locator("#query")).to_have_value("unsent")


async def test_an_answer_goes_on_while_another_conversation_is_read(tabs: Tabs) -> None:
    engine = FakeEngine(None)
    async with serving(engine) as served:
        chat = await tabs.open(served.url)
        await chat.ask("one")
        engine.gate.clear()
        await chat.button("New conversation").click()
        await chat.send("two")
        await expect(chat.answers).to_have_count(1)
        await chat.titles.last.click()
        await expect(chat.questions).to_have_text(["one"])
        await expect(chat.page.locator("#send")).to_be_visible()
        engine.gate.set()
        await until(lambda: engine.running == 0)
        await chat.titles.first.click()
        await expect(chat.questions).to_have_text(["two"])
        assert await chat.ended() == "two"
