"""What all wire formats do alike: each behaviour, each format. A new format is a row of `ROWS`."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmstream_cli.api import Chunk, EngineState, EngineStatus, FinishReason, GenerationRequest
from llmstream_cli.errors import (
    ContextLengthError,
    EngineDiedError,
    LLMStreamError,
    PromptError,
    QueueFullError,
)
from llmstream_cli.prompts.messages import Message
from llmstream_cli.sampling import SamplingParams
from llmstream_cli.server.app import create_app
from llmstream_cli.server.dialects import all_dialects
from tests.server.dialects.rows import ROWS, SAMPLING, Row
from tests.server.fakes import FakeEngine, ask, connect, new_context, post, serving, until
from tests.server.scripted import ScriptedEngine, client, last, logprob

rows = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.route)
WAYS = [
    pytest.param(row, fields, id=f"{row.route}-{way}")
    for row in ROWS
    for way, fields in (("stream", row.streams), ("whole", row.whole))
    if fields is not None
]
both_ways = pytest.mark.parametrize(("row", "way"), WAYS)
ENGINE = ScriptedEngine()
CLIENT = client(ENGINE)


class Sent(NamedTuple):
    status: int
    headers: Any
    data: bytes
    requests: list[GenerationRequest]


async def send(script: Sequence[Chunk | Exception], route: str, body: Any) -> Sent:
    ENGINE.script, ENGINE.requests = script, []
    response = await CLIENT.post(route, json=body)
    data = await response.get_data(as_text=False)
    return Sent(response.status_code, response.headers, data, ENGINE.requests)


def read(row: Row, way: dict[str, Any], data: bytes) -> list[Any]:
    """The parts of a stream, or the body of a whole answer as one part."""
    return row.parts(data) if way == row.streams else [json.loads(data)]


NO_ANSWERS = {
    *("/api/show", "/v1/embeddings", "/api/embed", "/api/embeddings", "/tokenize", "/detokenize"),
    *("/v1/rerank", "/rerank", "/v1/reranking", "/reranking", "/v1/messages/count_tokens"),
    "/v1/responses/input_tokens",
}


def test_every_route_that_generates_has_a_row() -> None:
    described = {
        operation.path
        for dialect in all_dialects()
        for operation in dialect.operations
        if operation.request is not None and operation.path not in NO_ANSWERS
    }
    assert described == {row.route for row in ROWS}


# ---- answers --------------------------------------------------------------------------------


@both_ways
async def test_an_answer_has_its_type_text_and_end_and_is_not_stored(
    row: Row, way: dict[str, Any]
) -> None:
    script = [Chunk("Hel", (1,)), last("lo", FinishReason.LENGTH)]
    status, headers, data, _ = await send(script, row.route, {**row.body, **way})
    streams = way == row.streams
    content_type = row.content_type if streams else "application/json"
    assert (status, headers["Content-Type"]) == (200, content_type)
    assert (headers["Cache-Control"], headers["X-Content-Type-Options"]) == ("no-store", "nosniff")
    assert headers.get("X-Accel-Buffering") == ("no" if streams else None)
    parts = read(row, way, data)
    assert "".join(map(row.text, parts)) == "Hello"
    assert (row.cut in data.decode()) == row.tells
    if not streams:
        assert row.usage(parts[0]) == (12, 3)


@both_ways
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(max_size=5) | st.just("\u2028é"), max_size=5))
async def test_the_text_is_that_of_the_chunks(
    row: Row, way: dict[str, Any], texts: list[str]
) -> None:
    sent = await send([*map(Chunk, texts), last()], row.route, {**row.body, **way})
    assert "".join(map(row.text, read(row, way, sent.data))) == "".join(texts)


@both_ways
async def test_reasoning_is_apart_from_the_text(row: Row, way: dict[str, Any]) -> None:
    script = [Chunk("", (1,), reasoning="h"), Chunk("", (2,), reasoning="m"), last("Yes")]
    parts = read(row, way, (await send(script, row.route, {**row.body, **way})).data)
    assert "".join(map(row.text, parts)) == "Yes"
    assert "".join(map(row.reasoning, parts)) == ("hm" if row.reasons else "")


@both_ways
async def test_log_probabilities_come_with_the_text_they_belong_to(
    row: Row, way: dict[str, Any]
) -> None:
    script = [
        Chunk("a", (1,), logprobs=(logprob(b"a", top=(b"b",)),)),
        Chunk("", (2,), logprobs=(logprob(b" b"),)),
        Chunk(" b", (3,), logprobs=(logprob(b" st", float("-inf")),)),  # of a stop string
        last(),
    ]
    for asked in filter(lambda asked: asked is not None, (row.asks_logprobs, {})):
        sent = await send(script, row.route, {**row.body, **way, **(asked or {})})
        tokens = [token for part in read(row, way, sent.data) for token in row.logprobs(part)]
        assert tokens == (["a", " b"] if asked else [])
        assert sent.requests[0].sampling.logprobs == (1 if asked else None)


@rows
async def test_only_event_streams_say_something_in_a_silence(row: Row) -> None:
    engine = FakeEngine(("one ", "two"), pause=0.05)
    server = create_app(new_context(engine, heartbeat_seconds=0.01)).test_client()
    response = await server.post(row.route, json={**row.body, **row.streams})
    data = await response.get_data(as_text=False)
    assert (data.count(row.ping) > 1) == row.content_type.startswith("text/event-stream")
    assert "".join(map(row.text, row.parts(data))) == "one two"


# ---- errors ---------------------------------------------------------------------------------

EARLY_ERRORS: list[tuple[LLMStreamError, int]] = [
    (ContextLengthError(9000, 8192), 400),
    (PromptError("the roles must alternate"), 400),
    (QueueFullError("64 requests wait already"), 429),
    (EngineDiedError("the engine died"), 503),
]


@both_ways
async def test_an_error_before_the_first_token_has_its_status(
    row: Row, way: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    for error, expected in EARLY_ERRORS:
        status, headers, data, _ = await send([error], row.route, {**row.body, **way})
        assert (status, headers["Content-Type"]) == (expected, "application/json")
        assert row.error(json.loads(data)) == str(error)
        assert ("Retry-After" in headers) == (status in {429, 503})
    assert "Traceback" not in caplog.text
    sent = await send([RuntimeError("secret")], row.route, {**row.body, **way})
    told = row.error(json.loads(sent.data))
    assert (sent.status, told) == (500, "the server failed; its log says more")
    assert "secret" in caplog.text


@both_ways
@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (EngineDiedError("the engine died"), 503, "the engine died"),
        (RuntimeError("secret"), 500, "the server failed; its log says more"),
    ],
)
async def test_an_error_after_the_first_token_is_told_or_cuts(
    row: Row, way: dict[str, Any], error: Exception, status: int, told: str, caplog: Any
) -> None:
    engine = FakeEngine(["one ", "two"], error=error)
    async with serving(engine) as served:
        body = json.dumps({**row.body, **way}).encode()
        reply = await ask(served, post(body, path=row.route))
    assert b"secret" not in reply.body
    assert ("Traceback" in caplog.text) == ("secret" in caplog.text) == (status == 500)
    assert b"[DONE]" not in reply.body
    if way != row.streams:
        assert (reply.status, row.error(json.loads(reply.body))) == (status, told)
        return
    *before, end = row.parts(reply.body) if row.tells else [*row.parts(reply.body), None]
    assert (reply.status, "".join(map(row.text, before))) == (200, "one two")
    assert reply.complete == row.tells
    assert not row.tells or row.error(end) == told


@rows
async def test_an_engine_that_is_not_ready_is_503_with_the_reason(row: Row) -> None:
    engine = ScriptedEngine([last()])
    engine.status = EngineStatus(EngineState.LOADING, "a reason for a person")
    response = await client(engine).post(row.route, json=row.body)
    told = row.error(await response.get_json())
    assert (response.status_code, told) == (503, "a reason for a person")
    assert not engine.requests


@rows
async def test_a_model_goes_by_its_names_and_no_other(row: Row) -> None:
    for name in ("tiny", "TINY", "tiny:latest", None):
        sent = await send([last()], row.route, {**row.body, "model": name})
        assert sent.status == 200
    sent = await send([], row.route, {**row.body, "model": "gpt-5"})
    told = row.error(json.loads(sent.data))
    assert (sent.status, told) == (404, "no model is called 'gpt-5'; served: tiny")


@rows
async def test_a_body_has_to_be_called_json_where_the_api_says_so(row: Row) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}  # as curl's `-d` alone
    ENGINE.script = [last()]
    response = await CLIENT.post(row.route, data=json.dumps(row.body), headers=form)
    assert response.status_code == (200 if row.any_type else 415)


@both_ways
@pytest.mark.parametrize("first", [True, False], ids=["after the first token", "before it"])
async def test_a_client_that_leaves_ends_the_generation(
    row: Row, way: dict[str, Any], first: bool
) -> None:
    engine = FakeEngine(("word ",), repeat=1_000_000, pause=0.001)
    if not first:
        engine.gate.clear()
    async with serving(engine) as served:
        reader, writer = await connect(served)
        body = json.dumps({**row.body, **way}).encode()
        writer.write(post(body, path=row.route))
        await until(lambda: engine.running == 1)
        if first and way == row.streams:
            await reader.readuntil(b"word")
        writer.close()
        await until(lambda: engine.running == 0)


# ---- fields ---------------------------------------------------------------------------------

CALL = {"function": {"name": "f", "arguments": "{}"}}
LENIENT: list[tuple[str, Any, Any]] = [
    ("seed", -1, None),
    ("seed", 2**40, 2**40 % (2**32 - 1)),
    ("max_tokens", -1, None),
    ("max_tokens", -2, None),
    ("top_k", -1, 0),
    ("stop", [], ()),
]
DEFAULTS = SamplingParams()


@rows
async def test_every_parameter_reaches_the_engine_and_null_is_the_servers_default(
    row: Row,
) -> None:
    cases = [(name, *values) for name, values in SAMPLING.items()]
    cases += [("stop", "END", ("END",)), *(LENIENT if row.lenient else [])]
    for name, value, expected in cases:
        if name not in row.lacks:
            for given_, wanted in ((value, expected), (None, getattr(DEFAULTS, name))):
                sent = await send([last()], row.route, row.with_options(**{name: given_}))
                assert sent.status == 200, name
                (request,) = sent.requests
                assert request.sampling == replace(DEFAULTS, **{name: wanted})
    assert request.prompt == "Hello" or request.messages == (Message("user", "Hello"),)


@pytest.mark.parametrize("row", [row for row in ROWS if row.no_thinking is not None])
async def test_what_suits_the_model_goes_by_whether_it_shall_think(row: Row) -> None:
    engine = FakeEngine()
    advised = {False: SamplingParams(top_k=7), True: SamplingParams(top_k=9)}
    context = new_context(engine, defaults=advised[True], sampling_if=advised)
    for more in ({}, row.no_thinking or {}):
        await create_app(context).test_client().post(row.route, json={**row.body, **more})
    asked = [(request.sampling.top_k, request.thinking) for request in engine.requests]
    assert asked == [(9, None), (7, False)]


WRONG: list[tuple[str, Any]] = [
    ("temperature", "hot"),
    ("temperature", "0.5"),
    ("temperature", -0.1),
    ("temperature", 11),
    ("temperature", True),
    ("top_k", 1.5),
    ("top_k", 10**30),
    ("top_k", -2),
    ("seed", 2**63),
    ("max_tokens", 0),
    ("max_tokens", 1.5),
    ("max_tokens", -3),
    ("stop", ""),
    ("stop", 5),
    ("stop", ["x"] * 17),
    ("stop", ["x" * 257]),
    ("stop", [5]),
    ("logit_bias", {"x": 1}),
    ("logit_bias", {"-1": 1}),
    ("logit_bias", {"5": 101}),
    ("logit_bias", {"5": "x"}),
    ("grammar", "x" * 65537),
    ("json_schema", []),
    ("json_schema", {"type": "nonsense"}),
]


@rows
async def test_a_value_that_cannot_be_is_422_and_its_field_is_named(row: Row) -> None:
    for name, value in WRONG:
        if name in row.lacks:
            continue
        sent = await send([last()], row.route, row.with_options(**{name: value}))
        message = row.error(told := json.loads(sent.data))
        assert (sent.status, sent.requests) == (422, []), (name, value)
        assert row.field(name) in message or message.startswith("JSON schema"), message
        assert message.isprintable()
        if isinstance(told["error"], dict):
            assert told["error"]["type"] == "invalid_request_error"
            if row.names_field:
                assert told["error"]["param"].partition(".")[0] == row.field(name)
                assert told["error"]["code"] == "invalid_field"


@pytest.mark.parametrize("row", [row for row in ROWS if "grammar" not in row.lacks])
async def test_two_constraints_exclude_each_other(row: Row) -> None:
    body = row.with_options(grammar='root ::= "a"', json_schema={})
    sent = await send([], row.route, body)
    assert sent.status == 422
    assert "exclude each other" in row.error(json.loads(sent.data))


@pytest.mark.parametrize("row", [row for row in ROWS if "messages" in row.body])
@pytest.mark.parametrize(
    ("turn", "message"),
    [
        ({"role": "owner", "content": "4"}, "messages.0.role must be system, "),
        ({"role": 5, "content": "4"}, "messages.0.role must be one of"),
        ({"role": "user", "content": 5}, "messages.0.content must be a string"),
        ({"content": "4"}, "messages.0.role is missing"),
    ],
)
async def test_a_turn_that_cannot_be_is_refused(row: Row, turn: Any, message: str) -> None:
    await check_turn_is_refused(row, turn, message)


@pytest.mark.parametrize("row", [row for row in ROWS if row.tool_turns])
@pytest.mark.parametrize(
    ("turn", "message"),
    [
        ({"role": "owner", "content": "4"}, " or tool"),
        ({"role": "assistant", "tool_calls": [{}]}, "messages.0.tool_calls.0.function is missing"),
        ({"role": "user", "content": "4", "tool_calls": [CALL]}, "messages of the assistant's"),
    ],
)
async def test_a_turn_with_tools_that_cannot_be_is_refused(
    row: Row, turn: Any, message: str
) -> None:
    await check_turn_is_refused(row, turn, message)


async def check_turn_is_refused(row: Row, turn: Any, message: str) -> None:
    sent = await send([], row.route, {"messages": [turn]})
    told = row.error(json.loads(sent.data))
    assert sent.status == 422
    assert message in told
    assert told.startswith("messages.0.")


@rows
async def test_what_is_needed_and_missing_is_named(row: Row) -> None:
    sent = await send([], row.route, {})
    if row.any_type:  # then it loads the model
        assert sent.status == 200
        return
    (needed,) = row.body
    assert (sent.status, row.error(json.loads(sent.data))) == (422, f"{needed} is missing")
