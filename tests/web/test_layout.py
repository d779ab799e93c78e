"""Sizes, themes, keyboard and screen readers; the last by axe-core's rules."""

import functools
import json
from importlib.resources import files
from typing import Any

import pytest
from playwright.async_api import expect

from tests.server.fakes import FakeEngine, serving
from tests.web.browser import Chat, Tabs
from tests.web.texts import SHOWCASE

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

SIZES = [(320, 568), (390, 844), (768, 1024), (1280, 800), (3840, 2160)]


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core."""
    return (files("axe_playwright_python") / "axe.min.js").read_text("utf-8")


async def findings(chat: Chat, axe: str) -> list[str]:
    """What axe-core finds wrong, of any weight."""
    await chat.page.evaluate(axe)
    result = await chat.page.evaluate("axe.run({resultTypes: ['violations']})")
    return [
        f"{rule['id']} ({rule['impact']}): {node['html'][:200]}"
        for rule in result["violations"]
        for node in rule["nodes"]
    ]


async def answered(tabs: Tabs, url: str, **options: Any) -> Chat:
    chat = await tabs.open(url, **options)
    await chat.ask("Explain recursion to a child, with an example in Python.")
    return chat


async def overflows(chat: Chat) -> bool:
    found: bool = await chat.page.evaluate(
        "[document.documentElement, document.body].some((one) => one.scrollWidth > innerWidth)"
    )
    return found


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}px")
async def test_no_size_scrolls_sideways(tabs: Tabs, size: tuple[int, int]) -> None:
    long = "x" * 300 + " `" + "y" * 300 + "`\n\n```\n" + "z" * 300 + "\n```\n\n" + SHOWCASE
    async with serving(FakeEngine((long,))) as served:
        chat = await tabs.open(served.url, viewport={"width": size[0], "height": size[1]})
        await chat.ask("w" * 300)
        assert not await overflows(chat)
        box = await chat.page.locator("#query").bounding_box()
        assert box
        assert box["y"] + box["height"] <= size[1]
        await chat.page.click("#settings-open")
        await expect(chat.page.locator(".option").first).to_be_visible()
        assert not await overflows(chat)


async def test_on_a_phone_the_list_opens_over_the_conversation(tabs: Tabs) -> None:
    async with serving(FakeEngine(None)) as served:
        size: Any = {"width": 390, "height": 844}
        chat = await tabs.open(served.url, viewport=size, has_touch=True, is_mobile=True)
        await chat.ask("one")
        await expect(chat.titles).to_be_hidden()
        await chat.button("Conversations").tap()
        await expect(chat.titles).to_be_visible()
        await chat.page.keyboard.press("Escape")
        await expect(chat.titles).to_be_hidden()
        await expect(chat.button("Conversations")).to_be_focused()
        await chat.button("Conversations").tap()
        await chat.button("New conversation").tap()
        await expect(chat.titles).to_be_hidden()
        await expect(chat.page.locator("#welcome")).to_be_visible()


async def test_the_theme_is_the_systems(tabs: Tabs) -> None:
    async with serving() as served:
        chat = await tabs.open(served.url, color_scheme="dark")
        colors = []
        for scheme in ("dark", "light"):
            await chat.page.emulate_media(color_scheme=scheme)
            color = await chat.page.evaluate("getComputedStyle(document.body).backgroundColor")
            colors.append(int(color.partition("(")[2].split(",")[0]))
    assert colors[0] < 100 < colors[1]


# ---- accessibility ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scheme", "size"), [("light", (1280, 720)), ("dark", (1280, 720)), ("light", (320, 568))]
)
async def test_axe_finds_nothing(tabs: Tabs, axe: str, scheme: Any, size: tuple[int, int]) -> None:
    viewport = {"width": size[0], "height": size[1]}
    async with serving(FakeEngine((SHOWCASE,))) as served:
        chat = await answered(
            tabs, served.url, color_scheme=scheme, viewport=viewport, bypass_csp=True
        )
        assert not await findings(chat, axe), "an answer"
        for state in (
            ["Edit"],
            ["Settings"],
            ["This conversation"],
            ["This conversation", "Rename"],
            ["Conversations"] if size[0] < 600 else ["New conversation"],
        ):
            for name in state:
                await chat.button(name).click()
            if state == ["Settings"]:
                await expect(chat.page.locator(".option").first).to_be_visible()
            assert not await findings(chat, axe), state
            await chat.page.keyboard.press("Escape")


async def test_axe_finds_nothing_where_a_key_is_wanted(tabs: Tabs, axe: str) -> None:
    async with serving(api_keys=("right",)) as served:
        chat = await tabs.open(served.url, bypass_csp=True)
        await expect(chat.page.get_by_label("API key")).to_be_visible()
        assert not await findings(chat, axe)


async def test_an_answer_is_said_once_and_not_in_tokens(tabs: Tabs) -> None:
    engine = FakeEngine(("A word. ",), repeat=60, pause=0.02)
    async with serving(engine) as served:
        chat = await tabs.open(served.url)
        await chat.page.evaluate(
            """() => {
                window.said = [];
                const live = document.getElementById("live");
                const note = () => said.push(live.textContent);
                new MutationObserver(note).observe(live, {childList: true});
            }"""
        )
        await chat.ask("?")
        said = json.loads(await chat.page.evaluate("JSON.stringify(said)"))
    assert said[0] == "The answer is on its way."
    assert said[1:] == ["A word. " * 60 + " Answer complete."]


# ---- keyboard ---------------------------------------------------------------------------------


async def test_a_conversation_by_keyboard_alone(tabs: Tabs) -> None:
    async with serving(FakeEngine(None)) as served:
        chat = await tabs.open(served.url)
        press = chat.page.keyboard.press
        query = chat.page.locator("#query")
        await expect(query).to_be_focused()
        await chat.page.keyboard.type("one")
        await press("Shift+Enter")
        await chat.page.keyboard.type("two")
        await press("Enter")
        await expect(chat.questions).to_have_text(["one\ntwo"])
        assert await chat.ended() == "one\ntwo"
        await expect(query).to_be_focused()
        await chat.button("Edit").press("Enter")
        await expect(query).to_be_focused()
        await expect(query).to_have_value("one\ntwo")
        await press("Escape")
        await expect(query).to_have_value("")
        await chat.button("New conversation").press("Enter")
        await expect(chat.page.locator("#welcome")).to_be_visible()
        await chat.page.keyboard.type("three")
        await press("Enter")
        assert await chat.ended() == "three"
        await chat.titles.last.press("Enter")
        await expect(chat.questions).to_have_text(["one\ntwo"])
        await chat.button("This conversation").press("Enter")
        await expect(chat.button("Rename")).to_be_visible()
        await press("Escape")
        await expect(chat.button("Rename")).to_be_hidden()
        await chat.button("Settings").press("Enter")
        await expect(chat.page.get_by_label("System message")).to_be_focused()


async def test_all_that_can_be_clicked_can_be_reached_by_tab(tabs: Tabs) -> None:
    async with serving(FakeEngine((SHOWCASE,))) as served:
        chat = await answered(tabs, served.url)
        wanted = await chat.page.locator(
            "button:visible, a:visible, select:visible, textarea:visible, pre:visible"
        ).evaluate_all("all => all.filter((one) => !one.disabled).map((one) => one.outerHTML)")
        await chat.page.evaluate("document.activeElement.blur()")
        reached = set()
        for _ in range(len(wanted) + 10):
            await chat.page.keyboard.press("Tab")
            reached.add(await chat.page.evaluate("document.activeElement.outerHTML"))
            outline = await chat.page.evaluate(
                "getComputedStyle(document.activeElement.closest('#composer') "
                "?? document.activeElement).outlineStyle"
            )
            assert outline != "none" or await chat.page.evaluate(
                "document.activeElement === document.body"
            )
        assert not set(wanted) - reached


# ---- scrolling --------------------------------------------------------------------------------


async def test_the_page_follows_the_answer_only_from_its_end(tabs: Tabs) -> None:
    engine = FakeEngine(("A line of the answer.\n\n",), repeat=400, pause=0.01)
    async with serving(engine) as served:
        chat = await tabs.open(served.url, viewport={"width": 800, "height": 500})
        log = chat.page.locator("#log")
        gap = functools.partial(
            log.evaluate, "one => Math.round(one.scrollHeight - one.clientHeight - one.scrollTop)"
        )
        await chat.send("?")
        await expect(chat.answer.locator("p").nth(40)).to_be_visible()
        await log.hover()
        await chat.page.mouse.wheel(0, -200)
        await chat.page.wait_for_timeout(300)  # a wheel turns smoothly
        top = await log.evaluate("one => one.scrollTop")
        count = await chat.answer.locator(".body p").count()
        await expect(chat.answer.locator(".body p").nth(count + 20)).to_be_attached()
        assert await log.evaluate("one => one.scrollTop") == top  # it stays where the reader is
        await log.evaluate("one => one.scrollTo(0, one.scrollHeight)")
        await chat.page.wait_for_timeout(300)
        assert await gap() <= 60
        await chat.ended()
        assert await gap() <= 8


async def test_copy_has_the_text_and_the_code(tabs: Tabs) -> None:
    async with serving(FakeEngine((SHOWCASE,))) as served:
        profile = await tabs.profile()
        await profile.grant_permissions(["clipboard-read", "clipboard-write"])
        chat = await tabs.open(served.url, profile)
        await chat.ask("?")
        await chat.button("Copy code").click()
        await expect(chat.button("Copied")).to_be_visible()
        code = await chat.page.evaluate("navigator.clipboard.readText()")
        assert code in SHOWCASE
        assert code.startswith("def ")
        await chat.button("Copy", chat.answer).click()
        await expect(chat.button("Copied", chat.answer.locator(".actions"))).to_be_visible()
        assert await chat.page.evaluate("navigator.clipboard.readText()") == SHOWCASE


async def test_copy_works_without_a_secure_origin(tabs: Tabs) -> None:
    async with serving(FakeEngine((SHOWCASE,))) as served:
        profile = await tabs.profile()
        await profile.add_init_script(
            "Object.defineProperty(navigator, 'clipboard', {value: null})"
        )
        chat = await tabs.open(served.url, profile)
        await chat.ask("?")
        await chat.button("Copy", chat.answer).click()
        await expect(chat.button("Copied")).to_be_visible()
        await chat.page.focus("#query")
        await chat.page.keyboard.press("Control+V")
        await expect(chat.page.locator("#query")).to_have_value(SHOWCASE)
