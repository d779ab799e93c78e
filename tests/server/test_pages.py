"""The page, the API's description as a page, and the files they load."""

import gzip
from html.parser import HTMLParser
from pathlib import Path

import pytest

import llmstream_cli.server
from tests.server.fakes import Reply, ask, head, serving

STATIC = Path(llmstream_cli.server.__file__).parent / "static"


async def get(path: str, *headers: str) -> Reply:
    async with serving() as served:
        return await ask(served, head("GET", path, *headers))


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


async def test_the_docs_name_every_field() -> None:
    text = (await get("/docs")).body.decode()
    for name in ("repeat_last_n", "/token_stream", "json_schema", "-1 to 1000000"):
        assert name in text


@pytest.mark.parametrize("path", sorted(STATIC.glob("*.js")), ids=lambda path: path.name)
def test_the_page_shows_text_and_never_parses_it(path: Path) -> None:
    source = path.read_text()
    for parses in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert parses not in source
    assert "://" not in source.replace('"http://www.w3.org/2000/svg"', "")  # nothing from elsewhere


@pytest.mark.parametrize("name", ["..%2fapp.py", "%2e%2e/app.py", "index.html.bak", "docs.html"])
async def test_no_other_file_is_served(name: str) -> None:
    assert (await get(f"/static/{name}")).status == 404


async def test_a_file_that_has_not_changed_is_304() -> None:
    async with serving() as served:
        etag = (await ask(served, head("GET", "/static/main.js"))).headers["etag"]
        again = await ask(served, head("GET", "/static/main.js", f"If-None-Match: {etag}"))
        packed = head("GET", "/static/main.js", f"If-None-Match: {etag}", "Accept-Encoding: gzip")
        assert (await ask(served, packed)).status == 304
    assert (again.status, again.body) == (304, b"")


async def test_a_file_is_compressed_for_whoever_takes_it_so() -> None:
    plain = await get("/static/main.js")
    packed = await get("/static/main.js", "Accept-Encoding: gzip, br")
    refused = await get("/static/main.js", "Accept-Encoding: gzip;q=0")
    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed.body) == plain.body == refused.body
    assert len(packed.body) < len(plain.body) / 2
    assert packed.headers["vary"] == plain.headers["vary"] == "Accept-Encoding"
    assert "content-encoding" not in plain.headers
