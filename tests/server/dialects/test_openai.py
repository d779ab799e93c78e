"""OpenAI's routes over an engine that says what it is told to."""

import json
from typing import Any

import pytest

from llmstream_cli.core.api import Chunk, EngineState, EngineStatus
from llmstream_cli.errors import ContextLengthError, EngineDiedError, QueueFullError
from tests.server.scripted import ScriptedEngine, client, last

HELLO = {"messages": [{"role": "user", "content": "Hello"}]}
ONCE = {"prompt": "Once"}
BOTH = [("/v1/chat/completions", HELLO), ("/v1/completions", ONCE)]
both = pytest.mark.parametrize(("route", "body"), BOTH)


async def post(engine: ScriptedEngine, route: str, body: dict[str, Any]) -> tuple[int, str, bytes]:
    response = await client(engine).post(route, json=body)
    return response.status_code, response.content_type or "", await response.get_data(as_text=False)


def events(data: bytes) -> list[Any]:
    texts = data.decode().split("\n\n")
    assert texts.pop() == ""
    return [
        text if text == "data: [DONE]" else json.loads(text.removeprefix("data: "))
        for text in texts
    ]


async def test_a_chat() -> None:
    engine = ScriptedEngine([Chunk("Hel", (1,)), Chunk("lo", (2,)), last("!")])
    status, content_type, data = await post(engine, "/v1/chat/completions", {**HELLO, "seed": 7})
    body = json.loads(data)
    assert (status, content_type) == (200, "application/json")
    assert body["object"] == "chat.completion"
    assert body["id"].startswith("chatcmpl-")
    assert body["model"] == "tiny"
    assert body["choices"][0]["message"]["content"] == "Hello!"
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": 4}
    assert engine.requests[0].sampling.seed == 7


async def test_a_completion_of_two_prompts_and_two_choices() -> None:
    engine = ScriptedEngine([Chunk("a", (1,)), last()])
    _, _, data = await post(engine, "/v1/completions", {"prompt": ["x", [5, 6]], "n": 2})
    body = json.loads(data)
    assert body["object"] == "text_completion"
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    assert [request.prompt for request in engine.requests] == ["x", "x", (5, 6), (5, 6)]
    assert body["usage"]["prompt_tokens"] == 24
    assert body["usage"]["completion_tokens"] == 12


@both
async def test_a_stream(route: str, body: dict[str, Any]) -> None:
    engine = ScriptedEngine([Chunk("Hello", (1,)), last()])
    status, content_type, data = await post(engine, route, {**body, "stream": True})
    assert (status, content_type) == (200, "text/event-stream; charset=utf-8")
    found = events(data)
    assert found[-1] == "data: [DONE]"
    assert [one["choices"][0]["finish_reason"] for one in found[:-1]][-2:] == [None, "stop"]
    assert len({one["id"] for one in found[:-1]}) == 1


@both
async def test_a_stream_that_reports_its_usage(route: str, body: dict[str, Any]) -> None:
    engine = ScriptedEngine([Chunk("Hello", (1,)), last()])
    options = {"stream": True, "stream_options": {"include_usage": True}}
    _, _, data = await post(engine, route, {**body, **options})
    *before, usage, done = events(data)
    assert done == "data: [DONE]"
    assert all(one["usage"] is None for one in before)
    assert usage["choices"] == []
    assert usage["usage"]["total_tokens"] == 15


@both
async def test_an_error_before_the_first_token_has_its_status(
    route: str, body: dict[str, Any]
) -> None:
    engine = ScriptedEngine([ContextLengthError(9000, 2048)])
    for stream in (True, False):
        status, content_type, data = await post(engine, route, {**body, "stream": stream})
        assert (status, content_type) == (400, "application/json")
        error = json.loads(data)["error"]
        assert error["code"] == "context_length_exceeded"
        assert error["type"] == "invalid_request_error"
        assert "9000" in error["message"]
        assert "2048" in error["message"]


