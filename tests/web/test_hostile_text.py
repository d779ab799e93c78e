"""Text that would like to be code: from the model, from the user, in titles and in files.

Each must end up as text: no script runs, nothing is asked of another server, and the policy that
the server sends never has to step in.
"""

import json
import re

import pytest
from playwright.async_api import expect

from tests.server.fakes import FakeEngine, serving
from tests.web.browser import Chat, Tabs

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

ELSEWHERE = "http://198.51.100.7"  # reserved for documentation: nobody is there
RUN = "document.title='ran'"
CORPUS = [
    f"<script>{RUN}</script>",
    f"<img src=x onerror={RUN}>",
    f"<img src={ELSEWHERE}/a.png>",
    f"<svg onload={RUN}><animate onbegin={RUN} attributeName=x>",
    f"<iframe srcdoc='<script>parent.{RUN}</script>'></iframe>",
    f"<iframe src=javascript:parent.{RUN}></iframe>",
    f"<link rel=stylesheet href={ELSEWHERE}/a.css><style>@import '{ELSEWHERE}/b.css'</style>",
    f"<meta http-equiv=refresh content='0;url={ELSEWHERE}'><base href={ELSEWHERE}>",
    f"<form action={ELSEWHERE}><button>go</button></form><input autofocus onfocus={RUN}>",
    f"<details open ontoggle={RUN}><math><mtext><style><img src onerror={RUN}>",
    f"<a href=javascript:{RUN}>click</a><object data={ELSEWHERE}></object>",
    f"![x]({ELSEWHERE}/a.png) ![][1]\n\n[1]: {ELSEWHERE}/b.png",
    f"![x](javascript:{RUN}) [x](javascript:{RUN}) [x](jAvAsCrIpT:{RUN})",
    f"[x](javascript&colon;{RUN}) [x](&#106;avascript:{RUN}) [x](java\tscript:{RUN})",
    f"[x](\x01javascript:{RUN}) [x](data:text/html,<script>{RUN}</script>) <javascript:{RUN}>",
    f'[x](https://example.org/"onmouseover="{RUN}) [x](\'onclick={RUN})',
    f'```html\n<script>{RUN}</script>\n```\n\n```"><img src=x onerror={RUN}>\nx\n```',
    f"| <img src=x onerror={RUN}> |\n|---|\n| <script>{RUN}</script> |",
    f"# <img src=x onerror={RUN}>\n\n- <script>{RUN}</script>\n\n> <script>{RUN}</script>",
    f"`<script>{RUN}</script>` **<script>{RUN}</script>** &lt;script&gt;{RUN}&lt;/script&gt;",
    f"</div></article></main><script>{RUN}</script><!-- --><![CDATA[<script>{RUN}</script>",
    f"</textarea><script>{RUN}</script></title><script>{RUN}</script>{{{{7*7}}}}${{{RUN}}}",
    f"<think><script>{RUN}</script><img src={ELSEWHERE}/a.png></think><b>x</b>",
    "\u202e\u2066gnp.exe \u0000 \ufeff \U000e0041 \u2028",
]
ALLOWED = {"A", "ARTICLE", "B", "BLOCKQUOTE", "BR", "BUTTON", "CODE", "DEL", "DETAILS", "DIV"}
ALLOWED |= {"EM", "H2", "H3", "H4", "H5", "H6", "HR", "I", "LI", "OL", "P", "PRE", "SPAN"}
ALLOWED |= {"STRONG", "SUMMARY", "SVG", "TABLE", "TBODY", "TD", "TH", "THEAD", "TR", "UL", "USE"}


async def check(chat: Chat) -> None:
    """Nothing in the log but elements that the page makes, with attributes that it gives them."""
    found = await chat.page.evaluate(
        """() => [...document.querySelectorAll("#log *, #conversations *, #title *")].map((one) =>
            [one.tagName.toUpperCase(), one.getAttributeNames(), one.getAttribute("href")])"""
    )
    for tag, names, href in found:
        assert tag in ALLOWED
        assert not [name for name in names if name.startswith("on") or name in {"src", "style"}]
        assert href is None or re.match(r"(https?|mailto):|#", href)
    assert await chat.page.title() != "ran"
    assert await chat.page.locator("#log :is(img, script, iframe, form, input)").count() == 0


async def test_nothing_that_a_model_writes_runs_or_loads(tabs: Tabs) -> None:
    engine = FakeEngine()
    async with serving(engine) as served:
        chat = await tabs.open(served.url)
        for text in CORPUS:
            engine.pieces = re.findall(".{1,7}", text, re.DOTALL)
            await chat.ask("?")
            await check(chat)
        for link in await chat.page.locator("#log a").all():
            assert await link.get_attribute("rel") == "noopener noreferrer"
        await chat.reload()
        await expect(chat.answers).to_have_count(len(CORPUS))
        await check(chat)


async def test_nothing_that_a_user_writes_runs_or_loads(tabs: Tabs) -> None:
    async with serving(FakeEngine(("ok",))) as served:
        chat = await tabs.open(served.url)
        for text in CORPUS:
            await chat.button("New conversation").click()
            await chat.ask(text)  # it is the title, too
            await check(chat)
            shown = await chat.questions.inner_text()
            assert shown.split() == text.replace("\0", "\ufffd").split() or "\x00" in text


async def test_nothing_in_a_file_runs_or_loads(tabs: Tabs) -> None:
    async with serving() as served:
        chat = await tabs.open(served.url)
        conversations = [
            {
                "title": text,
                "settings": {"system": text, "model": text, "options": {"temperature": text}},
                "messages": [
                    {"id": "q", "role": "user", "text": text, "onload": RUN},
                    {"id": "a", "role": "assistant", "text": text, "model": text}
                    | {"stats": {"generated_tokens": text, "finish_reason": text}},
                ],
            }
            for text in CORPUS
        ]
        file = {"format": "llmstream conversations", "version": 1, "conversations": conversations}
        buffer = json.dumps(file).encode()
        await chat.page.set_input_files(
            "#file", {"name": "x.json", "mimeType": "application/json", "buffer": buffer}
        )
        await expect(chat.titles).to_have_count(len(CORPUS))
        for number in range(len(CORPUS)):
            await chat.titles.nth(number).click()
            await expect(chat.titles.nth(number)).to_have_attribute("aria-current", "page")
            await check(chat)
        await chat.page.click("#settings-open")
        await expect(chat.page.locator(".option").first).to_be_visible()
        await check(chat)


async def test_the_policy_would_stop_what_got_through(tabs: Tabs) -> None:
    """The second line of defence, tried on a page that is made to break the first."""
    async with serving() as served:
        chat = await tabs.open(served.url)
        refused = await chat.page.evaluate(
            """async (elsewhere) => {
                const tries = {
                    html: () => { document.body.innerHTML = "<b>x</b>"; },
                    fetch: () => fetch(elsewhere),
                };
                const refused = [];
                for (const [name, act] of Object.entries(tries)) {
                    try { await act(); } catch { refused.push(name); }
                }
                const image = new Image();
                const failed = new Promise((resolve) => { image.onerror = resolve; });
                image.src = elsewhere + "/a.png";
                await failed;
                refused.push("image");
                const script = document.createElement("script");
                try { script.text = "document.title = 'ran'"; document.body.append(script); }
                catch { refused.push("script"); }
                return refused;
            }""",
            ELSEWHERE,
        )
        assert refused == ["html", "fetch", "image", "script"]
        assert await chat.page.title() != "ran"
        assert any("Content Security Policy" in error for error in chat.errors)
        chat.errors.clear()  # they were wanted
        chat.foreign.clear()  # tried, and refused before they left
