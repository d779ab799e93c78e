"""Answers whose connection is lost, resumed at a byte, over real sockets."""

import asyncio
import contextlib
import json
import random
from pathlib import Path

import pytest

from llmstream_cli.errors import EngineDiedError, QueueFullError
from llmstream_cli.server.http import answers
from llmstream_cli.server.run import Server
from tests.server.fakes import (
    FakeEngine,
    Reply,
    Served,
    ask,
    connect,
    fail_with,
    head,
    new_context,
    parse,
    post,
    serving,
    until,
)

PIECES = ("Paris is ", "in ", "France, ", "naïve 😀.")
CHAT = b'{"messages": [{"role": "user", "content": "?"}], "stream": true}'
FORMATS = {"/token_stream": b'{"query": "?"}', "/v1/chat/completions": CHAT, "/api/chat": CHAT}


async def begin(
    served: Served, *headers: str, path: str = "/token_stream"
) -> tuple[str, asyncio.StreamWriter]:
    """Ask, read the head of the response, and return the answer's place and the connection."""
    reader, writer = await connect(served)
    writer.write(post(FORMATS[path], "Resume: 60", *headers, path=path))
    top = (await reader.readuntil(b"\r\n\r\n")).decode()
    return place_of(top), writer


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


def place_of(top: str) -> str:
    return top.partition("location: ")[2].partition("\r\n")[0]


async def resume(served: Served, place: str, start: int, *headers: str) -> Reply:
    return await ask(served, head("GET", place, f"Range: bytes={start}-", *headers))


async def whole(served: Served, path: str) -> tuple[str, bytes]:
    """Ask over a connection that is lost at once; return the answer's place and all of it."""
    place, writer = await begin(served, path=path)
    await close(writer)
    reply = await ask(served, head("GET", place))
    assert reply.status == 200
    assert reply.complete
    return place, reply.body


@pytest.mark.parametrize("path", FORMATS)
async def test_an_answer_goes_on_at_every_byte(path: str) -> None:
    async with serving(FakeEngine(PIECES)) as served:
        place, body = await whole(served, path)
        for start in range(0, len(body), 1 if path == "/token_stream" else 41):
            reply = await resume(served, place, start)
            assert (reply.status, reply.body) == (206, body[start:])
            span = f"bytes {start}-{len(body) - 1}/{len(body)}"
            assert reply.headers["content-range"] == span
        assert body.decode() == "".join(PIECES) or path != "/token_stream"


async def test_an_answer_is_resumed_while_it_is_generated() -> None:
    """Five hundred connections at once, each lost after some bytes; every answer is whole."""
    engine = FakeEngine(PIECES, repeat=30, pause=0.005)
    rng = random.Random(0)
    async with serving(engine) as served:

        async def lose_and_resume() -> bytes:
            place, writer = await begin(served)
            await close(writer)
            body = b""
            for _ in range(10):
                body += await read_a_while(served, place, len(body), rng.random() * 0.3)
            if (reply := await resume(served, place, len(body))).status == 206:
                body += reply.body
            return body

        bodies = await asyncio.gather(*(lose_and_resume() for _ in range(50)))
    assert set(bodies) == {"".join(PIECES * 30).encode()}


async def read_a_while(served: Served, place: str, start: int, seconds: float) -> bytes:
    reader, writer = await connect(served)
    writer.write(head("GET", place, f"Range: bytes={start}-"))
    received = b""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while part := await reader.read(65536):
                received += part
    await close(writer)
    received = received[: received.rfind(b"\r\n") + 2]  # as far as its last whole line
    return parse(received).body if received.startswith(b"HTTP/1.1 206") else b""


async def test_curl_continues_a_file(tmp_path: Path) -> None:
    async with serving(FakeEngine(PIECES)) as served:
        place, body = await whole(served, "/token_stream")
        file = tmp_path / "answer.txt"
        file.write_bytes(body[:11])
        command = ("curl", "-sS", "-C", "-", "-o", str(file), served.url + place)
        process = await asyncio.create_subprocess_exec(*command)
        assert await process.wait() == 0
        assert file.read_bytes() == body


