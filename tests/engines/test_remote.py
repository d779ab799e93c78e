"""An engine on another server: one that misbehaves, and the real one in a process of its own."""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from llmstream_cli.api import (
    Chunk,
    Engine,
    EngineConfig,
    EngineState,
    FinishReason,
    GenerationRequest,
    SamplingParams,
)
from llmstream_cli.engines.in_process import InProcessEngine
from llmstream_cli.engines.remote import RemoteEngine
from llmstream_cli.errors import (
    EngineClosedError,
    EngineNotReadyError,
    InvalidValueError,
    LLMStreamError,
    ModelNotFoundError,
    QueueFullError,
    UpstreamError,
)
from llmstream_cli.prompts.messages import Message, Tool, ToolCall, ToolCallDelta
from tests.engines.processes import state
from tests.fake_openai import (
    DONE,
    PIECES,
    ROLE,
    FakeServer,
    Reply,
    answer_events,
    answer_json,
    delta,
    event,
    serving,
    story,
)

HELLO = (Message("user", "Hello?"),)
UNSET = tuple(SamplingParams.__dataclass_fields__)


def request(**said: Any) -> GenerationRequest:
    unset = tuple(name for name in UNSET if name not in said)
    return GenerationRequest(HELLO, SamplingParams(**said), unset=unset)


@contextlib.asynccontextmanager
async def remote(url: str, **settings: Any) -> AsyncIterator[RemoteEngine]:
    engine = RemoteEngine(url, **settings)
    engine.start()
    try:
        yield engine
    finally:
        await engine.aclose()
        assert engine.metrics.running == 0
        assert state(engine) is EngineState.CLOSED


async def ask(server: FakeServer, asked: GenerationRequest, **settings: Any) -> list[Chunk]:
    async with remote(server.url, **settings) as engine:
        return await answer_of(engine, asked)


async def answer_of(engine: Engine, asked: GenerationRequest) -> list[Chunk]:
    async with contextlib.aclosing(engine.generate(asked)) as chunks:
        return [chunk async for chunk in chunks]


