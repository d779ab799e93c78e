"""The pictures of docs/web.md, each of a state of the page.

With SCREENSHOTS=docs/web they are written there; else into a temporary folder.
"""

import contextlib
import json
import os
import re
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import expect

from llmstream_cli.api import EngineMetrics
from llmstream_cli.server.served import ServedModel, ServedModels
from tests.server.fakes import FakeEngine, Served, serving
from tests.web.browser import TIMEOUT, Chat, Tabs
from tests.web.texts import SHOWCASE

pytestmark = pytest.mark.slow
in_session = pytest.mark.asyncio(loop_scope="session")

DOCS = Path(__file__).parents[2] / "docs"
MAX_BYTES = 100_000
DESKTOP: Any = {"width": 1120, "height": 700}
PHONE: Any = {"width": 390, "height": 700}
QUESTION = "Explain recursion to a child, with an example in Python."
CONTEXTS = {"general": "You answer.", "sql": "You write SQL.", "math": "You prove."}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    given = os.environ.get("SCREENSHOTS")
    return Path(given).resolve() if given else tmp_path


def engine(**options: Any) -> FakeEngine:
    pieces = re.findall(r"\S+\s*|\s+", SHOWCASE)
    return FakeEngine(pieces, metrics=EngineMetrics(slots=1), **options)


@contextlib.asynccontextmanager
async def showing(engine: FakeEngine, **settings: Any) -> AsyncGenerator[Served]:
    """Serve an engine that only repeats a text, under a name that says so."""
    async with serving(engine, contexts=CONTEXTS, **settings) as served:
        served.context.models = ServedModels([ServedModel(("scripted",), engine, 0)])
        yield served


async def with_others(chat: Chat) -> None:
    """Fill the list with some conversations of before."""
    titles = ("A haiku about rain", "Words for a wedding speech", "Why is the sky blue?")
    message = {"role": "user", "text": "?"}
    conversations = [{"title": title, "messages": [message]} for title in titles]
    file = {"format": "llmstream conversations", "version": 1, "conversations": conversations}
    content: Any = {"name": "x.json", "mimeType": "text/plain", "buffer": json.dumps(file).encode()}
    await chat.page.set_input_files("#file", content)
    await expect(chat.titles).to_have_count(len(titles))
    await chat.page.evaluate("location.hash = ''")


async def take(chat: Chat, folder: Path, name: str) -> None:
    await chat.page.mouse.move(0, 0)
    path = folder / f"{name}.png"
    await chat.page.screenshot(path=path, animations="disabled", caret="hide")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size < MAX_BYTES
    assert not await chat.page.evaluate("document.documentElement.scrollWidth > innerWidth")


@in_session
async def test_a_conversation(tabs: Tabs, folder: Path) -> None:
    async with showing(engine(pause=0.002)) as served:
        chat = await tabs.open(served.url, viewport=DESKTOP)
        await with_others(chat)
        await take(chat, folder, "welcome")
        await chat.ask(QUESTION)
        await chat.page.locator("#log").evaluate("one => one.scrollTo(0, 0)")
        await take(chat, folder, "conversation")
        await chat.button("Edit").click()
        await take(chat, folder, "edit")
        await chat.page.keyboard.press("Escape")
        await chat.page.click("#settings-open")
        await chat.page.get_by_label("Temperature", exact=True).fill("0.7")
        await take(chat, folder, "settings")


@in_session
async def test_an_answer_on_its_way_in_the_dark(tabs: Tabs, folder: Path) -> None:
    running = engine(pause=0.05)
    async with showing(running) as served:
        chat = await tabs.open(served.url, viewport=DESKTOP, color_scheme="dark")
        await with_others(chat)
        await chat.send(QUESTION)
        await expect(chat.note).to_contain_text("tokens/s", timeout=TIMEOUT)
        await take(chat, folder, "streaming")
        running.pause = 0
        await chat.ended()
        running.metrics = replace(running.metrics, waiting=1)
        running.gate.clear()
        other = await tabs.open(served.url)
        await other.send("?")
        await expect(other.note).to_have_text("Reading the conversation")
        await chat.send("And how does it end?")
        await expect(chat.note).to_contain_text("place 1")
        await take(chat, folder, "queue")
        running.gate.set()
        await other.ended()
        await chat.ended()


@in_session
async def test_a_server_that_has_gone(tabs: Tabs, folder: Path) -> None:
    async with showing(engine(pause=0.05)) as served:
        chat = await tabs.open(served.url, viewport=DESKTOP)
        await chat.send(QUESTION)
        await expect(chat.answer.locator("code").first).to_be_visible(timeout=TIMEOUT)
    await expect(chat.note).to_contain_text("goes on when it is back")
    await expect(chat.banner).to_be_visible()
    await take(chat, folder, "down")


@in_session
async def test_a_key_is_wanted(tabs: Tabs, folder: Path) -> None:
    async with showing(engine(), api_keys=("right",)) as served:
        chat = await tabs.open(served.url, viewport=DESKTOP, color_scheme="dark")
        await expect(chat.page.get_by_label("API key")).to_be_visible()
        await take(chat, folder, "key")


@in_session
async def test_a_phone(tabs: Tabs, folder: Path) -> None:
    async with showing(engine(pause=0.004)) as served:
        chat = await tabs.open(served.url, viewport=PHONE, has_touch=True, is_mobile=True)
        await with_others(chat)
        await chat.ask(QUESTION)
        await take(chat, folder, "phone")
        await chat.page.emulate_media(color_scheme="dark")
        await chat.button("Conversations").tap()
        await take(chat, folder, "phone-list")


def test_the_documentation_shows_each_of_them() -> None:
    shown = re.findall(r"\((web/[\w-]+\.png)\)", (DOCS / "web.md").read_text())
    assert sorted(shown) == sorted(f"web/{path.name}" for path in (DOCS / "web").iterdir())
    taken = re.findall(r'take\(chat, folder, "([\w-]+)"\)', Path(__file__).read_text())
    assert sorted(taken) == sorted(Path(path).stem for path in shown)
