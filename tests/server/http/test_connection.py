"""Connections as bytes: smuggling shapes, slow clients, clients that leave, limits."""

import asyncio
import contextlib
import errno
import json
import os
import random
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from llmstream_cli.errors import EngineDiedError
from llmstream_cli.server.http.listener import Listener
from llmstream_cli.server.settings import ServerSettings
from tests.server.fakes import (
    CERTIFICATE,
    TIMEOUT,
    FakeEngine,
    Served,
    ask,
    connect,
    head,
    parse,
    post,
    serving,
    talk,
    until,
)

BODY = b'{"query": "?"}'
ENCODED = b"Transfer-Encoding: chunked\r\n"
POST = b"POST /token_stream HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CHUNKED = b"e\r\n" + BODY + b"\r\n0\r\n\r\n"
PROBE = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"

# A second request in each, which a server that reads it otherwise would answer.
SMUGGLED = {
    "length and encoding": POST + b"Content-Length: 14\r\n" + ENCODED + b"\r\n" + CHUNKED,
    "encoding and length": POST + ENCODED + b"Content-Length: 4\r\n\r\n" + CHUNKED,
    "two equal lengths": POST + b"Content-Length: 14\r\nContent-Length: 14\r\n\r\n" + BODY,
    "two lengths": POST + b"Content-Length: 14\r\nContent-Length: 0\r\n\r\n" + BODY,
    "a list of lengths": POST + b"Content-Length: 14, 14\r\n\r\n" + BODY,
    "a signed length": POST + b"Content-Length: +14\r\n\r\n" + BODY,
    "a hexadecimal length": POST + b"Content-Length: 0xe\r\n\r\n" + BODY,
    "two encodings": POST + ENCODED * 2 + b"\r\n" + CHUNKED,
    "an encoding that hides": POST + b"Transfer-Encoding: xchunked\r\n\r\n" + CHUNKED,
    "a list of encodings": POST + b"Transfer-Encoding: identity, chunked\r\n\r\n" + CHUNKED,
    "a space before the colon": POST + b"Transfer-Encoding : chunked\r\n\r\n" + CHUNKED,
    "a control in an encoding": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n" + CHUNKED,
    "a folded header": POST + b"Content-Length:\r\n 14\r\n\r\n" + BODY,
    "bare line feeds": POST.replace(b"\r\n", b"\n") + b"Content-Length: 14\n\n" + BODY,
    "one bare line feed": POST + b"X-A: b\nContent-Length: 14\r\n\r\n" + BODY,
    "a bare carriage return": POST + b"X-A: b\rContent-Length: 14\r\n\r\n" + BODY,
    "a NUL": POST + b"X-A: \x00\r\nContent-Length: 14\r\n\r\n" + BODY,
    "chunks in HTTP/1.0": POST.replace(b"1.1", b"1.0") + ENCODED + b"\r\n" + CHUNKED,
    "another version": POST.replace(b"1.1", b"1.2") + b"Content-Length: 14\r\n\r\n" + BODY,
    "an absolute target": b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "no path": b"GET * HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a tunnel": b"CONNECT localhost:22 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "HTTP/2 at once": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00" * 9,
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "a head without end": b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 40_000,
    "a line without end": b"GET /" + b"x" * 40_000,
    "a line feed before": b"\n" + PROBE,
    "a carriage return before": b"\r" + PROBE,
    "a space before": b" " + PROBE,
}  # fmt: skip