@both
async def test_an_error_on_the_way_is_an_event_and_done_does_not_come(
    route: str, body: dict[str, Any]
) -> None:
    engine = ScriptedEngine([Chunk("Hel", (1,)), EngineDiedError("the engine died")])
    status, _, data = await post(engine, route, {**body, "stream": True})
    assert status == 200
    *before, error = events(data)
    assert before
    assert error["error"]["message"] == "the engine died"
    assert b"[DONE]" not in data


@both
async def test_an_error_on_the_way_fails_a_response_that_is_not_streamed(
    route: str, body: dict[str, Any]
) -> None:
    engine = ScriptedEngine([Chunk("Hel", (1,)), EngineDiedError("the engine died")])
    status, _, data = await post(engine, route, body)
    assert (status, json.loads(data)["error"]["code"]) == (503, "engine_died")


@both
async def test_a_full_queue(route: str, body: dict[str, Any]) -> None:
    response = await client(ScriptedEngine([QueueFullError("256 requests wait")])).post(
        route, json=body
    )
    assert response.status_code == 429
    assert int(response.headers["Retry-After"]) > 0


@both
async def test_an_engine_that_is_not_ready(route: str, body: dict[str, Any]) -> None:
    engine = ScriptedEngine([last()])
    engine.status = EngineStatus(EngineState.LOADING, "the model is being loaded")
    status, _, data = await post(engine, route, body)
    assert (status, json.loads(data)["error"]["message"]) == (503, "the model is being loaded")
    assert not engine.requests


@both
async def test_a_field_that_is_wrong_is_named(route: str, body: dict[str, Any]) -> None:
    for given, field in (
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 11}, "temperature"),
        ({"n": 100}, "n"),
    ):
        status, _, data = await post(ScriptedEngine(), route, {**body, **given})
        error = json.loads(data)["error"]
        assert (status, error["param"]) == (422, field)
        assert error["message"].startswith(field)
        assert error["type"] == "invalid_request_error"


@both
async def test_a_model_that_is_not_served(route: str, body: dict[str, Any]) -> None:
    status, _, data = await post(ScriptedEngine(), route, {**body, "model": "gpt-5"})
    error = json.loads(data)["error"]
    assert (status, error["code"]) == (404, "model_not_found")
    assert "tiny" in error["message"]


async def test_a_missing_field_is_named() -> None:
    for route, field in (("/v1/chat/completions", "messages"), ("/v1/completions", "prompt")):
        status, _, data = await post(ScriptedEngine(), route, {"model": "tiny"})
        assert (status, json.loads(data)["error"]["param"]) == (422, field)


async def test_models() -> None:
    server = client(ScriptedEngine(), names=("user/repo:Q4_K_M", "short"))
    model = {
        "id": "user/repo:Q4_K_M",
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "llmstream",
    }
    listed = await (await server.get("/v1/models")).get_json()
    assert listed == {"object": "list", "data": [model]}
    for name in ("user/repo:Q4_K_M", "user%2Frepo:Q4_K_M", "short", "SHORT"):
        assert await (await server.get(f"/v1/models/{name}")).get_json() == model
    missing = await server.get("/v1/models/none")
    assert missing.status_code == 404
    assert (await missing.get_json())["error"]["code"] == "model_not_found"


async def test_the_fingerprint_stays_until_something_changes_the_answers() -> None:
    async def fingerprint(names: tuple[str, ...]) -> str:
        response = await client(ScriptedEngine([last()]), names).post("/v1/completions", json=ONCE)
        return str((await response.get_json())["system_fingerprint"])

    first, again, other = [await fingerprint((name,)) for name in ("tiny", "tiny", "other")]
    assert first == again
    assert first != other


async def test_the_description_declares_the_parameter_of_a_path() -> None:
    described = await (await client(ScriptedEngine()).get("/openapi.json")).get_json()
    assert described["paths"]["/v1/models/{name}"]["get"]["parameters"] == [
        {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    ]
