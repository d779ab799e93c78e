"""Streaming and collecting, in a wire format of the tests' own."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

from quart import Response

from llmstream_cli.api import Chunk, GenerationRequest
from llmstream_cli.errors import EngineDiedError, LLMStreamError, QueueFullError
from llmstream_cli.prompts.messages import Message
from llmstream_cli.server.respond import Encoder, collect, stream
from tests.server.fakes import (
    TIMEOUT,
    FakeEngine,
    Reply,
    Served,
    ask,
    connect,
    fail_with,
    post,
    serving,
    until,
)


class Lines(Encoder):
    """A format with a beginning, an end, errors and heartbeats."""

    content_type = "text/x-lines"
    heartbeat = b"~\n"

    def begin(self) -> bytes:
        return b"begin\n"

    def encode(self, index: int, chunk: Chunk) -> bytes:
        return f"{index} {chunk.text}\n".encode() if chunk.text else b""

    def end(self) -> bytes:
        return b"end\n"

    def fail(self, error: LLMStreamError) -> bytes:
        return f"error {error}\n".encode()


def add_routes(served: Served, *questions: str) -> None:
    """Add `/stream` and `/collect`, which ask all the questions at once."""
    requests = [GenerationRequest((Message("user", question),)) for question in questions]

    @served.app.post("/stream")
    async def stream_lines() -> Response:
        return await stream(served.model, requests, Lines())

    @served.app.post("/collect")
    async def collect_json() -> list[Any]:
        answers = await collect(served.model, requests)
        return [
            [answer.text, answer.token_ids, answer.finish_reason, answer.usage]
            for answer in answers
        ]


async def ask_for(
    path: str, *questions: str, engine: FakeEngine | None = None, **settings: Any
) -> Reply:
    async with serving(engine or FakeEngine(pieces=None), **settings) as served:
        add_routes(served, *questions)
        return await ask(served, post(b"", path=path))


# ---- streaming ------------------------------------------------------------------------------


async def test_a_stream_begins_and_ends_as_its_format_says() -> None:
    reply = await ask_for("/stream", "a b")
    assert reply.body == b"begin\n0 a\n0 b\nend\n"
    assert reply.headers["content-type"] == "text/x-lines"
    assert reply.complete


async def test_several_answers_come_side_by_side() -> None:
    engine = FakeEngine(pieces=None, pause=0.01)
    reply = await ask_for("/stream", "a b c", "d e f", engine=engine)
    lines = reply.body.decode().splitlines()
    assert [line for line in lines if line[0] == "0"] == ["0 a", "0 b", "0 c"]
    assert [line for line in lines if line[0] == "1"] == ["1 d", "1 e", "1 f"]
    assert lines.index("1 d") < lines.index("0 c")


async def test_an_error_in_the_middle_is_told_in_the_format() -> None:
    engine = fail_with(EngineDiedError("the engine died"), "one")
    async with serving(engine) as served:
        add_routes(served, "?")
        reply = await ask(served, post(b"", path="/stream"))
        counted = served.context.metrics.requests.labels("/stream", "200", "cut", "fake")
        await until(lambda: counted._value.get() == 1)  # however well the response ended
    assert reply.body == b"begin\n0 one\nerror the engine died\n"
    assert reply.complete


async def test_an_error_before_the_first_chunk_is_an_ordinary_one() -> None:
    reply = await ask_for("/stream", "?", "?", engine=fail_with(QueueFullError("full")))
    assert reply.status == 429
    assert json.loads(reply.body)["error"]["message"] == "full"


async def test_silence_is_bridged_by_heartbeats() -> None:
    engine = FakeEngine(["one ", "two"], pause=0.3)
    reply = await ask_for("/stream", "?", engine=engine, heartbeat_seconds=0.02)
    lines = reply.body.decode().splitlines()
    assert lines[:2] == ["begin", "~"]  # before the first token, too
    assert [line for line in lines if line != "~"] == ["begin", "0 one ", "0 two", "end"]
    assert lines.index("0 two") - lines.index("0 one ") > 1


async def test_an_error_after_a_heartbeat_is_told_in_the_format() -> None:
    engine = FakeEngine([], error=EngineDiedError("died"))
    engine.gate.clear()
    asyncio.get_running_loop().call_later(0.2, engine.gate.set)
    reply = await ask_for("/stream", "?", engine=engine, heartbeat_seconds=0.02)
    assert reply.status == 200
    assert reply.body.endswith(b"~\nerror died\n")


async def test_no_timeout_of_the_framework_cuts_a_stream() -> None:
    """Quart's own is a minute, and it cuts without a word; here it is shorter than the stream."""
    async with serving(FakeEngine(["word "], repeat=20, pause=0.02)) as served:
        served.app.config["RESPONSE_TIMEOUT"] = 0.05
        served.app.config["BODY_TIMEOUT"] = 0.05
        reply = await ask(served, post(b'{"query": "?"}'))
    assert (reply.body, reply.complete) == (b"word " * 20, True)


