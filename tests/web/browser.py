"""A page in Chromium, and what its users do with it."""

import re
from typing import Any

from playwright.async_api import BrowserContext, ConsoleMessage, Locator, Page, Request, expect

TIMEOUT = 90_000  # milliseconds; the machines that run this are slow at times

# Answers other than 200 are a part of some tests, and a browser notes each on its console.
_EXPECTED = re.compile("Failed to load resource|net::ERR_|the server responded with a status")


class Chat:
    """One tab with the page.

    Attributes:
        page: the tab.
        errors: of its scripts, and what its policy refused.
        foreign: addresses outside the server that it asked for.
    """

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.errors: list[str] = []
        self.foreign: list[str] = []
        page.set_default_timeout(TIMEOUT)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self._note_message)
        page.on("request", self._note_request)

    def _note_message(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"} and not _EXPECTED.search(message.text):
            self.errors.append(message.text)

    def _note_request(self, request: Request) -> None:
        if not request.url.startswith((self.url, "blob:")):
            self.foreign.append(request.url)

    async def open(self, path: str = "/") -> None:
        await self.page.goto(self.url + path)
        await expect(self.page.locator("#log > *").first).to_be_visible(timeout=TIMEOUT)

    async def send(self, text: str) -> None:
        await self.page.fill("#query", text)
        await self.page.press("#query", "Enter")

    async def ask(self, text: str) -> str:
        """Send a message; return the answer when it has ended."""
        count = await self.answers.count()
        await self.send(text)
        await expect(self.answers).to_have_count(count + 1, timeout=TIMEOUT)
        return await self.ended()

    async def ended(self) -> str:
        """Wait for the end of the answer; return its text."""
        await expect(self.page.locator("#send")).to_be_visible(timeout=TIMEOUT)
        return await self.answer.locator(".body").inner_text()

    @property
    def answers(self) -> Locator:
        return self.page.locator("article.assistant")

    @property
    def answer(self) -> Locator:
        return self.answers.last

    @property
    def questions(self) -> Locator:
        return self.page.locator("article.user .body")

    @property
    def note(self) -> Locator:
        return self.answer.locator(".note")

    @property
    def state(self) -> Locator:
        return self.page.locator("#state")

    @property
    def banner(self) -> Locator:
        return self.page.locator("#banner")

    @property
    def titles(self) -> Locator:
        return self.page.locator("#conversations a")

    @property
    def notice(self) -> Locator:
        return self.page.locator("#notice")

    async def saved(self) -> None:
        """Wait until all is written: a database takes one writer after the other."""
        await self.page.evaluate(
            """() => new Promise((resolve) => {
                indexedDB.open("llmstream").onsuccess = ({ target: { result: database } }) => {
                    const all = [...database.objectStoreNames];
                    const transaction = database.transaction(all, "readwrite");
                    transaction.objectStore(all[0]).count();
                    transaction.oncomplete = () => { database.close(); resolve(); };
                };
            })"""
        )

    async def reload(self) -> None:
        await self.saved()
        await self.page.reload()

    def button(self, name: str, within: Locator | None = None) -> Locator:
        return (within or self.page.locator("body")).get_by_role("button", name=name, exact=True)


class Tabs:
    """Opens tabs, of one browser's profile or of several, and checks each at the end.

    Args:
        contexts: makes a new profile with these options.
    """

    def __init__(self, contexts: Any) -> None:
        self._contexts = contexts
        self._opened: list[Chat] = []

    async def profile(self, **options: Any) -> BrowserContext:
        context: BrowserContext = await self._contexts(**options)
        return context

    async def open(
        self, url: str, profile: BrowserContext | None = None, path: str = "/", **options: Any
    ) -> Chat:
        context = profile or await self.profile(**options)
        chat = Chat(await context.new_page(), url)
        self._opened.append(chat)
        await chat.open(path)
        return chat

    def check(self) -> None:
        """No script failed, none was refused, and nothing was asked of another server."""
        for chat in self._opened:
            assert not chat.errors
            assert not chat.foreign