# What comes after the first chunk of a body, up to where the next request begins.
ENDS = {
    "a bare line feed": b"0\r\n\n",
    "a bare line feed after a trailer": b"0\r\nX: y\r\n\n",
    "a trailer with a bare line feed": b"0\r\nX: y\n\r\n",
    "line feeds only": b"0\r\nX: y\n\n",
    "a bare carriage return": b"0\r\nX: y\rZ: a\r\n\r\n",
    "a folded trailer": b"0\r\nX: y\r\n z\r\n\r\n",
    "a trailer that begins folded": b"0\r\n X: y\r\n\r\n",
    "no trailer": b"0\r\nxy\r\n\r\n",
    "a space before the colon": b"0\r\nX : y\r\n\r\n",
    "trailers without end": b"0\r\nX: " + b"y" * 40_000,
    "many trailers": b"0\r\n" + b"X: yyyyyyyy\r\n" * 4_000 + b"\r\n",
    "a bare carriage return in an extension": b"0;a\rb\r\n\r\n",
    "a bare line feed in an extension": b"0;a\nb\r\n\r\n",
    "an extension without end": b"0;" + b"a" * 40_000,
}


@pytest.mark.parametrize("data", SMUGGLED.values(), ids=SMUGGLED)
async def test_what_others_could_read_otherwise_is_refused_and_the_connection_closed(
    data: bytes,
) -> None:
    async with serving() as served:
        received = await talk(served, data + PROBE)
        assert received.count(b"HTTP/1.1 ") == 1, received
        assert parse(received).status in {400, 414, 431, 501, 505}
        assert b"200 OK" not in received
        assert not served.engine.requests


@pytest.mark.parametrize("pieces", [1, 1_000])
@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
async def test_a_body_that_others_could_end_elsewhere_is_refused(end: bytes, pieces: int) -> None:
    data = POST + ENCODED + b"\r\ne\r\n" + BODY + b"\r\n" + end + PROBE
    async with serving() as served:
        reader, writer = await connect(served)
        for start in range(0, len(data), len(data) // pieces + 1):
            writer.write(data[start : start + len(data) // pieces + 1])
            await asyncio.sleep(0)
        async with asyncio.timeout(TIMEOUT):
            received = await reader.read()
        writer.close()
        assert received.count(b"HTTP/1.1 ") == 1, received
        assert parse(received).status in {400, 431}
        assert not served.engine.requests


async def test_trailers_are_taken_and_dropped() -> None:
    end = b"0;last=1\r\nX-Sum: abc\r\nX-Other: \r\n\r\n"
    data = POST + ENCODED + b"\r\ne\r\n" + BODY + b"\r\n" + end
    async with serving() as served:
        received = await talk(served, data + head("GET", "/health", "Connection: close"))
        assert received.count(b"HTTP/1.1 200") == 2


@pytest.mark.parametrize("pause", [False, True])
async def test_blank_lines_before_a_request_are_skipped(pause: bool) -> None:
    """Old clients send one behind a body (RFC 9112, section 2.2)."""
    async with serving() as served:
        reader, writer = await connect(served)
        last = head("GET", "/health", "Connection: close")
        for data in (b"\r\n", PROBE, b"\r", b"\n", post(BODY), b"\r\n\r\n", last):
            writer.write(data)
            await asyncio.sleep(0.05 if pause else 0)
        async with asyncio.timeout(TIMEOUT):
            received = await reader.read()
        writer.close()
    assert received.count(b"HTTP/1.1 200") == 3, received


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nNonsense\r\n\r\n", 400),
        (POST + b"Transfer-Encoding: gzip\r\n\r\n", 501),
        (b"GET / HTTP/1.2\r\nHost: localhost\r\n\r\n", 505),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 32_750 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: x\r\n" * 6_000 + b"\r\n", 431),
        (b"GET /" + b"x" * 33_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414),
    ],
)
async def test_who_is_not_understood_is_told_why(data: bytes, status: int) -> None:
    async with serving() as served:
        reply = parse(await talk(served, data))
    assert (reply.status, reply.headers["connection"]) == (status, "close")
    assert json.loads(reply.body)["error"]["message"].startswith("the request is not understood: ")


@pytest.mark.parametrize("read_at_once", [True, False])
async def test_a_head_of_32_kib_is_taken_and_no_longer_one(read_at_once: bool) -> None:
    top = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX: "
    async with serving() as served:
        for size, status in ((32_768, 200), (32_769, 431)):
            data = top + b"x" * (size - len(top) - 4) + b"\r\n\r\n"
            reader, writer = await connect(served)
            writer.write(data[:-1])
            if not read_at_once:
                await asyncio.sleep(0.05)
            writer.write(data[-1:])
            async with asyncio.timeout(TIMEOUT):
                assert parse(await reader.read()).status == status
            writer.close()


async def test_a_bare_line_feed_behind_the_size_of_a_chunk_is_refused_at_once() -> None:
    async with serving() as served:
        received = await talk(served, POST + ENCODED + b"\r\ne\n")  # and no more
    assert parse(received).status == 400


@pytest.mark.parametrize(
    "size", [b"-e", b"0xe", b"e;\n", b"+e", b" e", b"e" * 30, b"", b"\ne"], ids=repr
)
async def test_a_chunk_of_a_strange_size_is_refused(size: bytes) -> None:
    top = POST + b"Transfer-Encoding: chunked\r\n\r\n"
    async with serving(body_seconds=0.2) as served:
        received = await talk(served, top + size + b"\r\n" + BODY + b"\r\n0\r\n\r\n" + PROBE)
        assert b"200 " not in received
        assert not served.engine.requests


async def test_no_upgrade_is_heard() -> None:
    settings = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")
    websocket = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
                 "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")  # fmt: skip
    async with serving() as served:
        for headers in (settings, websocket):
            reader, writer = await connect(served)
            writer.write(head("GET", "/health", *headers))
            async with asyncio.timeout(TIMEOUT):
                assert (await reader.readline()) == b"HTTP/1.1 200 \r\n"
            writer.close()