async def test_what_is_to_come_has_no_end_yet() -> None:
    engine = FakeEngine(PIECES, repeat=10**6, pause=0.01)
    async with serving(engine) as served:
        place, writer = await begin(served)
        await close(writer)
        reply = await ask(served, head("HEAD", place, "Range: bytes=1-"))
        assert reply.status == 206
        assert reply.headers["content-range"] == f"bytes 1-{2**53 - 1}/*"  # as RFC 8673 writes it
        assert (await resume(served, place, 10**9)).status == 416
        await ask(served, head("DELETE", place))


@pytest.mark.parametrize("behind", [0, 1, 10**30])
async def test_a_byte_behind_the_end_is_refused(behind: int) -> None:
    async with serving(FakeEngine(PIECES)) as served:
        place, body = await whole(served, "/token_stream")
        reply = await resume(served, place, len(body) + behind)
        assert reply.status == 416
        assert reply.headers["content-range"] == f"bytes */{len(body)}"


@pytest.mark.parametrize("value", ["bytes=-5", "bytes=0-5", "bytes=x-", "lines=0-", "bytes=²-"])
async def test_other_ranges_get_the_whole_answer(value: str) -> None:
    async with serving(FakeEngine(PIECES)) as served:
        place, body = await whole(served, "/token_stream")
        reply = await ask(
            served,
            head("GET", place).replace(b"\r\n\r\n", b"\r\n", 1)
            + f"Range: {value}\r\n\r\n".encode(),
        )
        assert (reply.status, reply.body) == (200, body)


async def test_delete_stops_it() -> None:
    engine = FakeEngine(PIECES, repeat=10**6, pause=0.01)
    async with serving(engine) as served:
        place, writer = await begin(served)
        await close(writer)
        assert engine.running == 1
        assert (await ask(served, head("DELETE", place))).status == 204
        await until(lambda: engine.running == 0)
        assert (await ask(served, head("GET", place))).status == 404


async def test_without_the_header_a_lost_connection_stops_the_answer() -> None:
    engine = FakeEngine(PIECES, repeat=10**6, pause=0.01)
    async with serving(engine) as served:
        reader, writer = await connect(served)
        writer.write(post(b'{"query": "?"}'))
        top = await reader.readuntil(b"\r\n\r\n")
        assert b"location" not in top
        await close(writer)
        await until(lambda: engine.running == 0)


async def test_it_is_forgotten_in_its_time() -> None:
    engine = FakeEngine(PIECES, repeat=10**6, pause=0.01)
    async with serving(engine) as served:
        reader, writer = await connect(served)
        writer.write(post(b'{"query": "?", "resume": 1}'))
        top = (await reader.readuntil(b"\r\n\r\n")).decode()
        place = place_of(top)
        assert (await ask(served, head("HEAD", place))).status == 200
        await close(writer)
        await until(lambda: engine.running == 0)
        assert (await ask(served, head("GET", place))).status == 404


async def test_a_stranger_does_not_find_it() -> None:
    keys = ("first", "second")
    async with serving(FakeEngine(PIECES), api_keys=keys) as served:
        place, writer = await begin(served, "Authorization: Bearer first")
        await close(writer)
        for key, status in (("first", 200), ("second", 404), ("third", 401)):
            reply = await ask(served, head("GET", place, f"Authorization: Bearer {key}"))
            assert reply.status == status
        assert (
            await ask(served, head("GET", "/answers/guessed", "X-Api-Key: first"))
        ).status == 404


@pytest.mark.parametrize("value", ["", "-1", "601", "1.5", "soon", "9" * 5000])
async def test_other_times_are_refused(value: str) -> None:
    async with serving() as served:
        reply = await ask(served, post(b'{"query": "?"}', f"Resume: {value}"))
        assert reply.status == 422
        assert json.loads(reply.body)["error"]["param"] == "Resume"


