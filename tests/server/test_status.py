"""What the server tells of itself and of requests."""

import asyncio
import json
from typing import Any

import pytest

import llmstream_cli
from llmstream_cli.api import EngineMetrics, EngineState, EngineStatus, SamplingParams
from llmstream_cli.errors import EngineDiedError, QueueFullError
from llmstream_cli.server.dialects.plain import TokenStreamRequest, as_fields
from tests.server.fakes import (
    FakeEngine,
    Served,
    ask,
    connect,
    fail_with,
    head,
    post,
    serving,
    until,
)

BODY = b'{"query": "?"}'
MINE = "X-Request-Id: mine"


async def get(served: Served, path: str, *headers: str) -> Any:
    reply = await ask(served, head("GET", path, *headers))
    return json.loads(reply.body)


async def test_the_status_tells_of_models_and_defaults() -> None:
    metrics = EngineMetrics(slots=4, running=3, waiting=2)
    defaults = SamplingParams(temperature=0.5, stop=("END",), seed=7)
    contexts = {"sql": "You write SQL.", "math": "You prove."}
    engine = FakeEngine(metrics=metrics)
    async with serving(engine, defaults=defaults, contexts=contexts) as served:
        status = await get(served, "/status")
    (model,) = status["models"]
    assert status["version"] == llmstream_cli.__version__
    assert (status["state"], status["reason"]) == ("ready", "")
    assert (model["name"], model["state"], model["ctx_size"]) == ("fake", "ready", 1024)
    assert (model["slots"], model["running"], model["waiting"]) == (4, 3, 2)
    assert model["sampling"]["temperature"] == 0.5
    assert model["sampling"]["stop"] == ["END"]
    assert model["sampling"]["seed"] == 7
    assert status["contexts"] == ["sql", "math"]


async def test_the_status_of_a_server_that_loads() -> None:
    engine = FakeEngine(status=EngineStatus(EngineState.LOADING, "the model is being loaded"))
    async with serving(engine) as served:
        reply = await ask(served, head("GET", "/status"))
    status = json.loads(reply.body)
    assert reply.status == 200
    assert (status["state"], status["reason"]) == ("loading", "the model is being loaded")
    assert status["models"][0]["ctx_size"] is None


def test_defaults_are_fields_of_a_request_for_them() -> None:
    sampling = SamplingParams(
        top_k=7, logit_bias=((5, -1.5),), json_schema='{"type":"object"}', max_tokens=9
    )
    asked = TokenStreamRequest.model_validate({"query": "?", **as_fields(sampling)})
    assert asked.generation_request(SamplingParams(top_k=1, min_p=0.5), {}).sampling == sampling


@pytest.mark.parametrize("path", ["/status", "/requests/mine"])
async def test_the_status_is_for_those_who_may_ask(path: str) -> None:
    async with serving(api_keys=("secret",)) as served:
        assert (await ask(served, head("GET", path))).status == 401
        allowed = await ask(served, head("GET", path, "Authorization: Bearer secret"))
    assert allowed.status in {200, 404}


async def test_a_request_can_be_watched() -> None:
    engine = FakeEngine(metrics=EngineMetrics(slots=1))
    engine.gate.clear()
    async with serving(engine) as served:
        first = asyncio.create_task(ask(served, post(BODY)))
        await until(lambda: len(engine.requests) == 1)
        second = asyncio.create_task(ask(served, post(BODY, MINE)))
        await until(lambda: len(engine.requests) == 2)
        waiting = await get(served, "/requests/mine")
        engine.gate.set()
        await asyncio.gather(first, second)
        ended = await get(served, "/requests/mine")
    assert (waiting["id"], waiting["state"], waiting["position"]) == ("mine", "queued", 1)
    assert waiting["generated_tokens"] == 0
    assert (ended["state"], ended["finish_reason"], ended["error"]) == ("ended", "stop", None)
    assert (ended["prompt_tokens"], ended["cached_tokens"]) == (7, 3)
    assert ended["generated_tokens"] == 3
    assert ended["seconds"] >= ended["first_token_seconds"] > 0


async def test_a_client_that_left_has_cancelled_its_request() -> None:
    engine = FakeEngine()
    engine.gate.clear()
    async with serving(engine) as served:
        _, writer = await connect(served)
        writer.write(post(BODY, MINE))
        await until(lambda: engine.requests)
        writer.close()
        await until(lambda: not served.context.requests.active)
        told = await get(served, "/requests/mine")
    assert (told["state"], told["finish_reason"]) == ("ended", "cancelled")


@pytest.mark.parametrize("pieces", [(), ("one",)])
async def test_a_request_that_failed_says_why(pieces: tuple[str, ...]) -> None:
    async with serving(fail_with(EngineDiedError("it died"), *pieces)) as served:
        await ask(served, post(BODY, MINE))
        told = await get(served, "/requests/mine")
    assert (told["state"], told["finish_reason"], told["error"]) == ("ended", None, "it died")


async def test_a_request_that_the_queue_had_no_room_for() -> None:
    async with serving(fail_with(QueueFullError("full"))) as served:
        reply = await ask(served, post(BODY, MINE))
        told = await get(served, "/requests/mine")
    assert reply.status == 429
    assert (told["state"], told["error"]) == ("ended", "full")


async def test_an_answer_that_took_too_long_says_so() -> None:
    engine = FakeEngine()
    engine.gate.clear()
    async with serving(engine, timeout_seconds=1) as served:
        await ask(served, post(BODY, MINE))
        told = await get(served, "/requests/mine")
    assert told["error"] == "the answer took longer than 1 seconds"


async def test_a_request_that_never_generated_is_not_known() -> None:
    async with serving() as served:
        await ask(served, post(b"{}", MINE))
        reply = await ask(served, head("GET", "/requests/mine"))
    assert reply.status == 404
    assert "no request 'mine' is known" in json.loads(reply.body)["error"]["message"]
