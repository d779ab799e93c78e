"""Ollama's routes over an engine that says what it is told to."""

import json
from typing import Any

import pytest

from llmstream_cli.api import EngineState, EngineStatus
from tests.server.scripted import ScriptedEngine, client, last

HELLO = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}]}
PROMPT = {"model": "tiny:latest", "prompt": "Hello"}
both = pytest.mark.parametrize(("route", "body"), [("/api/chat", HELLO), ("/api/generate", PROMPT)])


async def post(
    engine: ScriptedEngine, route: str, body: dict[str, Any]
) -> tuple[int, str, list[Any]]:
    response = await client(engine).post(route, json=body)
    lines = (await response.get_data(as_text=True)).splitlines()
    return response.status_code, response.content_type or "", [json.loads(line) for line in lines]


def text(line: Any) -> str:
    return str(line["message"]["content"] if "message" in line else line["response"])


@both
async def test_the_model_may_be_left_out(route: str, body: dict[str, Any]) -> None:
    rest = {name: value for name, value in body.items() if name != "model"}
    status, _, lines = await post(ScriptedEngine([last("a")]), route, rest)
    assert (status, lines[0]["model"]) == (200, "tiny:latest")


@both
async def test_a_request_without_a_prompt_waits_for_the_model(
    route: str, body: dict[str, Any]
) -> None:
    for stream, content_type in ((True, "application/x-ndjson"), (False, "application/json")):
        engine = ScriptedEngine()
        empty = {"model": body["model"], "keep_alive": "5m", "stream": stream}
        status, found_type, lines = await post(engine, route, empty)
        assert (status, found_type) == (200, content_type)
        assert (text(lines[0]), lines[0]["done_reason"]) == ("", "load")
        assert not engine.requests


@both
async def test_a_closed_engine_is_no_loaded_model(route: str, body: dict[str, Any]) -> None:
    engine = ScriptedEngine()
    await engine.aclose()
    status, _, lines = await post(engine, route, {"model": body["model"]})
    assert (status, lines) == (503, [{"error": "closed"}])


async def test_models() -> None:
    server = client(ScriptedEngine())
    (model,) = (await (await server.get("/api/tags")).get_json())["models"]
    assert (model["name"], model["size"]) == ("tiny:latest", 96_000_000)
    (process,) = (await (await server.get("/api/ps")).get_json())["models"]
    assert process["digest"] == model["digest"]
    for body in ({"model": "tiny:latest"}, {"name": "tiny"}, {}):
        shown = await (await server.post("/api/show", json=body)).get_json()
        assert shown["details"] == model["details"] == process["details"]
    missing = await server.post("/api/show", json={"model": "llama9"})
    assert missing.status_code == 404


async def test_models_that_are_not_loaded_yet() -> None:
    engine = ScriptedEngine()
    engine.status = EngineStatus(EngineState.LOADING, "the model is being loaded")
    server = client(engine)
    (model,) = (await (await server.get("/api/tags")).get_json())["models"]
    assert (model["name"], model["size"]) == ("tiny:latest", 0)
    assert await (await server.get("/api/ps")).get_json() == {"models": []}
    shown = await server.post("/api/show", json={"model": "tiny"})
    assert shown.status_code == 503
    assert await shown.get_json() == {"error": "the model is being loaded"}


async def test_the_version_is_one_that_clients_can_compare() -> None:
    response = await client(ScriptedEngine()).get("/api/version")
    version = (await response.get_json())["version"]
    assert tuple(map(int, version.split("."))) >= (0, 12, 11)
