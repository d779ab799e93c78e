"""The page, the API's description and its page, and the files they load."""

import gzip
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import llmstream_cli.server
from llmstream_cli.server.app import create_app
from tests.server.fakes import FakeEngine, Served, ask, head, new_context, serving

STATIC = Path(llmstream_cli.server.__file__).parent / "static"


class Loads(HTMLParser):
    """Collects what a page loads and what it holds that a policy forbids."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: set[str] = set()
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name.startswith("on") or name == "style":
                self.inline.append(f"{tag} {name}")
            if (tag in {"script", "img"} and name == "src") or (tag == "link" and name == "href"):
                self.loaded.add(value or "")
        if tag == "style" or (tag == "script" and "src" not in dict(attrs)):
            self.inline.append(tag)


@pytest.mark.parametrize("path", ["/", "/docs"])
async def test_a_page_loads_its_own_files_and_nothing_else(path: str) -> None:
    async with serving() as served:
        page = await ask(served, head("GET", path))
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "require-trusted-types-for 'script'" in policy
        assert "unsafe" not in policy
        assert page.headers["referrer-policy"] == "no-referrer"
        loads = Loads()
        loads.feed(page.body.decode())
        assert not loads.inline
        assert loads.loaded
        for url in loads.loaded:
            reply = await ask(served, head("GET", url))
            assert reply.status == 200, url
            assert reply.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", sorted(STATIC.glob("*.js")), ids=lambda path: path.name)
def test_the_page_shows_text_and_never_parses_it(path: Path) -> None:
    source = path.read_text()
    for parses in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert parses not in source
    assert "://" not in source.replace('"http://www.w3.org/2000/svg"', "")  # nothing from elsewhere


async def test_a_file_is_sent_as_its_client_takes_it_and_no_other_is() -> None:
    async def get(served: Served, *headers: str, name: str = "main.js") -> tuple[int, str, bytes]:
        reply = await ask(served, head("GET", f"/static/{name}", *headers))
        if reply.status in {200, 304}:
            assert reply.headers["vary"] == "Accept-Encoding"
        return reply.status, reply.headers.get("content-encoding", ""), reply.body

    async with serving() as served:
        etag = (await ask(served, head("GET", "/static/main.js"))).headers["etag"]
        plain = await get(served)
        packed = await get(served, "Accept-Encoding: gzip, br")
        assert await get(served, "Accept-Encoding: gzip;q=0") == plain
        assert (plain[:2], packed[:2]) == ((200, ""), (200, "gzip"))
        assert gzip.decompress(packed[2]) == plain[2]
        assert len(packed[2]) < len(plain[2]) / 2
        for encoding in ("identity", "gzip"):
            fresh = await get(served, f"If-None-Match: {etag}", f"Accept-Encoding: {encoding}")
            assert fresh == (304, "", b"")
        for name in ("..%2fapp.py", "%2e%2e/app.py", "index.html.bak", "docs.html"):
            assert (await get(served, name=name))[0] == 404


async def test_head_has_the_headers_and_no_body() -> None:
    async with serving() as served:
        for path in ("/", "/health", "/openapi.json"):
            reply = await ask(served, head("HEAD", path))
            assert (reply.status, reply.body) == (200, b"")
        assert (await ask(served, head("HEAD", "/token_stream"))).status == 405
        assert not served.engine.requests


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("application/json", "text/plain"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "text/html"),
        ("*/*", "text/html"),
    ],
)
async def test_a_program_that_looks_for_ollama_finds_it(accept: str, kind: str) -> None:
    async with serving(api_keys=("key",)) as served:
        reply = await ask(served, head("GET", "/", f"Accept: {accept}"))
        assert (await ask(served, head("HEAD", "/", f"Accept: {accept}"))).status == 200
    assert (reply.status, reply.headers["content-type"]) == (200, f"{kind}; charset=utf-8")
    assert (reply.body == b"Ollama is running") == (kind == "text/plain")


async def test_slashes_in_a_row_are_one() -> None:
    async with serving(api_keys=("key",)) as served:
        for path, status in (("//health", 200), ("//v1///models", 401), ("//nowhere", 401)):
            assert (await ask(served, head("GET", path))).status == status
        reply = await ask(served, head("GET", "//v1///models", "X-Api-Key: key"))
        assert json.loads(reply.body)["data"][0]["id"] == "fake"


async def test_the_description_has_every_route_and_no_reference_leads_nowhere() -> None:
    async with serving() as served:
        text = (await ask(served, head("GET", "/openapi.json"))).body.decode()
        docs = (await ask(served, head("GET", "/docs"))).body.decode()
    described = json.loads(text)
    pages = {"/", "/docs", "/static/{name}", "/openapi.json"}
    rules = create_app(new_context(FakeEngine())).url_map.iter_rules()
    routes = {re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule) for rule in rules}
    assert set(described["paths"]) == routes - pages
    schemas = described["components"]["schemas"]
    assert set(re.findall(r'"#/components/schemas/(\w+)"', text)) <= set(schemas)
    assert schemas["TokenStreamRequest"]["properties"]["query"]["description"]
    for name in ("repeat_last_n", "/token_stream", "json_schema", "-1 to 1000000"):
        assert name in docs