def text(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


# ---- against a server that does as it is told -----------------------------------------------


async def test_an_answer() -> None:
    async with serving(answer_events(*story())) as server:
        chunks = await ask(server, request(temperature=0.0), api_key="sk-secret")
    assert tuple(chunk.text for chunk in chunks) == (*PIECES, "")
    last = chunks[-1]
    assert last.finish_reason is FinishReason.LENGTH
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (40, 10)
    assert last.usage.cached_tokens == 16
    assert last.usage.prompt_seconds > 0
    assert last.usage.completion_seconds > 0
    (asked,) = server.requests
    assert asked.body["model"] == "tiny"
    assert asked.body["temperature"] == 0.0
    assert "top_p" not in asked.body
    for sent in (server.gets[0], asked):
        assert sent.headers["authorization"] == "Bearer sk-secret"


async def test_tools_are_asked_of_the_server_and_calls_come_back() -> None:
    cut = Message("assistant", tool_calls=(ToolCall("weather", '{"city": "Ro'),))
    asked = replace(
        request(),
        messages=(*HELLO, cut, Message("tool", "sun", tool_name="weather")),
        tools=(Tool("weather"),),
    )
    called = {"index": 0, "id": "a", "function": {"name": "weather", "arguments": ""}}
    writes = [
        delta(tool_calls=[called]),
        delta(tool_calls=[{"index": 0, "function": {"arguments": "{}"}}]),
        event({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}),
        DONE,
    ]
    async with serving(answer_events(ROLE, *writes)) as server:
        chunks = await ask(server, asked)
    deltas = [one for chunk in chunks for one in chunk.tool_calls]
    assert deltas == [ToolCallDelta(0, "weather"), ToolCallDelta(0, arguments="{}")]
    assert chunks[-1].finish_reason is FinishReason.TOOL_CALLS
    body = server.requests[0].body
    assert [one["function"]["name"] for one in body["tools"]] == ["weather"]
    _, said, result = body["messages"]
    (call,) = said["tool_calls"]
    assert call["id"] == result["tool_call_id"] != ""
    assert json.loads(call["function"]["arguments"]) == {"city": "Ro"}  # no server takes half


async def test_which_model_is_asked() -> None:
    """The only one, asked for once; the one named, by whatever name; any where there is no list."""
    told = answer_events(*story())
    async with serving(told) as server, remote(server.url) as engine:
        for _ in range(3):
            await answer_of(engine, request())
        assert (await engine.ready()).name == "tiny"
    assert [get.line for get in server.gets] == ["GET /v1/models HTTP/1.1"]
    async with serving(told, models={"data": [{"id": "a"}, {"id": "b"}]}) as server:
        await ask(server, request(), model="b")
        with pytest.raises(InvalidValueError, match=r"name one: a, b$"):
            await ask(server, request())
    assert [asked.body["model"] for asked in server.requests] == ["b"]
    pages = {"/v1/models/user/repo%3AQ8": answer_json({"id": "tiny", "owned_by": "llmstream"})}
    async with serving(told, pages=pages) as server:
        await ask(server, request(top_k=5), model="user/repo:Q8")
    assert server.requests[0].body["model"] == "tiny"
    none = answer_json({"detail": "Not Found"}, "404 Not Found")
    async with serving(told, pages={"/v1/models": none}) as server:
        await ask(server, request(), model="any")
        for path, advice in (("", "/v1"), ("/nix", f"/v1, such as {server.url}")):
            wrong = f"{server.url}{path} has no API of OpenAI's; give the URL that stands before "
            async with remote(server.url + path) as engine:
                with pytest.raises(UpstreamError, match=f"^{re.escape(wrong + advice)}, or name"):
                    await answer_of(engine, request())
    assert server.requests[0].body["model"] == "any"
    async with serving(told, models={"data": []}) as server:
        with pytest.raises(UpstreamError, match="does not say what model it has"):
            await ask(server, request())


async def test_what_the_server_lacks_is_not_asked_of_it() -> None:
    async with serving(answer_events(*story())) as server:
        with pytest.raises(ModelNotFoundError, match=r"did you mean tiny\?"):
            await ask(server, request(), model="tiiny")
        with pytest.raises(InvalidValueError, match=r"^top_k cannot be asked of this server"):
            await ask(server, request(top_k=5))
        with pytest.raises(InvalidValueError, match=r"^logprobs cannot"):
            await ask(server, request(logprobs=0))
        with pytest.raises(InvalidValueError, match=r"^tokens cannot be counted"):
            await RemoteEngine(server.url).count_tokens(request())
    assert server.requests == []


@pytest.mark.parametrize(
    ("reply", "type_", "pieces"),
    [
        (answer_events(*story()[:3]), UpstreamError, 2),
        (answer_events(ROLE, delta(content="Once"), DONE), UpstreamError, 1),
        (answer_json({"error": "loading"}, "503 Unavailable"), EngineNotReadyError, 0),
    ],
)
async def test_a_failure_keeps_what_came_before_it(
    reply: Reply, type_: type[LLMStreamError], pieces: int
) -> None:
    chunks: list[Chunk] = []

    async def read(engine: Engine) -> None:
        async for chunk in engine.generate(request()):
            chunks.append(chunk)  # noqa: PERF401  (they are kept when it raises)

    async with serving(reply) as server, remote(server.url) as engine:
        with pytest.raises(type_):
            await read(engine)
    assert tuple(chunk.text for chunk in chunks) == PIECES[:pieces]


async def test_the_status_tells_how_the_last_request_went() -> None:
    replies = [answer_events(*story()), answer_events(), answer_json({}, "429 Busy")]

    async with serving(lambda number: replies[number % 3]) as server, remote(server.url) as engine:
        assert state(engine) is EngineState.LOADING
        await answer_of(engine, request())
        assert state(engine) is EngineState.READY
        with pytest.raises(UpstreamError):
            await answer_of(engine, request())
        assert state(engine) is EngineState.RESTARTING
        assert engine.status.reason == "the stream ended without [DONE]"
        with pytest.raises(QueueFullError):
            await answer_of(engine, request())
        await answer_of(engine, request())
        assert state(engine) is EngineState.READY
    assert len(server.gets) == 2  # who was away is asked again what model it has


async def test_closing_the_generator_closes_the_connection() -> None:
    reply = answer_events(*story()[:2], hang=True)
    async with serving(reply) as server, remote(server.url) as engine:
        chunks = engine.generate(request())
        assert (await anext(chunks)).text == "Once"
        assert engine.metrics.running == 1
        await chunks.aclose()
        async with asyncio.timeout(60):
            await asyncio.gather(*server.connections)


async def test_closing_the_engine_ends_what_runs() -> None:
    reply = answer_events(*story()[:2], hang=True)
    async with serving(reply) as server, remote(server.url) as engine:
        chunks = engine.generate(request())
        await anext(chunks)
        rest = asyncio.ensure_future(anext(chunks))
        await asyncio.sleep(0)
        await engine.aclose()
        with pytest.raises(EngineClosedError):
            await rest
        for use in (engine.ready(), anext(engine.generate(request()))):
            with pytest.raises(EngineClosedError):
                await use


# ---- against the real server ----------------------------------------------------------------


PARIS = (Message("user", "Where is Paris?"),)


async def in_process(model_path: Path, asked: GenerationRequest) -> list[Chunk]:
    engine = InProcessEngine(EngineConfig(model_path=str(model_path), threads=1, ctx_size=1024))
    engine.start()
    try:
        return await answer_of(engine, asked)
    finally:
        await engine.aclose()


@pytest.mark.slow
async def test_every_parameter_reaches_the_real_server(server_url: str, model_path: Path) -> None:
    said: dict[str, Any] = {
        "temperature": 0.7,
        "top_k": 20,
        "top_p": 0.8,
        "min_p": 0.01,
        "repeat_penalty": 1.2,
        "repeat_last_n": 32,
        "presence_penalty": 0.3,
        "frequency_penalty": 0.2,
        "seed": 5,
        "max_tokens": 20,
        "stop": ("zzz",),
        "logit_bias": ((260, -100.0),),
        "ignore_eos": True,
    }
    asked = GenerationRequest(PARIS, SamplingParams(**said))
    async with remote(server_url) as engine:
        chunks = await answer_of(engine, asked)
    assert text(chunks) == text(await in_process(model_path, asked))


@pytest.mark.slow
async def test_a_schema_is_followed(server_url: str, model_path: Path) -> None:
    schema = '{"type":"object","properties":{"city":{"enum":["Paris"]}},"required":["city"]}'
    for asked in (
        GenerationRequest(PARIS, SamplingParams(temperature=0.0, json_schema=schema)),
        GenerationRequest(prompt="Paris: ", sampling=SamplingParams(json_schema=schema)),
        GenerationRequest(PARIS, SamplingParams(grammar='root ::= "{\\"city\\":\\"Paris\\"}"')),
    ):
        async with remote(server_url) as engine:
            answer = text(await answer_of(engine, asked))
        assert json.loads(answer) == {"city": "Paris"}


@pytest.mark.slow
async def test_an_answer_that_is_left_frees_its_slot(server_url: str) -> None:
    asked = GenerationRequest(PARIS, SamplingParams(max_tokens=4000, ignore_eos=True))
    async with remote(server_url) as engine:
        chunks = engine.generate(asked)
        assert await anext(chunks)
        await chunks.aclose()
    async with httpx2.AsyncClient() as client, asyncio.timeout(60):
        while True:
            metrics = (await client.get(f"{server_url}/metrics")).text
            if re.search(r"^llmstream_engine_running\{.*\} 0\.0$", metrics, re.MULTILINE):
                return
            await asyncio.sleep(0.05)