async def test_tokens_leave_as_they_come() -> None:
    engine = FakeEngine(["one ", "two"])
    engine.gate.clear()
    async with serving(engine) as served:
        reader, writer = await connect(served)
        writer.write(post(b'{"query": "?"}', "Connection: close"))
        await until(lambda: engine.requests)
        pieces: AsyncGenerator[None] = engine_steps(engine)
        async with asyncio.timeout(TIMEOUT):
            await anext(pieces)
            assert b"one " in await reader.readuntil(b"one ")
            await anext(pieces)
            assert b"two" in await reader.readuntil(b"two")
        await pieces.aclose()
        writer.close()


async def engine_steps(engine: FakeEngine) -> AsyncGenerator[None]:
    """Let the engine go one piece further each time."""
    while True:
        engine.gate.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        engine.gate.clear()
        yield


# ---- collecting -----------------------------------------------------------------------------


async def test_whole_answers_come_in_the_order_of_the_requests() -> None:
    reply = await ask_for("/collect", "a b", "c")
    answers = json.loads(reply.body)
    assert [answer[0] for answer in answers] == ["ab", "c"]
    assert [answer[1] for answer in answers] == [[0, 1], [0]]
    assert [answer[2] for answer in answers] == ["stop", "stop"]
    assert [answer[3]["completion_tokens"] for answer in answers] == [2, 1]


async def test_one_failure_fails_all_and_stops_the_others() -> None:
    class Second(FakeEngine):
        async def generate(self, request: GenerationRequest) -> AsyncGenerator[Chunk]:
            if request.messages[-1].content == "bad":
                raise QueueFullError("full")
            async for chunk in super().generate(request):
                yield chunk

    engine = Second(["word"], repeat=10**9, pause=0.001)
    async with serving(engine) as served:
        add_routes(served, "good", "bad")
        assert (await ask(served, post(b"", path="/collect"))).status == 429
        await until(lambda: engine.running == 0)


async def test_who_leaves_while_a_whole_answer_is_collected_is_generated_for_no_longer() -> None:
    engine = FakeEngine(["word"], repeat=10**9, pause=0.001)
    async with serving(engine) as served:
        add_routes(served, "a", "b", "c")
        _, writer = await connect(served)
        writer.write(post(b"", path="/collect"))
        await until(lambda: engine.running == 3)
        writer.close()
        await until(lambda: engine.running == 0)


# ---- concurrency ----------------------------------------------------------------------------


async def test_sixteen_streams_do_not_mix() -> None:
    questions = [" ".join(f"{i}.{j}" for j in range(50)) for i in range(16)]
    async with serving(FakeEngine(pieces=None, pause=0.001)) as served:
        replies = await asyncio.gather(
            *(ask(served, post(json.dumps({"query": question}).encode())) for question in questions)
        )
    assert [reply.body.decode() for reply in replies] == [
        question.replace(" ", "") for question in questions
    ]
