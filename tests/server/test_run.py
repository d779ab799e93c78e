"""Starting, stopping and listening, in this process."""

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from llmstream_cli.errors import InvalidValueError, ListenError
from llmstream_cli.server.run import STOP_SECONDS, Server
from llmstream_cli.server.settings import ServerSettings
from tests.server.fakes import (
    BODY,
    CERTIFICATE,
    TIMEOUT,
    TLS,
    FakeEngine,
    head,
    new_context,
    parse,
    post,
    until,
)


@contextlib.asynccontextmanager
async def started(engine: FakeEngine | None = None, **settings: Any) -> AsyncGenerator[Server]:
    """A server that the test stops."""
    server = Server(new_context(engine or FakeEngine(), **settings))
    await server.start()
    async with asyncio.timeout(TIMEOUT):
        yield server


async def opened(
    server: Server, data: bytes, **options: Any
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    port = int(server.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, **options)
    writer.write(data)
    return reader, writer


@pytest.mark.parametrize(
    ("engine", "gate", "num_cut", "status", "body"),
    [
        (FakeEngine(["one ", "two"], pause=0.05), True, 0, 200, b"one two"),  # ends by itself
        (FakeEngine(["word "], repeat=10**9, pause=0.01), True, 1, 200, None),  # is cut
        (FakeEngine(), False, 1, 503, b"shutting down"),  # waits for its first token
    ],
)
async def test_answers_end_before_the_server_does(
    engine: FakeEngine, gate: bool, num_cut: int, status: int, body: bytes | None
) -> None:
    if not gate:
        engine.gate.clear()
    async with started(engine, drain_seconds=0.3) as server:
        reader, writer = await opened(server, post(BODY))
        await until(lambda: engine.requests)
        assert await server.stop() == num_cut
        reply = parse(await reader.read())
        writer.close()
        with pytest.raises(ConnectionRefusedError):
            await opened(server, b"")
    assert (reply.status, reply.complete) == (status, body is not None)
    assert (body or b"word") in reply.body
    assert engine.closed
    assert engine.running == 0


async def test_connections_that_only_wait_do_not_hold_the_server_up() -> None:
    async with started(drain_seconds=3600) as server:
        connections = [await opened(server, data) for data in (b"", b"GET / HT", head())]
        await connections[-1][0].readuntil(b'{"status":"ok"}')
        assert await server.stop() == 0
    for _, writer in connections:
        writer.close()


@pytest.mark.slow
async def test_nothing_that_hangs_holds_the_server_up() -> None:
    class Hanging(FakeEngine):
        async def aclose(self) -> None:
            await asyncio.sleep(3600)

    async with started(Hanging(), drain_seconds=0.0) as server:
        _, writer = await opened(server, post(BODY)[:-5])  # a body that does not come
        started_at = time.monotonic()
        await server.stop()
        assert time.monotonic() - started_at < STOP_SECONDS + TIMEOUT / 2  # and not an hour
    writer.close()


# ---- addresses ------------------------------------------------------------------------------


def listen_error(**settings: object) -> str:
    async def start() -> None:
        context = new_context(FakeEngine())
        context.settings = ServerSettings(**settings)  # type: ignore[arg-type]
        await Server(context).start()

    with pytest.raises(ListenError) as caught:
        asyncio.run(start())
    return str(caught.value)


def test_an_address_that_cannot_be_bound_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert listen_error(port=port) == (
            f"port {port} of 127.0.0.1 is taken; choose another one, or 0 for any that is free"
        )
    assert "cannot listen on 192.0.2.1" in listen_error(host="192.0.2.1")
    assert "cannot find the address nowhere.invalid" in listen_error(host="nowhere.invalid")


async def test_localhost_is_all_of_its_addresses_on_one_port() -> None:
    async with started(host="localhost") as server:
        port = int(server.url.rpartition(":")[2])
        found = socket.getaddrinfo("localhost", port, type=socket.SOCK_STREAM)
        for address in {str(entry[4][0]) for entry in found}:
            _, writer = await asyncio.open_connection(address, port)
            writer.close()
        await server.stop()


async def test_an_address_that_the_machine_lacks_does_not_matter_beside_one_that_it_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As `::1` of localhost in a container without IPv6."""
    addresses = [("192.0.2.1", 0), ("127.0.0.1", 0)]
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    async with started(host="localhost") as server:
        assert [one.getsockname()[0] for one in server._listener._sockets] == ["127.0.0.1"]
        await server.stop()


NO_ORIGINS = (
    "", "null", "example.org", "https://", "https:///", "https://example.org/page",
    "https://example.org//", "https://example.org?a", "https://*.example.org",
    "https://user@example.org", "https://b\xfccher.example", "https://example.org:443",
    "HTTP://example.org:80", "https://example.org:port", "https://example.org:",
    " https://example.org",
)  # fmt: skip
NO_HOSTS = (
    "", ".", "..", "a..b", "http://example.org", "example.org:80", "example.org/",
    "user@example.org", "*.example.org", "10.0.0.0/8", "[::1]:80", "[example.org]", "a b", "a,b",
    "b\xfccher.example",
)  # fmt: skip


def test_an_origin_or_a_host_that_can_never_match_is_refused() -> None:
    for origin in NO_ORIGINS:
        with pytest.raises(InvalidValueError, match="is no origin"):
            ServerSettings(cors_origins=(origin,))
    for host in NO_HOSTS:
        with pytest.raises(InvalidValueError, match="is no host name"):
            ServerSettings(allowed_hosts=(host,))


def test_hosts_and_origins_that_can_match_are_taken() -> None:
    hosts = ("*", "box", "Box.Lan", "box.lan.", "my_box", "xn--bcher-kva.example", "10.0.0.1",
             "::1", "[fe80::1]")  # fmt: skip
    origins = ("*", "https://example.org", "https://Example.org/", "http://localhost:3000",
               "http://[::1]:5173", "https://example.org:80", "tauri://localhost",
               "chrome-extension://abcdef")  # fmt: skip
    ServerSettings(allowed_hosts=hosts, cors_origins=origins)


@pytest.mark.parametrize(
    "settings", [{"port": 65536}, {"drain_seconds": -1}, {"timeout_seconds": float("nan")}]
)
def test_settings_are_bounded(settings: dict[str, float]) -> None:
    with pytest.raises(InvalidValueError, match="must be between"):
        ServerSettings(**settings)  # type: ignore[arg-type]


# ---- TLS ------------------------------------------------------------------------------------


async def test_tls_speaks_http_1_only() -> None:
    client = ssl.create_default_context(cafile=str(TLS / "cert.pem"))
    client.set_alpn_protocols(["h2", "http/1.1"])
    async with started(**CERTIFICATE) as server:
        assert server.url.startswith("https://127.0.0.1:")
        request = post(BODY, "Connection: close", "Origin: https://localhost")
        reader, writer = await opened(server, request, ssl=client)
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
        reply = parse(await reader.read())
        writer.close()
        await server.stop()
    assert (reply.status, reply.body, reply.complete) == (200, b"one two three", True)


@pytest.mark.slow
async def test_a_tls_client_that_does_not_listen_does_not_hold_the_server_up() -> None:
    """It has its answer, keeps its connection, and never answers the goodbye of TLS."""
    client = ssl.create_default_context(cafile=str(TLS / "cert.pem"))

    def ask_and_keep(port: int) -> ssl.SSLSocket:
        sock = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        kept = client.wrap_socket(sock, server_hostname="localhost")
        kept.sendall(head())
        assert kept.recv(8) == b"HTTP/1.1"
        return kept

    async with started(drain_seconds=3600, **CERTIFICATE) as server:
        kept = await asyncio.to_thread(ask_and_keep, int(server.url.rpartition(":")[2]))
        assert await server.stop() == 0
    kept.close()


@pytest.mark.parametrize("keyfile", ["missing.pem", "cert.pem"])
def test_a_certificate_that_cannot_be_used_is_named(keyfile: str) -> None:
    message = listen_error(port=0, certfile=str(TLS / "cert.pem"), keyfile=str(TLS / keyfile))
    assert "cannot use the certificate in" in message
    assert keyfile in message
