"""Connections as bytes: slow clients, clients that leave or send on, limits; all on sockets."""

import asyncio
import contextlib
import errno
import itertools
import json
import os
import random
import resource
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from llmstream_cli.errors import EngineDiedError
from llmstream_cli.prompts.messages import ToolCallDelta
from llmstream_cli.server.http.listener import Listener
from llmstream_cli.server.settings import ServerSettings
from tests.server.fakes import (
    BODY,
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
from tests.server.http.test_http1 import REFUSED

PROBE = head()
LAST = head("GET", "/health", "Connection: close")


async def test_who_is_not_understood_is_told_why_and_the_connection_closed() -> None:
    async with serving() as served:

        async def refuse(status: int, data: bytes) -> None:
            received = await talk(served, data if data.endswith(b"e\n") else data + PROBE)
            assert received.count(b"HTTP/1.1 ") == 1, received
            reply = parse(received)
            assert (reply.status, reply.headers["connection"]) == (status, "close")
            message = json.loads(reply.body)["error"]["message"]
            assert message.startswith("the request is not understood: ")

        await asyncio.gather(*(refuse(*shape.values) for shape in REFUSED))  # type: ignore[arg-type]
        assert not served.engine.requests


@pytest.mark.parametrize("pause", [None, 0.02])
async def test_one_request_after_the_other_and_several_at_once(pause: float | None) -> None:
    """With blank lines before some, as old clients send them, even in two parts."""
    parts = [b"\r\n", PROBE, b"\r", b"\n", post(b'{"query": "1st"}'), post(b'{"query": "2nd"}')]
    parts += [b"\r\n\r\n", head("HEAD"), PROBE, LAST]
    async with serving(FakeEngine(None)) as served:
        reader, writer = await connect(served)
        for data in parts if pause else [b"".join(parts)]:
            writer.write(data)
            await asyncio.sleep(pause or 0)
        async with asyncio.timeout(TIMEOUT):
            received = await reader.read()
        writer.close()
    assert received.count(b"HTTP/1.1 200") == 6
    assert received.index(b"1st") < received.index(b"2nd")


@pytest.mark.parametrize(
    "headers",
    [
        ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"),
        ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
    ],
)
async def test_upgrade_headers_are_ignored(headers: tuple[str, ...]) -> None:
    async with serving() as served:
        received = await talk(served, head("GET", "/health", *headers) + LAST)
    assert received.count(b"HTTP/1.1 200") == 2


async def test_who_sends_on_and_on_before_it_is_answered_is_cut() -> None:
    engine = FakeEngine()
    engine.gate.clear()
    async with serving(engine) as served:
        received = await talk(served, post(BODY) + PROBE * 5000)
        assert received == b""
        await until(lambda: engine.running == 0)


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


# ---- HTTP/1.0 -------------------------------------------------------------------------------

OLD = post(BODY).replace(b"HTTP/1.1", b"HTTP/1.0")


async def test_a_whole_answer_in_http_1_0_ends_with_the_connection() -> None:
    async with serving() as served:
        assert parse(await talk(served, OLD)).body == b"one two three"


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("cause", ["error", "time", "stop"])
async def test_an_answer_in_http_1_0_that_is_cut_ends_with_a_reset(cause: str, tls: bool) -> None:
    """Else its client would take what it has for a whole: nothing but the end tells the end."""
    error = EngineDiedError("died") if cause == "error" else None
    engine = FakeEngine(["one "], repeat=10**9 if error is None else 1, pause=0.01, error=error)
    settings = CERTIFICATE if tls else {}
    seconds = 0.2 if cause == "time" else 60
    context = ssl.create_default_context(cafile=CERTIFICATE["certfile"]) if tls else None
    async with serving(engine, timeout_seconds=seconds, **settings) as served:
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


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("behind", [b"", PROBE * 3], ids=["", "pipelined"])
@pytest.mark.parametrize("read", [0, 300])  # in the queue or in prefill, or in the middle
async def test_who_leaves_is_generated_for_no_longer(read: int, behind: bytes, reset: bool) -> None:
    engine = FakeEngine(["word "], repeat=10**9, pause=0.001)
    if not read:
        engine.gate.clear()
    async with serving(engine) as served:
        reader, writer = await connect(served)
        if reset:
            linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.write(post(BODY) + behind)
        await until(lambda: engine.running == 1)
        async with asyncio.timeout(TIMEOUT):
            await reader.readexactly(read)
        writer.close()
        await until(lambda: engine.running == 0)


async def test_a_body_and_the_end_of_the_connection_in_one_packet() -> None:
    """Where Python 3.11's `wait_for` would lose the cancellation, and generate for nobody."""
    engine = FakeEngine()
    engine.gate.clear()
    async with serving(engine) as served:
        for _ in range(50):
            with socket.create_connection(("127.0.0.1", served.port)) as sock:
                sock.sendall(post(BODY))
        await until(lambda: engine.requests)
        await until(lambda: engine.running == 0 and served.listener.num_connections == 0)


async def leave_at_random(served: Served, generator: random.Random) -> None:
    data = post(b'{"query": "one two three four five six seven eight"}')
    reader, writer = await connect(served)
    with contextlib.suppress(TimeoutError, ConnectionError):
        writer.write(data[: generator.choice([len(data), generator.randrange(len(data))])])
        await asyncio.sleep(generator.random() * 0.02)
        if generator.random() < 0.5:
            async with asyncio.timeout(generator.random() * 0.05):
                await reader.read(generator.randrange(1, 400))
    if generator.random() < 0.5:
        writer.transport.abort()
    writer.close()


@pytest.mark.slow
async def test_a_thousand_clients_that_leave_at_random_leave_nothing_behind() -> None:
    def num_open_files() -> int:
        return len([*Path("/dev/fd").iterdir()])  # on Linux and macOS

    generator = random.Random(7)
    engine = FakeEngine(pieces=None, repeat=20, pause=0.002)
    async with serving(engine) as served:
        await ask(served, post(BODY))
        files, tasks = num_open_files(), len(asyncio.all_tasks())
        for _ in range(40):
            await asyncio.gather(*(leave_at_random(served, generator) for _ in range(25)))
        await until(lambda: engine.running == 0 and served.listener.num_connections == 0)
        await until(lambda: len(asyncio.all_tasks()) <= tasks and num_open_files() <= files)
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
        for _ in range(3):
            reply = parse(await asyncio.to_thread(send_all_then_read, served.port, data))
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


@pytest.mark.parametrize("data", [b"", b"GET / HTTP/1.1\r\nHost: local", PROBE])
async def test_a_head_that_does_not_come_closes_the_connection(data: bytes) -> None:
    async with serving(header_seconds=0.05) as served:
        received = await talk(served, data)
    assert parse(received).status == 200 if data is PROBE else received == b""


async def test_a_head_that_trickles_closes_the_connection() -> None:
    async with serving(header_seconds=0.1) as served:
        reader, writer = await connect(served)
        closed = asyncio.create_task(reader.read())
        async with asyncio.timeout(TIMEOUT):
            while not closed.done():
                writer.write(b"X")
                await asyncio.sleep(0.01)
        writer.close()


def pause_reading(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    transport = writer.transport
    assert isinstance(transport, asyncio.Transport)
    transport.pause_reading()


async def test_a_reader_that_stops_is_cut_off_while_others_get_all() -> None:
    engine = FakeEngine(["x" * 50_000], repeat=400)  # more than the socket's buffers take
    async with serving(engine, stall_seconds=0.3) as served:
        _, writer = await connect(served)
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


async def test_calls_that_wait_for_a_reader_are_bounded_like_text() -> None:
    taken = itertools.count()
    engine = FakeEngine((), calls=(ToolCallDelta(0, "", "x" * 50_000) for _ in taken))
    async with serving(engine, stall_seconds=30) as served:
        _, writer = await connect(served)
        pause_reading(writer)
        body = b'{"messages": [{"role": "user", "content": "?"}], "stream": true}'
        writer.write(post(body, path="/v1/chat/completions"))
        await until(lambda: engine.requests)
        await until(lambda: engine.running == 0)
        writer.transport.abort()
    assert next(taken) < 1000


# ---- limits ---------------------------------------------------------------------------------


async def test_one_connection_too_many_is_503() -> None:
    async with serving(max_connections=2) as served:
        writers = [(await connect(served))[1] for _ in range(2)]
        await until(lambda: served.listener.num_connections == 2)
        for data in (b"", post(b" " * 900_000)):
            refused = parse(await asyncio.to_thread(send_all_then_read, served.port, data))
            assert refused.status == 503
            assert "retry-after" in refused.headers
            assert json.loads(refused.body)["error"]["code"] == "busy"
        for writer in writers:
            writer.close()
        await until(lambda: served.listener.num_connections == 0)
        assert (await ask(served, PROBE)).status == 200


async def test_connections_leave_files_to_the_rest_of_the_process(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("llmstream_cli.server.http.listener._RETRY_SECONDS", 0.01)
    for limit, told in ((1, True), (100_000, False), (resource.RLIM_INFINITY, False)):
        caplog.clear()
        monkeypatch.setattr(resource, "getrlimit", lambda _, limit=limit: (limit, limit))
        async with serving() as served:
            writers = [(await connect(served))[1] for _ in range(2)]
            await until(lambda: served.listener.num_connections == 2 - told)  # noqa: B023
            await asyncio.sleep(0.05)
            assert served.listener.num_connections == 2 - told
            for writer in writers:
                writer.close()
            assert (await asyncio.wait_for(ask(served, PROBE), TIMEOUT)).status == 200
        assert any("connections have to wait" in line for line in caplog.messages) == told


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENOBUFS, errno.ECONNABORTED])
async def test_a_connection_that_cannot_be_accepted_is_tried_again(
    code: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("llmstream_cli.server.http.listener._RETRY_SECONDS", 0.01)
    loop = asyncio.get_running_loop()
    accept, failures = loop.sock_accept, 5

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


@pytest.mark.parametrize("begun", [False, True])
async def test_an_answer_that_takes_too_long_is_a_504_or_cut(begun: bool) -> None:
    engine = FakeEngine(["word "], repeat=10**9, pause=0.01)
    if not begun:
        engine.gate.clear()
    async with serving(engine, timeout_seconds=0.2) as served:
        reply = await ask(served, post(BODY))
        assert (reply.status, reply.complete) == ((200, False) if begun else (504, True))
        assert begun or b"longer than 0.2 seconds" in reply.body
        await until(lambda: engine.running == 0)