async def test_a_connection_serves_one_request_after_the_other() -> None:
    async with serving() as served:
        last = head("GET", "/health", "Connection: close")
        reader, writer = await connect(served)
        for data in (PROBE, post(BODY), PROBE, last):
            writer.write(data)
            await asyncio.sleep(0.01)
        async with asyncio.timeout(TIMEOUT):
            received = await reader.read(-1)
        writer.close()
    assert received.count(b"HTTP/1.1 200") == 4


async def test_requests_that_come_at_once_are_answered_in_order() -> None:
    engine = FakeEngine(pieces=None, pause=0.01)
    first, second = b'{"query": "first"}', b'{"query": "second"}'
    async with serving(engine) as served:
        received = await talk(served, post(first) + post(second, "Connection: close"))
    assert received.index(b"first") < received.index(b"second")


async def test_a_long_request_right_behind_a_response_is_no_pipelining() -> None:
    """Though the application may have something to do yet when its response is out."""

    async def app(_: Any, receive: Any, send: Any) -> None:
        while (await receive())["more_body"]:
            pass
        waiting = asyncio.ensure_future(receive())
        headers = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok"})
        await asyncio.sleep(0.1)
        waiting.cancel()

    listener = Listener(app, ServerSettings(port=0))  # type: ignore[arg-type]
    await listener.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    async with asyncio.timeout(TIMEOUT):
        for _ in range(3):
            writer.write(post(b" " * 300_000))
            await reader.readuntil(b"ok")
    writer.close()
    await listener.stop_accepting()
    assert await listener.wait_closed(TIMEOUT)


async def test_a_client_that_sends_on_and_on_before_it_is_answered_is_cut() -> None:
    engine = FakeEngine()
    engine.gate.clear()
    async with serving(engine) as served:
        reader, writer = await connect(served)
        writer.write(post(BODY) + PROBE * 5000)
        async with asyncio.timeout(TIMEOUT):
            with contextlib.suppress(ConnectionError):
                while await reader.read(65536):
                    pass
        writer.close()
        await until(lambda: engine.running == 0)


# ---- HTTP/1.0 -------------------------------------------------------------------------------

OLD = post(BODY).replace(b"HTTP/1.1", b"HTTP/1.0")


