"""`POST /token_stream`: what it alone has."""

import json
from typing import Any

import pytest

from llmstream_cli.api import Chunk
from llmstream_cli.prompts.messages import Message
from llmstream_cli.sampling import SamplingParams
from llmstream_cli.server.app import create_app
from llmstream_cli.server.dialects.plain import as_fields
from tests.server.fakes import FakeEngine, new_context
from tests.server.scripted import ScriptedEngine, last

CONTEXTS = {"sql": "You know SQL.", "pirate": "Arr."}
TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
HISTORY = (Message("user", "Hi"), Message("assistant", "Ho"), Message("user", "?"))
SYSTEM = {"role": "system", "content": "b"}


async def send(engine: Any = None, /, **fields: Any) -> tuple[int, str]:
    server = create_app(new_context(engine or FakeEngine(), contexts=CONTEXTS)).test_client()
    response = await server.post("/token_stream", json={"query": "?", **fields})
    if response.status_code == 200:
        assert response.headers["X-Model"] == "fake"
    return response.status_code, await response.get_data(as_text=True)


@pytest.mark.parametrize(
    ("fields", "messages"),
    [
        ({"system": "Be brief.", "messages": TURNS}, (Message("system", "Be brief."), *HISTORY)),
        ({"context": "pirate", "messages": TURNS}, (Message("system", "Arr."), *HISTORY)),
        ({"messages": [SYSTEM, *TURNS]}, (Message("system", "b"), *HISTORY)),
    ],
)
async def test_the_engine_gets_the_conversation_in_order(
    fields: dict[str, Any], messages: tuple[Message, ...]
) -> None:
    engine = FakeEngine()
    assert await send(engine, **fields) == (200, "one two three")
    assert engine.requests[0].messages == messages


def test_parameters_as_fields_leave_out_what_is_not_set() -> None:
    fields = as_fields(SamplingParams())
    assert None not in fields.values()
    assert not fields.keys() & {"seed", "stop", "logit_bias", "json_schema", "logprobs"}
    assert as_fields(SamplingParams(json_schema="{}", stop=("a",), logit_bias=((5, -1.0),))) == {
        **fields,
        "json_schema": {},
        "stop": ["a"],
        "logit_bias": {"5": -1.0},
    }


async def test_the_contexts_are_listed_by_their_names_to_those_who_have_a_key() -> None:
    for keys, status in (((), 200), (("secret",), 401)):
        context = new_context(FakeEngine(), contexts=CONTEXTS, api_keys=keys)
        response = await create_app(context).test_client().get("/contexts")
        assert response.status_code == status
        if status == 200:
            assert await response.get_json() == {"contexts": ["sql", "pirate"]}


@pytest.mark.parametrize(
    ("pieces", "reasoning", "body"),
    [
        (["Yes", "."], ["hm ", "hm"], "<think>\nhm hm\n</think>\n\nYes."),
        (["Yes", "."], [], "Yes."),
        ([], ["hm"], "<think>\nhm\n</think>\n"),
        ([], [], ""),
    ],
)
async def test_reasoning_is_sent_in_tags_to_those_who_want_it(
    pieces: list[str], reasoning: list[str], body: str
) -> None:
    engine = FakeEngine(pieces, reasoning=reasoning)
    assert await send(engine, include_reasoning=True) == (200, body)
    assert await send(engine) == (200, "".join(pieces))


async def test_reasoning_and_text_of_one_chunk_are_apart() -> None:
    engine = ScriptedEngine([Chunk("Yes", (1,), reasoning="hm"), last(".")])
    told = await send(engine, include_reasoning=True)
    assert told == (200, "<think>\nhm\n</think>\n\nYes.")


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"query": ""}, "query", "query must be a string of 1 or more characters"),
        ({"query": None}, "query", "query must be a string"),
        ({"temperatur": 0.5}, "temperatur", "did you mean temperature?"),
        ({"seed": 2**32}, "seed", "seed must be an integer from 0 to 4294967294"),
        ({"messages": [{"role": "tool", "content": ""}]}, "messages.0.role", "must be one of"),
        ({"messages": [{**SYSTEM, "a": 1}]}, "messages.0.a", "there is no field 'messages.0.a'"),
        ({"messages": [SYSTEM] * 4097}, "messages", "at most 4096 items"),
        ({"messages": [SYSTEM], "system": "a"}, "system", "system gives a second system message"),
        ({"messages": [SYSTEM], "context": "sql"}, "context", "context gives a second"),
        ({"context": "sql", "system": "a"}, "context", "exclude each other"),
        ({"context": "sqll"}, "context", "context 'sqll' is not known; did you mean sql?"),
        ({"context": "zzz"}, "context", "context 'zzz' is not known; known: sql, pirate"),
        ({"thinking": True, "json_schema": {}}, "thinking", "cannot be combined"),
    ],
)
async def test_a_value_that_cannot_be_is_refused(
    fields: dict[str, Any], field: str, message: str
) -> None:
    engine = FakeEngine()
    status, body = await send(engine, **fields)
    error = json.loads(body)["error"]
    assert (status, error["param"], engine.requests) == (422, field, [])
    assert message in error["message"]
    assert len(error["message"]) < 200
