"""Who may ask: host names, origins, keys."""

import asyncio
import json
from typing import Any

import pytest

from tests.server.fakes import FakeEngine, Reply, ask, head, parse, post, serving, talk

BODY = b'{"query": "?"}'
ORIGIN = "https://example.org"


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


def message(reply: Reply) -> str:
    return str(json.loads(reply.body)["error"]["message"])


# ---- host names -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:3030",
        "127.0.0.1",
        "127.0.0.1:3030",
        "[::1]",
        "[::1]:80",
        "localhost.",
    ],
)
async def test_loopback_names_are_answered(host: str) -> None:
    assert (await get(host=host)).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:3030",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "localhost@evil.example",
        "evil.example/localhost",
        "10.0.0.1",
        "[::2]",
        "",
        ".",
        "a..b",
        "localhost..",
        "x" * 64,
        "x" * 300,
        "localhost:port",
        "xn--",
        "\xe9.example",
        "[::1",
    ],
)
async def test_other_names_are_403_and_the_answer_says_what_to_do(host: str) -> None:
    reply = await get(host=host)
    assert reply.status == 403
    assert "--allow-host" in message(reply)


async def test_names_can_be_allowed() -> None:
    assert (await get(host="box.lan:80", allowed_hosts=("Box.LAN",))).status == 200
    assert (await get(host="other.lan", allowed_hosts=("box.lan",))).status == 403
    assert (await get(host="any.name", allowed_hosts=("*",))).status == 200
    assert (await get(host="[fe80:0::1]:80", allowed_hosts=("FE80::0:1",))).status == 200


async def statuses_everywhere(*hosts: str) -> list[int]:
    async with serving(host="0.0.0.0") as served:
        return [(await ask(served, head("GET", "/status", host=host))).status for host in hosts]


async def test_who_listens_everywhere_answers_to_addresses_and_not_to_names() -> None:
    assert await statuses_everywhere("192.168.1.5:3030", "[fe80::1]", "evil.example") == [
        200,
        200,
        403,
    ]


async def test_two_hosts_or_none_are_refused() -> None:
    async with serving() as served:
        twice = await ask(served, head("GET", "/health", "Host: localhost"))
        none = await ask(served, b"GET /health HTTP/1.1\r\n\r\n")
        old = await ask(served, b"GET /status HTTP/1.0\r\n\r\n")
    assert (twice.status, none.status, old.status) == (400, 400, 403)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["/health", "/ready"])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
async def test_probes_are_answered_under_any_name_and_none(
    method: str, path: str, host: str
) -> None:
    """As balancers send them, who go by addresses."""
    names = ["Host: balanced.example", "Host: a..b", "Host:", "X-None: x"]
    async with serving(host=host) as served:
        for data in (f"{method} {path} HTTP/1.0\r\n{name}\r\n\r\n" for name in names):
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


@pytest.mark.parametrize("name", NAMES)
async def test_whatever_a_header_holds_the_server_does_not_fail(name: str) -> None:
    settings: dict[str, Any] = {"body_seconds": 0.5, "header_seconds": 3, "cors_origins": (ORIGIN,)}
    async with serving(api_keys=("k",), **settings) as served:

        async def send(request: bytes, value: str) -> None:
            top, _, body = request.partition(b"\r\n\r\n")
            lines = [
                line for line in top.split(b"\r\n") if not line.startswith(name.encode() + b":")
            ]
            top = b"\r\n".join([*lines, f"{name}: {value}".encode("latin1")])
            reply = parse(await talk(served, top + b"\r\n\r\n" + body))
            assert reply.status < 500, (top, reply.body)

        extra = ("X-Api-Key: k", "Connection: close")
        requests = [post(BODY, *extra), *(head(*to, *extra) for to in TO)]
        await asyncio.gather(*(send(request, value) for request in requests for value in ODD))


# ---- origins --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "origin",
    [ORIGIN, "null", "http://localhost:1", "http://localhost.evil", "localhost", "http://["],
)
async def test_a_page_of_another_origin_may_not_post(origin: str) -> None:
    reply = await ask_post(f"Origin: {origin}")
    assert reply.status == 403
    assert "--cors-origin" in message(reply)
    assert not any(name.startswith("access-control") for name in reply.headers)


async def test_the_servers_own_page_may_post() -> None:
    assert (await ask_post("Origin: http://localhost")).status == 200
    assert (await ask_post("Origin: https://localhost")).status == 200  # TLS ended by a proxy