async def test_a_whole_answer_in_http_1_0_ends_with_the_connection() -> None:
    async with serving() as served:
        reader, writer = await connect(served)
        writer.write(OLD)
        async with asyncio.timeout(TIMEOUT):
            assert parse(await reader.read()).body == b"one two three"
        writer.close()


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("cause", ["error", "time", "stop"])
async def test_an_answer_in_http_1_0_that_is_cut_ends_with_a_reset(cause: str, tls: bool) -> None:
    """Else its client would take what it has for a whole: nothing but the end tells the end."""
    error = EngineDiedError("died") if cause == "error" else None
    engine = FakeEngine(["one "], repeat=10**9 if error is None else 1, pause=0.01, error=error)
    settings = {
        **(CERTIFICATE if tls else {}),
        **({"timeout_seconds": 1} if cause == "time" else {}),
    }
    context = ssl.create_default_context(cafile=CERTIFICATE["certfile"]) if tls else None
    async with serving(engine, **settings) as served:
        reader, writer = await asyncio.open_connection("localhost", served.port, ssl=context)
        writer.write(OLD)
        async with asyncio.timeout(TIMEOUT):
            assert (await reader.readuntil(b"one ")).startswith(b"HTTP/1.1 200")
            if cause == "stop":
                served.listener.abort()
            with pytest.raises(ConnectionResetError):
                await reader.read()
        writer.close()


# ---- clients that leave ---------------------------------------------------------------------


async def gone(served: Served, data: bytes, *, reset: bool, read: int = 0) -> None:
    """Send a request, read so many bytes, and leave: with a reset, or in good manners."""
    reader, writer = await connect(served)
    if reset:
        linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.write(data)
    await writer.drain()
    if read:
        async with asyncio.timeout(TIMEOUT):
            await reader.readexactly(read)
    writer.close()


@pytest.mark.parametrize("reset", [False, True])
async def test_who_leaves_before_the_first_token_is_generated_for_no_longer(reset: bool) -> None:
    engine = FakeEngine()
    engine.gate.clear()  # in the queue, or in prefill
    async with serving(engine) as served:
        await gone(served, post(BODY), reset=reset)
        await until(lambda: engine.requests)
        await until(lambda: engine.running == 0)


@pytest.mark.parametrize("reset", [False, True])
async def test_who_leaves_in_the_middle_is_generated_for_no_longer(reset: bool) -> None:
    engine = FakeEngine(["word "], repeat=10**9, pause=0.001)
    async with serving(engine) as served:
        await gone(served, post(BODY), reset=reset, read=300)
        await until(lambda: engine.running == 0)


async def test_who_leaves_with_more_requests_in_the_pipe_is_seen_to_leave() -> None:
    engine = FakeEngine()
    engine.gate.clear()
    async with serving(engine) as served:
        await gone(served, post(BODY) + PROBE * 3, reset=False)
        await until(lambda: engine.requests)
        await until(lambda: engine.running == 0)


async def test_a_body_and_the_end_of_the_connection_in_one_packet() -> None:
    """Where Python 3.11's `wait_for` would lose the cancellation, and generate for nobody."""
    engine = FakeEngine()
    engine.gate.clear()
    async with serving(engine) as served:
        for _ in range(50):
            sock = socket.create_connection(("127.0.0.1", served.port))
            sock.sendall(post(BODY))
            sock.close()
        await until(lambda: engine.requests)
        await until(lambda: engine.running == 0 and served.listener.num_connections == 0)


def num_open_files() -> int:
    folder = Path("/dev/fd")  # on Linux and macOS
    return sum(1 for _ in folder.iterdir())


async def leave_at_random(served: Served, generator: random.Random) -> None:
    data = post(b'{"query": "one two three four five six seven eight"}')
    reader, writer = await connect(served)
    try:
        writer.write(
            data[: generator.choice([len(data), len(data), generator.randrange(len(data))])]
        )
        await asyncio.sleep(generator.random() * 0.02)
        if generator.random() < 0.5:
            async with asyncio.timeout(generator.random() * 0.05):
                await reader.read(generator.randrange(1, 400))
    except (TimeoutError, ConnectionError):
        pass
    finally:
        if generator.random() < 0.5:
            writer.transport.abort()
        writer.close()


