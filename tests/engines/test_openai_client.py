"""The client of other servers, against one that misbehaves on purpose."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from llmstream_cli.engines import openai_client
from llmstream_cli.engines.openai_client import Upstream, base_url
from llmstream_cli.errors import (
    EngineNotReadyError,
    InvalidValueError,
    LLMStreamError,
    ModelNotFoundError,
    PromptError,
    QueueFullError,
    UpstreamError,
)
from tests.fake_openai import (
    DONE,
    ROLE,
    Reply,
    answer,
    answer_events,
    answer_json,
    event,
    serving,
    story,
)

KEY = "sk-secret"
PATH = "/v1/chat/completions"
TLS = Path(__file__).parent.parent / "server" / "tls"


@contextlib.asynccontextmanager
async def connected(
    url: str, *, key: str | None = KEY, idle_seconds: float = 60.0
) -> AsyncIterator[Upstream]:
    client = Upstream(url, api_key=key, idle_seconds=idle_seconds)
    try:
        yield client
    finally:
        await client.aclose()


async def post(url: str, body: object = None, **settings: Any) -> list[dict[str, Any]]:
    async with connected(url, **settings) as client:
        return [event async for event in client.events(PATH, {"body": body})]


async def events_of(reply: Reply) -> list[dict[str, Any]]:
    async with serving(reply) as server:
        return await post(server.url)


async def error_of(reply: Reply, **settings: Any) -> LLMStreamError:
    async with serving(reply) as server:
        with pytest.raises(LLMStreamError) as raised:
            await post(server.url, **settings)
    message = str(raised.value)
    assert message.isprintable()
    assert len(message) <= 400
    assert KEY not in message
    return raised.value


# ---- answers --------------------------------------------------------------------------------


async def test_the_request() -> None:
    async with serving(answer_events(*story())) as server:
        await post(server.url + "/v1/", "Grüße\ud83d")
    (request,) = server.requests
    assert request.line == f"POST {PATH} HTTP/1.1"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["accept-encoding"] == "identity"
    assert request.body == {"body": "Grüße\ud83d"}


async def test_signs_of_life_are_no_events() -> None:
    signs = b": ping\n\n", b"data:\n\n", b"event: ping\n\n"
    assert await events_of(answer_events(*signs, event({"a": 1}), DONE)) == [{"a": 1}]


async def test_nothing_is_awaited_after_done() -> None:
    assert await events_of(answer_events(event({"error": None}), DONE, hang=True))


async def test_an_answer_that_is_left_closes_its_connection() -> None:
    reply = answer_events(*story()[:-1], hang=True)
    async with serving(reply) as server, connected(server.url) as client:
        events = client.events(PATH, {})
        assert await anext(events)
        await events.aclose()
        async with asyncio.timeout(60):  # before the client as a whole is closed
            await asyncio.gather(*server.connections)


@pytest.mark.parametrize("reply", [Reply((), hang=True), answer_events(ROLE, hang=True)])
async def test_a_task_that_is_cancelled_closes_its_connection(reply: Reply) -> None:
    asked = asyncio.Event()

    def reply_to(_: int) -> Reply:
        asked.set()
        return reply

    async def read(client: Upstream) -> None:
        async with contextlib.aclosing(client.events(PATH, {})) as events:
            async for _ in events:
                pass

    async with serving(reply_to) as server, connected(server.url) as client:
        task = asyncio.create_task(read(client))
        await asked.wait()
        await asyncio.sleep(0.01)  # into the answer, on most machines
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(60):
            await asyncio.gather(*server.connections)


# ---- failures -------------------------------------------------------------------------------

CHUNKED = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)


def refusal(status: str, **error: object) -> Reply:
    return answer_json({"error": error}, status)


FAILED = {
    "the server failed: on fire": answer_events(ROLE, event({"error": {"message": "on\nfire"}})),
    "the server failed: no memory": answer_events(event({"error": "no memory"}), DONE),
    '{"error": {"code": 7}}': answer_events(event({"error": {"code": 7}}), DONE),
    "the server failed: no": answer_events(event({"object": "error", "message": "no"}), DONE),
    "the server refused the request (HTTP 400: bad top_k)": refusal("400 No", message="bad top_k"),
    'the server failed (HTTP 500: {"error": null})': answer_json({"error": None}, "500 Oops"),
    "the server failed (HTTP 502: <h1>Bad[2J gateway</h1>)": answer(
        "text/html", b"<h1>Bad\x1b[2J\r\ngateway</h1>", status="502 Bad Gateway"
    ),
    "HTTP 302: the server has moved to https://else.where/x": answer(
        "text/plain", b"", status="302 Found\r\nLocation: https://else.where/x"
    ),
    "the server failed (HTTP 304:)": answer("text/plain", b"", status="304 Not Modified"),
    "has no API of OpenAI's; give the URL that stands before /v1 (HTTP 404: none)": answer_json(
        {"detail": "none"}, "404 Not Found"
    ),
    "the server refused the request (HTTP 404: pull it)": refusal("404 No", message="pull it"),
    "the stream ended without [DONE]": answer_events(ROLE, b"data: [DONE]\n"),
    "the connection failed: peer closed connection": Reply((CHUNKED, b"5\r\ndata:")),
    "the connection failed: Server disconnected": Reply(()),
    "the connection failed: ": Reply((b"Hello, who is this?\r\n",)),
    "no JSON object: Once upon": answer_events(b"data: Once upon\n\n", DONE),
    "no JSON object: [1]": answer_events(b"data: [1]\n\n", DONE),
    "no JSON object: [[[[": answer_events(b"data: " + b"[" * 100_000 + b"\n\n", DONE),
    "no JSON object: \N{REPLACEMENT CHARACTER}": answer_events(b"data: \xff\xfe\n\n", DONE),
    "the answer is application/json, not an event stream": answer_json({"choices": []}),
    "the answer is compressed (gzip) unasked": answer(
        "text/event-stream\r\nContent-Encoding: gzip", b"\x1f\x8b"
    ),
    "the server does not take this API key (HTTP 401: *** is wrong)": answer_json(
        {"message": f"{KEY} is wrong"}, "401 Unauthorized"
    ),
    "the server does not let this request in (HTTP 403: no)": answer_json(
        {"error": "no"}, "403 Forbidden"
    ),
}


@pytest.mark.parametrize("complaint", FAILED)
async def test_a_failure_is_one_line(complaint: str) -> None:
    error = await error_of(FAILED[complaint])
    assert type(error) is UpstreamError
    assert complaint in str(error)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (
            answer_json({"detail": "busy"}, "429 Too Many Requests\r\nRetry-After: 7"),
            QueueFullError("the server has too much to do; try again in 7 s (HTTP 429: busy)"),
        ),
        (
            answer_json({"detail": "busy"}, "429 No\r\nRetry-After: Fri, 31 Dec 1999 23:59:59 GMT"),
            QueueFullError("the server has too much to do (HTTP 429: busy)"),
        ),
        (
            refusal("503 Unavailable\r\nRetry-After: 5", message="loading"),
            EngineNotReadyError("the server is not ready; try again in 5 s (HTTP 503: loading)"),
        ),
        (refusal("400 Bad", message="9", code="context_length_exceeded"), PromptError("9")),
        (refusal("400 Bad", message="9", type="exceed_context_size_error"), PromptError("9")),
        (refusal("400 Bad", message="9", param="input_tokens", code=400), PromptError("9")),
        (refusal("404 No", message="no x", code="model_not_found"), ModelNotFoundError("no x")),
    ],
)
async def test_a_refusal_has_the_error_that_says_it(reply: Reply, expected: LLMStreamError) -> None:
    error = await error_of(reply)
    assert (type(error), str(error)) == (type(expected), str(expected))


async def test_without_a_key_none_is_sent_and_a_refusal_says_that_one_is_wanted() -> None:
    async with serving(refusal("401 Unauthorized", message="a key is needed")) as server:
        with pytest.raises(UpstreamError) as raised:
            await post(server.url, key=None)
    assert str(raised.value) == "the server wants an API key (HTTP 401: a key is needed)"
    assert "authorization" not in server.requests[0].headers


async def test_a_redirect_is_not_followed() -> None:
    async with serving(answer_events(*story())) as elsewhere:
        reply = answer("text/plain", b"", status=f"307 Moved\r\nLocation: {elsewhere.url}/v1")
        await error_of(reply)
        async with (
            serving(reply, pages={"/v1/models": reply}) as server,
            connected(server.url) as client,
        ):
            with pytest.raises(UpstreamError, match="has moved to"):
                await client.get_json("/v1/models")
    assert elsewhere.requests == elsewhere.gets == []


async def test_a_silent_server_is_given_up() -> None:
    error = await error_of(answer_events(ROLE, hang=True), idle_seconds=0.05)
    assert "sent nothing for 0.05 s" in str(error)


async def test_a_body_without_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_client, "_MAX_BODY_BYTES", 1000)
    error = await error_of(answer("text/plain", b"x" * 2000, status="500 Oops", hang=True))
    assert str(error).startswith("the server failed (HTTP 500: xxx")


async def test_no_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(UpstreamError) as raised:
        await post(url)
    assert str(raised.value) == f"cannot connect to {url}: Connection refused"


async def test_a_server_of_unknown_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(UpstreamError, match=r"nowhere\.invalid: Name or service not known"):
        await post("http://nowhere.invalid")


# ---- what a GET brings ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        (answer_json({"data": []}), {"data": []}),
        (answer("application/json", b'{"da', b'ta": 1}'), {"data": 1}),
        (answer("text/html", b"<h1>Hello</h1>"), None),
        (answer("application/json", b"[" * 100_000), None),
        (answer_json({"detail": "Not Found"}, "404 Not Found"), None),
    ],
)
async def test_json(reply: Reply, value: object) -> None:
    async with (
        serving(answer_events(), pages={"/v1/models": reply}) as server,
        connected(server.url) as client,
    ):
        assert await client.get_json("/v1/models") == value
    assert server.gets[0].headers["authorization"] == f"Bearer {KEY}"


# ---- proxies and TLS ------------------------------------------------------------------------


@pytest.fixture
def proxied(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


async def test_a_proxy_is_asked_for_others_and_not_for_this_machine(
    proxied: pytest.MonkeyPatch,
) -> None:
    async with serving(answer_events(event({"a": 1}), DONE)) as proxy:
        proxied.setenv("HTTP_PROXY", proxy.url)
        assert await post("http://llm.invalid:8080") == [{"a": 1}]
        proxied.setenv("ALL_PROXY", proxy.url)
        for host in ("127.0.0.1", "localhost", "127.1.2.3", "[::1]", "a.localhost"):
            with contextlib.suppress(UpstreamError):
                await post(f"http://{host}:9")
    (asked,) = proxy.requests
    assert asked.line == f"POST http://llm.invalid:8080{PATH} HTTP/1.1"


def test_a_proxy_that_cannot_be_used_is_one_line(proxied: pytest.MonkeyPatch) -> None:
    proxied.setenv("HTTP_PROXY", "gopher://127.0.0.1")
    with pytest.raises(InvalidValueError, match="proxy that the environment names") as raised:
        Upstream("http://llm.invalid")
    assert str(raised.value).isprintable()


def tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "cert.pem", TLS / "key.pem")
    return context


@pytest.mark.parametrize("place", ["no/such", __file__])
def test_certificates_that_are_none(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", place)
    with pytest.raises(InvalidValueError, match="cannot read the certificates"):
        Upstream("https://127.0.0.1")
    Upstream("http://127.0.0.1")  # needs none


async def test_a_certificate_that_is_not_trusted_until_the_environment_names_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    async with serving(answer_events(event({"a": 1}), DONE), tls=tls()) as server:
        with pytest.raises(UpstreamError) as raised:
            await post(server.url)
        assert server.requests == []
        monkeypatch.setenv("SSL_CERT_FILE", str(TLS / "cert.pem"))
        assert await post(server.url) == [{"a": 1}]
    assert str(raised.value) == (
        f"the certificate of {server.url} is not trusted: self-signed certificate; "
        "the variable SSL_CERT_FILE can name further ones"
    )


async def test_a_server_that_speaks_no_tls() -> None:
    connections = []

    def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()
        connections.append(writer)

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(UpstreamError, match=f"cannot connect to {url}: .*SSL"):
            await post(url)
    for writer in connections:
        await writer.wait_closed()


# ---- what the user gives --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "base"),
    [
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://127.0.0.1:8080/v1", "http://127.0.0.1:8080"),
        ("https://example.org/openai/v1/", "https://example.org/openai"),
        ("localhost:3030", "http://localhost:3030"),
        ("127.0.0.1:8080/v1/", "http://127.0.0.1:8080"),
        ("[::1]:3030", "http://[::1]:3030"),
    ],
)
def test_urls(given: str, base: str) -> None:
    assert base_url(given) == base


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ("", "must be like"),
        ("10.0.0.7:8080", "did you mean http://10.0.0.7:8080 or https://10.0.0.7:8080?"),
        ("example.org", "did you mean http://example.org or https://example.org?"),
        ("localhost:port", "is none"),
        ("ftp://127.0.0.1", "must be like"),
        ("http://me:secret@127.0.0.1", "must have no password"),
        ("http://127.0.0.1/?key=secret", "must end with the host or a path"),
        ("http://127.0.0.1/#there", "must end with the host or a path"),
    ],
)
def test_bad_urls(given: str, complaint: str) -> None:
    with pytest.raises(InvalidValueError, match=complaint) as raised:
        base_url(given)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "schlüssel", "\x7f"])
def test_bad_keys(key: str) -> None:
    with pytest.raises(InvalidValueError, match="no key can have") as raised:
        Upstream("http://127.0.0.1", api_key=key)
    assert key not in str(raised.value)
