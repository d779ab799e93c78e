"""Starting, stopping and listening, in this process."""

import asyncio
import socket
import ssl
import time

import pytest

from llmstream_cli.errors import InvalidValueError, ListenError
from llmstream_cli.server.run import STOP_SECONDS, Server
from llmstream_cli.server.settings import ServerSettings
from tests.server.fakes import (
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

BODY = b'{"query": "?"}'


async def opened(server: Server, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    port = int(server.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    return reader, writer


async def test_answers_end_before_the_server_does() -> None:
    engine = FakeEngine(["one ", "two"], pause=0.05)
    server = Server(new_context(engine))
    await server.start()
    reader, writer = await opened(server, post(BODY))
    await until(lambda: engine.requests)
    async with asyncio.timeout(TIMEOUT):
        assert await server.stop() == 0
        reply = parse(await reader.read())
    assert (reply.body, reply.complete) == (b"one two", True)
    assert engine.closed
    writer.close()


async def test_an_answer_that_does_not_end_is_cut() -> None:
    engine = FakeEngine(["word "], repeat=10**9, pause=0.01)
    server = Server(new_context(engine, drain_seconds=0.1))
    await server.start()
    reader, writer = await opened(server, post(BODY))
    await until(lambda: engine.requests)
    async with asyncio.timeout(TIMEOUT):
        assert await server.stop() == 1
        reply = parse(await reader.read())
    assert (reply.status, reply.complete) == (200, False)
    assert engine.running == 0
    writer.close()


async def test_one_that_waits_for_its_first_token_gets_an_error() -> None:
    engine = FakeEngine()
    engine.gate.clear()
    server = Server(new_context(engine, drain_seconds=0.1))
    await server.start()
    reader, writer = await opened(server, post(BODY))
    await until(lambda: engine.requests)
    async with asyncio.timeout(TIMEOUT):
        assert await server.stop() == 1
        reply = parse(await reader.read())
    assert reply.status == 503
    assert b"shutting down" in reply.body
    writer.close()


async def test_connections_that_only_wait_do_not_hold_the_server_up() -> None:
    server = Server(new_context(FakeEngine(), drain_seconds=3600))
    await server.start()
    idle = await opened(server, b"")
    kept = await opened(server, head())
    async with asyncio.timeout(TIMEOUT):
        await kept[0].readuntil(b'{"status":"ok"}')
        assert await server.stop() == 0
    for _, writer in (idle, kept):
        writer.close()


async def test_nothing_that_hangs_holds_the_server_up() -> None:
    class Hanging(FakeEngine):
        async def aclose(self) -> None:
            await asyncio.sleep(3600)

    engine = Hanging()
    engine.gate.clear()
    server = Server(new_context(engine, drain_seconds=0.0))
    await server.start()
    _, writer = await opened(server, post(BODY)[:-5])  # a body that does not come
    started = time.monotonic()
    await server.stop()
    assert time.monotonic() - started < STOP_SECONDS + TIMEOUT / 2  # and not an hour
    writer.close()


async def test_a_stopped_server_listens_no_more() -> None:
    server = Server(new_context(FakeEngine()))
    await server.start()
    await server.stop()
    with pytest.raises(ConnectionRefusedError):
        await opened(server, b"")


# ---- addresses ------------------------------------------------------------------------------


def listen_error(**settings: object) -> str:
    async def start() -> None:
        context = new_context(FakeEngine())
        context.settings = ServerSettings(**settings)  # type: ignore[arg-type]
        await Server(context).start()

    with pytest.raises(ListenError) as caught:
        asyncio.run(start())
    return str(caught.value)


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert listen_error(port=port) == (
            f"port {port} of 127.0.0.1 is taken; choose another one, or 0 for any that is free"
        )


def test_an_address_of_another_machine_cannot_be_bound() -> None:
    assert "cannot listen on 192.0.2.1" in listen_error(host="192.0.2.1")


def test_a_name_without_an_address_cannot_be_bound() -> None:
    assert "cannot find the address nowhere.invalid" in listen_error(host="nowhere.invalid")


async def test_localhost_is_all_of_its_addresses_on_one_port() -> None:
    context = new_context(FakeEngine(), host="localhost")
    server = Server(context)
    await server.start()
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
    server = Server(new_context(FakeEngine(), host="localhost"))
    await server.start()
    assert [one.getsockname()[0] for one in server._listener._sockets] == ["127.0.0.1"]
    await server.stop()


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "null",
        "example.org",
        "https://",
        "https:///",
        "https://example.org/page",
        "https://example.org//",
        "https://example.org?a",
        "https://*.example.org",
        "https://user@example.org",
        "https://b\xfccher.example",
        "https://example.org:443",
        "HTTP://example.org:80",
        "https://example.org:port",
        "https://example.org:",
        " https://example.org",
    ],
)
def test_an_origin_that_no_browser_sends_is_refused(origin: str) -> None:
    with pytest.raises(InvalidValueError, match="is no origin"):
        ServerSettings(cors_origins=(origin,))


@pytest.mark.parametrize(
    "host",
    [
        "",
        ".",
        "..",
        "a..b",
        "http://example.org",
        "example.org:80",
        "example.org/",
        "user@example.org",
        "*.example.org",
        "10.0.0.0/8",
        "[::1]:80",
        "[example.org]",
        "a b",
        "a,b",
        "b\xfccher.example",
    ],
)
def test_a_host_that_no_client_names_is_refused(host: str) -> None:
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
    server = Server(new_context(FakeEngine(), **CERTIFICATE))
    await server.start()
    assert server.url.startswith("https://127.0.0.1:")
    client = ssl.create_default_context(cafile=str(TLS / "cert.pem"))
    client.set_alpn_protocols(["h2", "http/1.1"])
    port = int(server.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client)
    assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
    writer.write(post(BODY, "Connection: close", "Origin: https://localhost"))
    async with asyncio.timeout(TIMEOUT):
        reply = parse(await reader.read())
    assert (reply.status, reply.body, reply.complete) == (200, b"one two three", True)
    writer.close()
    await server.stop()


async def test_a_tls_client_that_does_not_listen_does_not_hold_the_server_up() -> None:
    """It has its answer, keeps its connection, and never answers the goodbye of TLS."""
    server = Server(new_context(FakeEngine(), drain_seconds=3600, **CERTIFICATE))
    await server.start()
    client = ssl.create_default_context(cafile=str(TLS / "cert.pem"))
    port = int(server.url.rpartition(":")[2])

    def ask_and_keep() -> ssl.SSLSocket:
        sock = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        kept = client.wrap_socket(sock, server_hostname="localhost")
        kept.sendall(head())
        assert kept.recv(8) == b"HTTP/1.1"
        return kept

    kept = await asyncio.to_thread(ask_and_keep)
    async with asyncio.timeout(TIMEOUT):
        assert await server.stop() == 0
    kept.close()


@pytest.mark.parametrize("keyfile", ["missing.pem", "cert.pem"])
def test_a_certificate_that_cannot_be_used_is_named(keyfile: str) -> None:
    message = listen_error(port=0, certfile=str(TLS / "cert.pem"), keyfile=str(TLS / keyfile))
    assert "cannot use the certificate in" in message
    assert keyfile in message
