"""Who may ask: host names, origins, keys."""

import asyncio
import json
from typing import Any

import pytest

from tests.server.fakes import BODY, FakeEngine, Reply, ask, head, parse, post, serving, talk

ORIGIN = "https://example.org"
KEYS = ("first-key", "second-key")


async def get(
    path: str = "/status", *headers: str, host: str = "localhost", **settings: Any
) -> Reply:
    async with serving(**settings) as served:
        return await ask(served, head("GET", path, *headers, host=host))


async def ask_post(*headers: str, path: str = "/token_stream", **settings: Any) -> Reply:
    async with serving(**settings) as served:
        reply = await ask(served, post(BODY, *headers, path=path))
        assert bool(served.engine.requests) == (reply.status == 200)
        return reply


# ---- host names -----------------------------------------------------------------------------

LOOPBACK = ("localhost", "LOCALHOST:3030", "127.0.0.1", "127.0.0.1:3030", "[::1]", "[::1]:80",
            "localhost.")  # fmt: skip
FOREIGN = (
    "evil.example", "evil.example:3030", "localhost.evil.example", "127.0.0.1.evil.example",
    "localhost@evil.example", "evil.example/localhost", "10.0.0.1", "[::2]", "", ".", "a..b",
    "localhost..", "x" * 64, "x" * 300, "localhost:port", "xn--", "\xe9.example", "[::1",
)  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "names", "others"),
    [
        ({}, LOOPBACK, FOREIGN),
        ({"allowed_hosts": ("Box.LAN", "FE80::0:1")}, ("box.lan:80", "[fe80:0::1]:80"), ("o.lan",)),
        ({"allowed_hosts": ("*",)}, ("any.name",), ()),
        # Who listens everywhere answers to addresses, and not to names.
        ({"host": "0.0.0.0"}, ("192.168.1.5:3030", "[fe80::1]"), ("evil.example",)),
    ],
)
async def test_names_are_answered_that_are_the_servers(
    settings: dict[str, Any], names: tuple[str, ...], others: tuple[str, ...]
) -> None:
    async with serving(**settings) as served:
        for name in names:
            assert (await ask(served, head("GET", "/status", host=name))).status == 200, name
        for name in others:
            reply = await ask(served, head("GET", "/status", host=name))
            assert (reply.status, b"--allow-host" in reply.body) == (403, True), name
        assert (await ask(served, b"GET /status HTTP/1.0\r\n\r\n")).status == (
            200 if "*" in settings.get("allowed_hosts", ()) else 403
        )


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
async def test_probes_are_answered_under_any_name_and_none(host: str) -> None:
    """As balancers send them, who go by addresses."""
    names = ("Host: balanced.example", "Host: a..b", "Host:", "X-None: x")
    probes = ("GET /health", "HEAD /health", "GET /ready", "HEAD /ready")
    async with serving(host=host) as served:
        for data in (f"{probe} HTTP/1.0\r\n{name}\r\n\r\n" for probe in probes for name in names):
            assert (await ask(served, data.encode())).status == 200, data


NAMES = (
    "Host", "Origin", "Authorization", "X-Api-Key", "Content-Type", "Content-Length", "Connection",
    "Expect", "Upgrade", "X-Request-Id", "If-None-Match", "Accept-Encoding", "Cookie", "Forwarded",
    "X-Forwarded-Host", "Range", "Content-Encoding", "Access-Control-Request-Headers",
)  # fmt: skip
ODD = (
    "", "*", '"', "'", ";=", ",,", "[", "[::1", "http://[", "http://a..b", "a..b", "x" * 64, "null",
    "x" * 8000, "Bearer", "Bearer \xff", "Basic =", "application/json; charset=\xff", "W/", 'W/"',
    "application/json; a*=utf-8''%ff", "multipart/form-data", "9" * 30, "-1", "1e3", "\xb2", "\x80",
    "gzip;q=x", "gzip;q=1e400", "*;q=-1", "%00%ff", "bytes=9-1", 'a=b; c="', 'for="[::1]:x"',
    "@:/?",
)  # fmt: skip
TO = (("GET", "/"), ("HEAD", "/ready"), ("OPTIONS", "/token_stream"), ("GET", "/requests/x"))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
async def test_whatever_a_header_holds_the_server_does_not_fail(name: str) -> None:
    settings: dict[str, Any] = {"body_seconds": 0.3, "header_seconds": 3, "cors_origins": (ORIGIN,)}
    async with serving(api_keys=("k",), **settings) as served:

        async def send(request: bytes, value: str) -> None:
            top, _, body = request.partition(b"\r\n\r\n")
            kept = [one for one in top.split(b"\r\n") if not one.startswith(name.encode() + b":")]
            lines = [*kept, f"{name}: {value}".encode("latin1"), b"", body]
            reply = parse(await talk(served, b"\r\n".join(lines)))
            assert reply.status < 500, (lines, reply.body)

        extra = ("X-Api-Key: k", "Connection: close")
        requests = [post(BODY, *extra), *(head(*to, *extra) for to in TO)]
        await asyncio.gather(*(send(request, value) for request in requests for value in ODD))