async def test_a_thousand_clients_that_leave_at_random_leave_nothing_behind() -> None:
    generator = random.Random(7)
    engine = FakeEngine(pieces=None, repeat=20, pause=0.002)
    async with serving(engine) as served:
        await ask(served, post(BODY))
        files, tasks = num_open_files(), len(asyncio.all_tasks())
        for _ in range(40):
            await asyncio.gather(*(leave_at_random(served, generator) for _ in range(25)))
        await until(lambda: engine.running == 0 and served.listener.num_connections == 0)
        await until(lambda: len(asyncio.all_tasks()) <= tasks and num_open_files() <= files)
        assert not served.context.requests.active
        assert (await ask(served, post(BODY))).complete


# ---- clients that send what nobody wants ------------------------------------------------------


def send_all_then_read(port: int, data: bytes) -> bytes:
    """As simple clients do, and lose the response if the connection is reset meanwhile."""
    with socket.create_connection(("127.0.0.1", port), TIMEOUT) as sock:
        sock.sendall(data)
        return b"".join(iter(lambda: sock.recv(65536), b""))


@pytest.mark.parametrize(
    ("headers", "size", "status"),
    [
        ((), 900_000, 401),
        (("X-Api-Key: k",), 20_000_000, 413),
        (("X-Api-Key: k", "Content-Length: 1"), 900_000, 400),
    ],
)
async def test_who_is_refused_by_the_head_of_a_request_sees_why(
    headers: tuple[str, ...], size: int, status: int
) -> None:
    data = post(b" " * size, *headers)
    async with serving(api_keys=("k",)) as served:
        for _ in range(5):
            received = await asyncio.to_thread(send_all_then_read, served.port, data)
            reply = parse(received)
            assert (reply.status, reply.headers["connection"]) == (status, "close")


async def test_who_sends_on_and_on_after_that_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmstream_cli.server.http.connection._LINGER_SECONDS", 0.1)
    async with serving() as served:
        reader, writer = await connect(served)
        writer.write(head("POST", "/token_stream", f"Content-Length: {10**9}"))
        async with asyncio.timeout(TIMEOUT):
            assert parse(await reader.read()).status == 415
            while served.listener.num_connections:
                writer.write(b" ")
                await asyncio.sleep(0.01)
        writer.close()


# ---- slow clients ---------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"GET / HTTP/1.1\r\nHost: local"], ids=["silent", "slow"])
async def test_a_head_that_does_not_come_closes_the_connection(data: bytes) -> None:
    async with serving(header_seconds=0.05) as served:
        assert await talk(served, data) == b""


async def test_a_head_that_trickles_closes_the_connection() -> None:
    async with serving(header_seconds=0.2) as served:
        reader, writer = await connect(served)
        closed = asyncio.create_task(reader.read())
        async with asyncio.timeout(TIMEOUT):
            while not closed.done():
                writer.write(b"X")
                await asyncio.sleep(0.01)
        writer.close()


async def test_an_idle_connection_is_closed() -> None:
    async with serving(header_seconds=0.05) as served:
        assert parse(await talk(served, PROBE)).status == 200


def pause_reading(writer: asyncio.StreamWriter) -> None:
    transport = writer.transport
    assert isinstance(transport, asyncio.Transport)
    transport.pause_reading()


async def test_a_reader_that_stops_is_cut_off_while_others_get_all() -> None:
    engine = FakeEngine(["x" * 50_000], repeat=400)  # more than the socket's buffers take
    async with serving(engine, stall_seconds=0.3) as served:
        _, writer = await connect(served)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        pause_reading(writer)
        writer.write(post(BODY))
        await until(lambda: engine.requests)
        brief = await asyncio.gather(*(ask(served, head()) for _ in range(8)))
        assert all(reply.complete for reply in brief)
        await until(lambda: served.listener.num_connections == 0)
        writer.close()


