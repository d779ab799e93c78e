"""`POST /token_stream` over a socket, with an engine that follows a script."""

import dataclasses
import json
from typing import Any

import pytest

from llmstream_cli.prompts.messages import Message
from llmstream_cli.sampling import PARAMETERS, SamplingParams
from llmstream_cli.server.dialects.plain import TokenStreamRequest
from tests.server.fakes import FakeEngine, Reply, ask, head, post, serving

CONTEXTS = {"sql": "You know SQL.", "pirate": "Arr."}


async def stream(engine: FakeEngine | None = None, /, **fields: Any) -> Reply:
    async with serving(engine, contexts=CONTEXTS) as served:
        return await ask(served, post(json.dumps({"query": "?", **fields}).encode()))


def error_of(reply: Reply) -> dict[str, Any]:
    assert reply.headers["content-type"] == "application/json"
    error = json.loads(reply.body)["error"]
    assert isinstance(error, dict)
    assert "\n" not in error["message"]
    return error


async def test_the_body_is_the_text_and_nothing_else() -> None:
    reply = await stream()
    assert (reply.status, reply.body, reply.complete) == (200, b"one two three", True)
    assert reply.headers["content-type"] == "text/plain; charset=utf-8"
    assert reply.headers["transfer-encoding"] == "chunked"
    assert reply.headers["cache-control"] == "no-store"
    assert reply.headers["x-accel-buffering"] == "no"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["x-model"] == "fake"


async def test_an_empty_answer_is_an_empty_body() -> None:
    reply = await stream(FakeEngine([]))
    assert (reply.status, reply.body, reply.complete) == (200, b"", True)


# ---- what the engine is asked ---------------------------------------------------------------


async def test_the_engine_gets_the_conversation_in_order() -> None:
    engine = FakeEngine()
    await stream(
        engine,
        query="And now?",
        system="Be brief.",
        messages=[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}],
    )
    assert engine.requests[0].messages == (
        Message("system", "Be brief."),
        Message("user", "Hi"),
        Message("assistant", "Ho"),
        Message("user", "And now?"),
    )


async def test_a_context_is_a_system_message_by_its_name() -> None:
    engine = FakeEngine()
    history = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    await stream(engine, context="pirate", messages=history)
    assert engine.requests[0].messages == (
        Message("system", "Arr."),
        Message("user", "Hi"),
        Message("assistant", "Ho"),
        Message("user", "?"),
    )


async def test_the_contexts_are_listed_by_their_names() -> None:
    async with serving(contexts=CONTEXTS) as served:
        reply = await ask(served, head(path="/contexts"))
    assert reply.status == 200
    assert json.loads(reply.body) == {"contexts": ["sql", "pirate"]}


async def test_the_contexts_need_a_key_where_the_server_has_one() -> None:
    async with serving(contexts=CONTEXTS, api_keys=("secret",)) as served:
        assert (await ask(served, head(path="/contexts"))).status == 401


async def test_an_unknown_context_gets_a_near_miss_or_all_there_are() -> None:
    reply = await stream(context="sqll")
    assert error_of(reply)["message"] == "context 'sqll' is not known; did you mean sql?"
    assert error_of(reply)["param"] == "context"
    reply = await stream(context="zzz")
    assert error_of(reply)["message"] == "context 'zzz' is not known; known: sql, pirate"
    reply = await stream(context="x" * 100_000)
    assert len(error_of(reply)["message"]) < 200


@pytest.mark.parametrize(
    ("path", "body", "without"),
    [
        ("/token_stream", {"query": "?"}, {"thinking": False}),
        ("/api/chat", {"messages": [{"role": "user", "content": "?"}]}, {"think": False}),
        ("/api/generate", {"prompt": "?"}, {"think": False}),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "?"}]},
            {"reasoning_effort": "none"},
        ),
    ],
)
async def test_what_suits_the_model_goes_by_whether_it_shall_think(
    path: str, body: dict[str, Any], without: dict[str, Any]
) -> None:
    engine, name = FakeEngine(), {} if path == "/token_stream" else {"model": "fake"}
    advised = {False: SamplingParams(top_k=7), True: SamplingParams(top_k=9)}
    async with serving(engine, defaults=advised[True], sampling_if=advised) as server:
        for more in ({}, without):
            await ask(server, post(json.dumps({**body, **name, **more}).encode(), path=path))
    assert [request.sampling.top_k for request in engine.requests] == [9, 7]


@pytest.mark.parametrize(
    ("pieces", "reasoning", "body"),
    [
        (["Yes", "."], ["hm ", "hm"], "<think>\nhm hm\n</think>\n\nYes."),
        (["Yes", "."], [], "Yes."),
        ([], ["hm"], "<think>\nhm\n</think>\n"),
    ],
)
async def test_reasoning_is_sent_in_tags_to_those_who_want_it(
    pieces: list[str], reasoning: list[str], body: str
) -> None:
    reply = await stream(FakeEngine(pieces, reasoning=reasoning), include_reasoning=True)
    assert reply.body.decode() == body


async def test_thinking_and_a_schema_exclude_each_other() -> None:
    reply = await stream(thinking=True, json_schema={})
    assert reply.status == 422
    assert "thinking" in error_of(reply)["message"]


def test_every_sampling_parameter_is_a_field_with_the_engines_bounds() -> None:
    fields = TokenStreamRequest.model_json_schema()["properties"]
    names = {field.name for field in dataclasses.fields(SamplingParams)}
    assert names - {"logprobs"} <= set(fields)
    for name, row in PARAMETERS.items():
        if name != "logprobs" and row.low is not None:
            number = fields[name]["anyOf"][0]
            assert (number["minimum"], number["maximum"]) == (row.low, row.high), name


# ---- what is refused ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"query": ""}, "query"),
        ({"query": 5}, "query"),
        ({"query": None}, "query"),
        ({"temperatur": 0.5}, "temperature"),
        ({"seed": 2**32}, "seed"),
        ({"messages": [{"role": "tool", "content": ""}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": "", "name": "x"}]}, "messages.0.name"),
        ({"messages": [{"role": "user", "content": ""}] * 4097}, "messages"),
        (
            {"system": "a", "messages": [{"role": "system", "content": "b"}]},
            "system",
        ),
        ({"context": "sql", "system": "a"}, "context"),
        ({"context": "sql", "messages": [{"role": "system", "content": "b"}]}, "context"),
        ({"context": "none"}, "context"),
        ({"context": 5}, "context"),
    ],
)
async def test_a_value_that_cannot_be_is_422_and_named(fields: dict[str, Any], named: str) -> None:
    engine = FakeEngine()
    body = json.dumps({"query": "?", **fields}).encode()
    async with serving(engine, contexts=CONTEXTS) as served:
        reply = await ask(served, post(body))
    assert reply.status == 422
    assert named in error_of(reply)["message"]
    assert not engine.requests


async def test_a_field_within_another_is_not_taken_for_that_one_misspelt() -> None:
    turn = {"role": "user", "content": "", "a": 1}
    async with serving() as served:
        reply = await ask(served, post(json.dumps({"query": "?", "messages": [turn]}).encode()))
    assert error_of(reply)["message"] == "there is no field 'messages.0.a'"


# ---- what fails -----------------------------------------------------------------------------
