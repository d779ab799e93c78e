"""OpenAI's routes over an engine that says what it is told to."""

import json
from typing import Any

import pytest

from llmstream_cli.api import Chunk
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
async def test_a_stream_that_reports_its_usage(route: str, body: dict[str, Any]) -> None:
    engine = ScriptedEngine([Chunk("Hello", (1,)), last()])
    options = {"stream": True, "stream_options": {"include_usage": True}}
    _, _, data = await post(engine, route, {**body, **options})
    *before, usage, done = events(data)
    assert done == "data: [DONE]"
    assert all(one["usage"] is None for one in before)
    assert usage["choices"] == []
    assert usage["usage"]["total_tokens"] == 15


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