# ---- origins --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "origin",
    [ORIGIN, "null", "http://localhost:1", "http://localhost.evil", "localhost", "http://["],
)
async def test_a_page_of_another_origin_may_not_post(origin: str) -> None:
    reply = await ask_post(f"Origin: {origin}", cors_origins=("https://other",))
    assert (reply.status, b"--cors-origin" in reply.body) == (403, True)
    assert not any(name.startswith("access-control") for name in reply.headers)


@pytest.mark.parametrize("scheme", ["http", "https"])  # TLS may be ended by a proxy
async def test_the_servers_own_page_may_post(scheme: str) -> None:
    assert (await ask_post(f"Origin: {scheme}://localhost")).status == 200


@pytest.mark.parametrize(("allowed", "keys"), [(ORIGIN + "/", ()), ("*", ()), (ORIGIN, ("k",))])
async def test_an_origin_that_is_allowed_may_post_and_read(
    allowed: str, keys: tuple[str, ...]
) -> None:
    """Errors, too, such as that a key is needed."""
    reply = await ask_post(f"Origin: {ORIGIN}", cors_origins=(allowed,), api_keys=keys)
    assert reply.status == (401 if keys else 200)
    assert reply.headers["access-control-allow-origin"] == ORIGIN
    assert reply.headers["vary"] == "Origin"
    assert "X-Request-Id" in reply.headers["access-control-expose-headers"]
    assert "access-control-allow-credentials" not in reply.headers


@pytest.mark.parametrize("allowed", [ORIGIN, "https://other"])
async def test_a_preflight_is_answered_where_the_origin_is_allowed(allowed: str) -> None:
    asked = ("Method: POST", "Headers: authorization, x-stainless-os", "Private-Network: true")
    lines = (f"Origin: {ORIGIN}", *(f"Access-Control-Request-{line}" for line in asked))
    async with serving(cors_origins=(allowed,), api_keys=("k",)) as served:
        reply = await ask(served, head("OPTIONS", "/token_stream", *lines))
    granted = {name.removeprefix("access-control-allow-"): reply.headers[name]
               for name in reply.headers if name.startswith("access-control-allow-")}  # fmt: skip
    if allowed == ORIGIN:
        assert (reply.status, granted.pop("origin")) == (204, ORIGIN)
        assert granted == {
            "methods": "GET, POST, DELETE",
            "headers": "authorization, x-stainless-os",
            "private-network": "true",
        }
    else:
        assert (reply.status, granted) == (401, {})


# ---- keys -----------------------------------------------------------------------------------

RIGHT = ("Authorization: Bearer first-key", "Authorization: bearer second-key",
         "X-Api-Key: first-key", "Authorization:   BEARER \t first-key  ")  # fmt: skip
WRONG = (
    "X-Nothing: x", "Authorization: Bearer", "Authorization: Bearer first-ke", "X-Api-Key: ",
    "Authorization: Bearer first-key2", "Authorization: Bearer FIRST-KEY",
    "Authorization: Basic first-key", "Authorization: first-key", "Authorization: Bearer \xe9",
)  # fmt: skip
OPEN = ("/", "/health", "/ready", "/docs", "/openapi.json", "/static/main.js")
LOCKED = ("/metrics", "/status", "/requests/x", "/nowhere", "/api/tags", "/v1/models")


async def test_one_of_the_keys_opens_all_but_what_is_open() -> None:
    async with serving(api_keys=KEYS) as served:
        for header in WRONG:
            reply = await ask(served, post(BODY, header))
            assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer"), header
            assert b"first-ke" not in reply.body
        for path in LOCKED:
            assert (await ask(served, head("GET", path))).status == 401
            assert (await ask(served, head("GET", path, RIGHT[0]))).status in {200, 404}
        for path in OPEN:
            assert (await ask(served, head("GET", path))).status == 200
        assert not served.engine.requests
        for header in RIGHT:
            assert (await ask(served, post(BODY, header))).status == 200
        # Either header will do, where a client sends both.
        for both in (("X-Api-Key: x", RIGHT[0]), ("Authorization: Bearer x", RIGHT[2])):
            assert (await ask(served, post(BODY, *both))).status == 200
        assert (await ask(served, post(BODY, "X-Api-Key: x", WRONG[2]))).status == 401


@pytest.mark.parametrize(
    ("keys", "share", "scopes"),
    [
        (KEYS, False, {"key 0", "key 1"}),
        (KEYS, True, {""}),
        (("first-key", "first-key"), False, {""}),
        ((), False, {""}),
    ],
)
async def test_prefixes_are_shared_within_a_key(
    keys: tuple[str, ...], share: bool, scopes: set[str]
) -> None:
    engine = FakeEngine()
    async with serving(engine, api_keys=keys, share_prefixes=share) as served:
        for key in dict.fromkeys(keys or ("",)):
            assert (await ask(served, post(BODY, f"Authorization: Bearer {key}"))).status == 200
    assert {request.cache_scope for request in engine.requests} == scopes
    assert len({request.client for request in engine.requests}) == max(1, len(set(keys)))


async def test_keys_and_questions_stay_out_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    body = json.dumps({"query": "my secret question", "temperatur": 1}).encode()
    async with serving(api_keys=KEYS) as served:
        for header in ("Authorization: Bearer first-key", "Authorization: Bearer guess"):
            await ask(served, post(body, header, path="/token_stream?key=first-key"))
    assert "/token_stream" in caplog.text
    for secret in ("first-key", "guess", "my secret"):
        assert secret not in caplog.text