async def test_an_origin_that_is_allowed_may_post_and_read() -> None:
    reply = await ask_post(f"Origin: {ORIGIN}", cors_origins=(ORIGIN + "/",))
    assert reply.status == 200
    assert reply.headers["access-control-allow-origin"] == ORIGIN
    assert reply.headers["vary"] == "Origin"
    assert "X-Request-Id" in reply.headers["access-control-expose-headers"]
    assert "access-control-allow-credentials" not in reply.headers
    assert (await ask_post("Origin: https://other", cors_origins=(ORIGIN,))).status == 403


async def test_an_error_can_be_read_by_a_page_that_is_allowed() -> None:
    reply = await ask_post(f"Origin: {ORIGIN}", cors_origins=(ORIGIN,), api_keys=("k",))
    assert reply.status == 401
    assert reply.headers["access-control-allow-origin"] == ORIGIN


PREFLIGHT = (
    f"Origin: {ORIGIN}",
    "Access-Control-Request-Method: POST",
    "Access-Control-Request-Headers: authorization, content-type, x-stainless-os",
)


async def test_a_preflight_is_answered_where_the_origin_is_allowed() -> None:
    async with serving(cors_origins=(ORIGIN,), api_keys=("k",)) as served:
        reply = await ask(served, head("OPTIONS", "/token_stream", *PREFLIGHT))
    assert reply.status == 204
    assert reply.headers["access-control-allow-origin"] == ORIGIN
    assert "POST" in reply.headers["access-control-allow-methods"]
    assert "x-stainless-os" in reply.headers["access-control-allow-headers"]


async def test_a_preflight_from_elsewhere_allows_nothing() -> None:
    async with serving() as served:
        reply = await ask(served, head("OPTIONS", "/token_stream", *PREFLIGHT))
    assert not any(name.startswith("access-control") for name in reply.headers)


# ---- keys -----------------------------------------------------------------------------------

KEYS = ("first-key", "second-key")


@pytest.mark.parametrize(
    "header",
    [
        "Authorization: Bearer first-key",
        "Authorization: bearer second-key",
        "X-Api-Key: first-key",
    ],
)
async def test_any_key_opens(header: str) -> None:
    assert (await ask_post(header, api_keys=KEYS)).status == 200


@pytest.mark.parametrize(
    "header",
    [
        "X-Nothing: x",
        "Authorization: Bearer",
        "Authorization: Bearer first-ke",
        "Authorization: Bearer first-key2",
        "Authorization: Bearer FIRST-KEY",
        "Authorization: Basic first-key",
        "Authorization: first-key",
        "X-Api-Key: ",
        "Authorization: Bearer \xe9",
    ],
)
@pytest.mark.parametrize("path", ["/token_stream", "/nowhere"])
async def test_without_a_key_there_is_nothing(header: str, path: str) -> None:
    reply = await ask_post(header, path=path, api_keys=KEYS)
    assert reply.status == 401
    assert reply.headers["www-authenticate"] == "Bearer"
    assert b"first-ke" not in reply.body


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
            body = b'{"query": "?"}'
            assert (await ask(served, post(body, f"Authorization: Bearer {key}"))).status == 200
    assert {request.cache_scope for request in engine.requests} == scopes
    assert len({request.client for request in engine.requests}) == max(1, len(set(keys)))


@pytest.mark.parametrize(
    "path", ["/", "/health", "/ready", "/docs", "/openapi.json", "/static/main.js"]
)
async def test_the_page_and_the_probes_need_no_key(path: str) -> None:
    assert (await get(path, api_keys=KEYS)).status == 200


async def test_the_metrics_need_one() -> None:
    assert (await get("/metrics", api_keys=KEYS)).status == 401
    assert (await get("/metrics", "X-Api-Key: first-key", api_keys=KEYS)).status == 200


async def test_keys_and_questions_stay_out_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    body = b'{"query": "my secret question", "temperatur": 1}'
    async with serving(api_keys=KEYS) as served:
        for header in ("Authorization: Bearer first-key", "Authorization: Bearer guess"):
            await ask(served, post(body, header, path="/token_stream?key=first-key"))
    assert "/token_stream" in caplog.text
    for secret in ("first-key", "guess", "my secret"):
        assert secret not in caplog.text
