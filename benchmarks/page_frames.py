"""How smooth the web page is while an answer streams into a long conversation.

    python -m benchmarks.page_frames [--messages N] [--rate TOKENS_PER_SECOND]

A scripted engine streams Markdown at that rate into a conversation of so many messages, in
Chromium without a window, while somebody types. Printed: the time between two frames, the time
from a key to the second frame after it, and tasks of more than 50 ms ("long tasks").
"""

import argparse
import asyncio
import json
import re
import shutil
from typing import Any

from playwright.async_api import Page, async_playwright, expect

from tests.server.fakes import FakeEngine, serving
from tests.web.texts import SHOWCASE

TIMEOUT = 300_000  # milliseconds
MEASURE = """() => {
    window.measured = { frames: [], keys: [], tasks: [] };
    let last = performance.now();
    const frame = (now) => {
        measured.frames.push(now - last);
        last = now;
        requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
    document.getElementById("query").addEventListener("keydown", () => {
        const start = performance.now();
        const note = () => measured.keys.push(performance.now() - start);
        requestAnimationFrame(() => requestAnimationFrame(note));
    });
    new PerformanceObserver((list) => {
        for (const { duration } of list.getEntries()) measured.tasks.push(duration);
    }).observe({ entryTypes: ["longtask"] });
    window.ended = new Promise((resolve) => {
        const send = document.getElementById("send");
        const look = () => send.hidden || resolve();
        new MutationObserver(look).observe(send, { attributeFilter: ["hidden"] });
    });
}"""


def conversation(num_messages: int) -> dict[str, Any]:
    messages = [
        {
            "id": str(number),
            "parent": str(number - 1) if number else None,
            "role": ("user", "assistant")[number % 2],
            "text": SHOWCASE if number % 2 else f"Question {number}",
        }
        for number in range(num_messages)
    ]
    leaf = str(num_messages - 1)
    one = {"title": "Long", "leaf": leaf, "messages": messages}
    return {"format": "llmstream conversations", "version": 1, "conversations": [one]}


def describe(values: list[float]) -> str:
    values.sort()
    quantiles = [
        values[min(int(len(values) * part), len(values) - 1)] for part in (0.5, 0.95, 0.99)
    ]
    middle, high, higher = quantiles
    return f"median {middle:.0f}, 95% {high:.0f}, 99% {higher:.0f}, longest {values[-1]:.0f} ms"


async def measure(page: Page, num_messages: int) -> dict[str, list[float]]:
    content = json.dumps(conversation(num_messages)).encode()
    file: Any = {"name": "x.json", "mimeType": "application/json", "buffer": content}
    await page.set_input_files("#file", file)
    await expect(page.locator("article")).to_have_count(num_messages, timeout=TIMEOUT)
    await page.evaluate(MEASURE)
    await page.fill("#query", "go")
    await page.press("#query", "Enter")
    for key in "typed while it streams " * 4:
        await page.keyboard.press("Space" if key == " " else key)
        await asyncio.sleep(0.04)
    await page.evaluate("ended")  # to look from outside would take the page longer than its frames
    measured: dict[str, list[float]] = await page.evaluate("measured")
    return measured


async def run(num_messages: int, rate: float) -> None:
    pieces = re.findall(r"\S+\s*|\s+", SHOWCASE)
    engine = FakeEngine(pieces, repeat=20, pause=1 / rate)
    async with async_playwright() as playwright, serving(engine) as served:
        chromium = shutil.which("chromium")
        browser = await playwright.chromium.launch(executable_path=chromium)
        page = await browser.new_page(viewport={"width": 1280, "height": 800})
        await page.goto(served.url)
        measured = await measure(page, num_messages)
        print(await page.locator("article.assistant .note").last.inner_text())
        print("frames:", describe(measured["frames"]))
        print("keys:", describe(measured["keys"]))
        print(f"long tasks: {len(measured['tasks'])}, {sum(measured['tasks']):.0f} ms together")
        await browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=200)
    parser.add_argument("--rate", type=float, default=900.0, help="timers make it fewer")
    options = parser.parse_args()
    asyncio.run(run(options.messages, options.rate))


if __name__ == "__main__":
    main()
