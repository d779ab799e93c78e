"""One Chromium for all tests of the page, and a new profile for each."""

import contextlib
import shutil
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, async_playwright

from tests.server.process import running_server
from tests.web.browser import Tabs


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncGenerator[Browser]:
    async with async_playwright() as playwright:
        # Without the system's Chromium, the one that `playwright install` brought.
        browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"))
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="session")
async def tabs(browser: Browser) -> AsyncGenerator[Tabs]:
    """Opens tabs; at the end, none of them may have met an error or left its server."""
    async with contextlib.AsyncExitStack() as stack:

        async def new_context(**options: Any) -> BrowserContext:
            context = await browser.new_context(**options)
            stack.push_async_callback(context.close)
            return context

        tabs = Tabs(new_context)
        yield tabs
        tabs.check()


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server that runs the real model."""
    log = tmp_path_factory.mktemp("server") / "log"
    with running_server(log, "--threads", "1", "--temperature", "0") as url:
        yield url
