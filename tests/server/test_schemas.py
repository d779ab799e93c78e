"""A JSON schema in every dialect: what is passed over, what is refused, and what clients make."""

import enum
import json
import shutil
import subprocess
import uuid
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import openai
import pytest
from pydantic import BaseModel, Field, SecretStr

from llmstream_cli.api import SamplingParams
from llmstream_cli.errors import SchemaError
from tests.server.fakes import FakeEngine, Reply, ask, fail_with, post, serving

MESSAGES = [{"role": "user", "content": "?"}]


def _response_format(schema: object) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


# The path, the body around a schema, and what an error calls it.
DIALECTS: dict[str, tuple[str, Any, str]] = {
    "plain": ("/token_stream", lambda s: {"query": "?", "json_schema": s}, "json_schema"),
    "chat": (
        "/v1/chat/completions",
        lambda s: {"messages": MESSAGES, "response_format": _response_format(s)},
        "response_format.json_schema.schema",
    ),
    "chat, streamed": (
        "/v1/chat/completions",
        lambda s: {"messages": MESSAGES, "response_format": _response_format(s), "stream": True},
        "response_format.json_schema.schema",
    ),
    "responses": (
        "/v1/responses",
        lambda s: {"input": "?", "text": {"format": {"type": "json_schema", "schema": s}}},
        "text.format.schema",
    ),
    "messages": (
        "/v1/messages",
        lambda s: {"messages": MESSAGES, "output_format": {"type": "json_schema", "schema": s}},
        "output_format.schema",
    ),
    "completions": (
        "/v1/completions",
        lambda s: {"prompt": "?", "json_schema": s},
        "json_schema",
    ),
    "ollama chat": ("/api/chat", lambda s: {"messages": MESSAGES, "format": s}, ""),
    "ollama generate": (
        "/api/generate",
        lambda s: {"prompt": "?", "format": s, "stream": False},
        "",
    ),
}


async def send(
    dialect: str, schema: object, engine: FakeEngine | None = None, **more: Any
) -> Reply:
    path, body, _ = DIALECTS[dialect]
    data = json.dumps({"model": "fake"} | body(schema) | more).encode()
    async with serving(engine, defaults=SamplingParams(stop=("END",))) as served:
        return await ask(served, post(data, path=path))


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_header_says_what_is_passed_over(dialect: str) -> None:
    reply = await send(dialect, {"properties": {"é, ~": {"not": {}}}, "minItms": 1})
    assert reply.status == 200
    assert reply.headers["x-schema-ignored"] == "/minItms, /properties/%C3%A9%2C%20~0/not"
    assert "x-schema-ignored" not in (await send(dialect, {"type": "integer"})).headers


async def test_the_header_has_a_bounded_length() -> None:
    reply = await send("plain", {"properties": {f"property{n}": {"if": {}} for n in range(99)}})
    listed = reply.headers["x-schema-ignored"]
    assert len(listed) < 1100
    assert listed.endswith(" more")
    assert listed.count("/if, ") + int(listed.split()[-2]) == 99


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("by_engine", [False, True])
async def test_a_refusal_names_the_field_and_the_place(dialect: str, by_engine: bool) -> None:
    if by_engine:
        message = "JSON schema at /items: unclosed group"
        reply = await send(dialect, {}, fail_with(SchemaError(message)))
    else:
        message = "JSON schema at /items: type must be one or more of"
        reply = await send(dialect, {"items": {"type": "strin"}})
    assert reply.status == 422
    error = json.loads(reply.body)["error"]
    field = DIALECTS[dialect][2]
    assert (error["message"] if field else error).startswith(message)
    assert not field or dialect == "messages" or error["param"] == field


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_stop_strings_of_the_request_hold_beside_a_schema_and_the_servers_do_not(
    dialect: str,
) -> None:
    stop: dict[str, Any] = {"options": {"stop": ["}"]}} if "ollama" in dialect else {"stop": ["}"]}
    for more, expected in ((stop, ("}",)), ({}, ())):
        engine = FakeEngine()
        assert (await send(dialect, {}, engine, **more)).status == 200
        assert engine.requests[0].sampling.stop == expected


# ---- what clients make, answered by the real model -------------------------------------------


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Parcel(BaseModel):
    """What pydantic has words for that are no plain types."""

    colours: Annotated[set[Colour], Field(max_length=3)]
    weight: Annotated[int, Field(ge=1, lt=30)]
    counts: dict[Colour, Annotated[int, Field(ge=0, le=9)]]
    id: uuid.UUID
    sent: datetime
    due: date
    took: timedelta
    note: Annotated[str, Field(max_length=9)] | None
    secret: Annotated[SecretStr, Field(max_length=9)]
    price: Annotated[Decimal, Field(ge=0)]
    path: Path


@pytest.mark.slow
def test_a_pydantic_model_of_many_types_is_parsed(server_url: str) -> None:
    content = (
        "Describe a parcel. Its colours are red and blue, its price is 12.5, its note is none, "
        "and its path is /tmp/x. Be brief."
    )
    with openai.OpenAI(base_url=f"{server_url}/v1", api_key="none", max_retries=0) as client:
        reply = client.chat.completions.with_raw_response.parse(
            model="smollm2",
            messages=[{"role": "user", "content": content}],
            response_format=Parcel,
            temperature=0,
            max_tokens=700,
        )
    choice = reply.parse().choices[0]
    assert choice.finish_reason == "stop", choice.message.content
    assert isinstance(choice.message.parsed, Parcel)
    ignored = reply.headers["x-schema-ignored"].split(", ")
    assert {"/properties/path/format", "/properties/colours/uniqueItems"} <= set(ignored)


AI_PACKAGES = ("ai@6", "zod@4", "@ai-sdk/openai-compatible@2")
AI_PROGRAM = """
import { generateObject } from "ai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { z } from "zod";
const provider = createOpenAICompatible({
  name: "local", baseURL: process.argv[2], supportsStructuredOutputs: true });
const schema = z.object({
  id: z.ulid(), code: z.string().startsWith("abc").max(8), email: z.email().max(30),
  when: z.iso.datetime(), counts: z.record(z.enum(["a", "b"]), z.int().min(0).max(9)),
  names: z.record(z.string().max(5), z.boolean()), price: z.number().positive() });
const { object, finishReason, response } = await generateObject({
  model: provider("smollm2"), schema, prompt: "Describe a thing. Be brief.", temperature: 0,
  frequencyPenalty: 0.5,  // or a record without a bound goes on for ever
  maxOutputTokens: 600, maxRetries: 0 });
console.log(JSON.stringify({ object, finishReason, headers: response.headers }));
"""


@pytest.mark.slow
def test_a_zod_schema_through_the_ai_package(
    server_url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("ai")
    npm, node = shutil.which("npm"), shutil.which("node")
    assert npm and node, "this test needs Node.js and npm: apt-get install nodejs npm"  # noqa: PT018
    (folder / "package.json").write_text('{"type": "module", "private": true}')
    (folder / "ask.js").write_text(AI_PROGRAM)
    install = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", *AI_PACKAGES]
    subprocess.run(install, cwd=folder, check=True, capture_output=True, timeout=600)
    done = subprocess.run(
        [node, "ask.js", f"{server_url}/v1"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    outcome = json.loads(done.stdout)  # which zod has checked
    assert outcome["finishReason"] == "stop"
    assert outcome["object"]["code"].startswith("abc")
    assert set(outcome["object"]["counts"]) == {"a", "b"}
    assert "/properties/code/format" in outcome["headers"]["x-schema-ignored"].split(", ")