async def test_an_error_before_the_first_token_is_an_ordinary_one() -> None:
    async with serving(fail_with(QueueFullError("full"))) as served:
        reply = await ask(served, post(b'{"query": "?"}', "Resume: 60"))
        assert reply.status == 429
        assert not served.context.answers._by_id


async def test_one_that_was_cut_ends_so_for_whoever_resumes_it() -> None:
    async with serving(fail_with(EngineDiedError("died"), "one")) as served:
        place, writer = await begin(served)
        await close(writer)
        reply = await ask(served, head("GET", place))
        assert reply.body == b"one"
        assert not reply.complete


async def test_the_memory_that_answers_take_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MAX_ANSWER_BYTES", 1000)
    monkeypatch.setattr(answers, "MAX_BYTES", 2500)
    engine = FakeEngine(["x" * 300], repeat=3)
    async with serving(engine) as served:
        places = []
        for _ in range(6):
            place, writer = await begin(served)
            await close(writer)
            places.append(place)
            await until(lambda: engine.running == 0)
            kept = sum(len(one.data) for one in served.context.answers._by_id.values())
            assert kept <= 2500
        statuses = [(await ask(served, head("GET", place))).status for place in places]
        assert statuses == [404, 404, 404, 404, 200, 200]
        engine.repeat = 4
        place, writer = await begin(served)
        await close(writer)
        reply = await ask(served, head("GET", place))
        assert len(reply.body) == 900
        assert not reply.complete


async def test_an_answer_that_was_cut_is_never_called_whole() -> None:
    async with serving(fail_with(EngineDiedError("died"), "one")) as served:
        place, writer = await begin(served)
        await close(writer)
        reply = await resume(served, place, 1)
        assert (reply.status, reply.body, reply.complete) == (206, b"ne", False)
        assert reply.headers["content-range"].endswith("/*")
        assert (await resume(served, place, 3)).status == 410


async def test_head_tells_the_length() -> None:
    async with serving(FakeEngine(PIECES)) as served:
        place, body = await whole(served, "/token_stream")
        reply = await ask(served, head("HEAD", place))
        assert reply.headers["content-length"] == str(len(body))


async def test_one_that_is_too_long_says_so_where_its_format_can(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(answers, "MAX_ANSWER_BYTES", 1500)
    async with serving(FakeEngine(["x"], repeat=30)) as served:
        place, writer = await begin(served, path="/v1/chat/completions")
        await close(writer)
        reply = await ask(served, head("GET", place))
        assert b"too long to be kept" in reply.body
        assert not reply.complete


async def test_the_number_of_answers_is_bounded_and_requests_are_not_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(answers, "MAX_ANSWERS", 3)
    async with serving(FakeEngine(["x"])) as served:
        for _ in range(8):
            await whole(served, "/token_stream")
        kept = [*served.context.answers._by_id.values()]
        assert len(kept) == 3
        assert all(answer.task is None for answer in kept)
        assert served.context.answers._num_bytes == len(kept)


async def test_one_more_than_can_be_kept_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MAX_ANSWERS", 1)
    async with serving(FakeEngine(PIECES, repeat=10**6, pause=0.01)) as served:
        place, writer = await begin(served)
        assert (await ask(served, post(b'{"query": "?"}', "Resume: 60"))).status == 429
        await close(writer)
        await ask(served, head("DELETE", place))


async def test_a_server_that_stops_waits_for_an_answer_without_a_reader() -> None:
    context = new_context(FakeEngine(PIECES, pause=0.1), drain_seconds=60)
    server = Server(context)
    await server.start()
    port = int(server.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(post(b'{"query": "?"}', "Resume: 60"))
    await reader.readuntil(b"\r\n\r\n")
    await close(writer)
    (answer,) = context.answers._by_id.values()
    assert not answer.ended
    assert await server.stop() == 0
    assert answer.is_complete
    assert answer.data.decode() == "".join(PIECES)