async def test_a_reader_that_is_only_slow_gets_all() -> None:
    engine = FakeEngine(["x" * 10_000], repeat=300)
    async with serving(engine, stall_seconds=0.5) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port, limit=4096)
        writer.write(post(BODY, "Connection: close"))
        received = b""
        async with asyncio.timeout(TIMEOUT):
            while part := await reader.read(200_000):
                received += part
                await asyncio.sleep(0.005)
        writer.close()
    assert parse(received).body == b"x" * 3_000_000


async def test_who_takes_no_answer_and_asks_no_more_is_cut_off() -> None:
    """A little waits for it in the server, too little to hold a response up."""
    async with serving(header_seconds=0.2, stall_seconds=0.2) as served:
        _, writer = await connect(served)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        pause_reading(writer)
        await until(lambda: served.listener.num_connections == 1)
        (connection,) = served.listener._connections
        while not connection._writer.transport.get_write_buffer_size():
            writer.write(head("GET", "/openapi.json"))
            await asyncio.sleep(0.01)
        await until(lambda: served.listener.num_connections == 0)
        writer.transport.abort()


async def test_what_waits_for_a_reader_is_bounded() -> None:
    engine = FakeEngine(["x" * 50_000], repeat=10**6)
    async with serving(engine, stall_seconds=30) as served:
        _, writer = await connect(served)
        pause_reading(writer)
        writer.write(post(BODY))
        await until(lambda: engine.requests)
        await until(lambda: engine.running == 0)  # long before it stalls
        writer.transport.abort()


# ---- limits ---------------------------------------------------------------------------------


async def test_one_connection_too_many_is_503() -> None:
    async with serving(max_connections=2) as served:
        writers = [(await connect(served))[1] for _ in range(2)]
        await until(lambda: served.listener.num_connections == 2)
        for data in (b"", post(b" " * 900_000)):
            received = await asyncio.to_thread(send_all_then_read, served.port, data)
            refused = parse(received)
            assert refused.status == 503
            assert "retry-after" in refused.headers
            assert json.loads(refused.body)["error"]["code"] == "busy"
        for writer in writers:
            writer.close()
        await until(lambda: served.listener.num_connections == 0)
        assert (await ask(served, PROBE)).status == 200


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ECONNABORTED])
async def test_a_connection_that_cannot_be_accepted_is_tried_again(
    code: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("llmstream_cli.server.http.listener._RETRY_SECONDS", 0.01)
    loop = asyncio.get_running_loop()
    accept, failures = loop.sock_accept, 20

    async def fail_at_first(sock: socket.socket) -> Any:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise OSError(code, os.strerror(code))
        return await accept(sock)

    monkeypatch.setattr(loop, "sock_accept", fail_at_first)
    async with serving() as served:
        assert (await ask(served, PROBE)).status == 200
    assert failures < 0
    told = [line for line in caplog.messages if "connections have to wait" in line]
    assert len(told) == (code != errno.ECONNABORTED)


async def test_an_answer_that_takes_too_long_is_504_before_its_first_token() -> None:
    engine = FakeEngine()
    engine.gate.clear()
    async with serving(engine, timeout_seconds=1) as served:
        reply = await ask(served, post(BODY))
        assert reply.status == 504
        assert b"longer than 1 seconds" in reply.body
        await until(lambda: engine.running == 0)


async def test_an_answer_that_takes_too_long_is_cut_after_it() -> None:
    engine = FakeEngine(["word "], repeat=10**9, pause=0.01)
    async with serving(engine, timeout_seconds=1) as served:
        reply = await ask(served, post(BODY))
        assert (reply.status, reply.complete) == (200, False)
        await until(lambda: engine.running == 0)
