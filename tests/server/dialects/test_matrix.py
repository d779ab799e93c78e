"""What all wire formats do alike: each behaviour, each format. A new format is a row of `ROWS`."""

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmstream_cli.api import Chunk, EngineState, EngineStatus, FinishReason
from llmstream_cli.errors import (
    ContextLengthError,
    EngineDiedError,
    LLMStreamError,
    PromptError,
    QueueFullError,
)
from llmstream_cli.prompts.messages import Message
from llmstream_cli.sampling import SamplingParams
from llmstream_cli.server.dialects import all_dialects
from tests.server.fakes import FakeEngine, ask, connect, post, serving, until
from tests.server.scripted import ScriptedEngine, client, last, logprob


@dataclass(frozen=True)
class Row:
    """A wire format, and how a test reads it.

    Attributes:
        route: that generates.
        body: the least that it takes.
        content_type: of a stream.
        parts: of a stream, one for each event; none for what ends it.
        text: of a part, or of a whole answer.
        reasoning: the same.
        logprobs: the texts of the tokens whose log probabilities are in it.
        usage: tokens of prompt and answer, of a whole answer.
        error: the message of an error.
        streams: the fields of a request for a stream.
        whole: the fields of one for a whole answer; None where there is none.
        options: where sampling fields stand.
        names: of sampling parameters that are called otherwise.
        lacks: parameters that the format has not.
        asks_logprobs: the fields that ask for log probabilities; None where there are none.
        lenient: takes values by which other programs say "no bound", "any".
        tells: an error after the first token is told; else the response is cut.
        any_type: the body is JSON whatever the request calls it.
        reasons: reasoning is sent.
    """

    route: str
    body: dict[str, Any]
    content_type: str
    parts: Callable[[bytes], list[Any]]
    text: Callable[[Any], str]
    error: Callable[[Any], str]
    reasoning: Callable[[Any], str] = lambda _: ""
    logprobs: Callable[[Any], list[str]] = lambda _: []
    usage: Callable[[Any], tuple[int, int]] = lambda _: (0, 0)
    streams: dict[str, Any] = field(default_factory=dict)
    whole: dict[str, Any] | None = None
    options: str = ""
    names: dict[str, str] = field(default_factory=dict)
    lacks: frozenset[str] = frozenset()
    asks_logprobs: dict[str, Any] | None = None
    lenient: bool = True
    tells: bool = True
    any_type: bool = False
    reasons: bool = True

    def with_options(self, **options: Any) -> dict[str, Any]:
        named = {self.names.get(name, name): value for name, value in options.items()}
        return {**self.body, **({self.options: named} if self.options else named)}

    def field(self, name: str) -> str:
        """What an error calls a sampling parameter."""
        return ".".join(filter(None, (self.options, self.names.get(name, name))))


def events(data: bytes) -> list[Any]:
    found = [one.removeprefix("data: ") for one in data.decode().split("\n\n")[:-1]]
    assert all(one.splitlines() == [one] for one in found)
    return [json.loads(one) for one in found if one not in {"[DONE]", ": ping"}]


def lines(data: bytes) -> list[Any]:
    return [json.loads(line) for line in data.decode().splitlines()]


def choices(body: Any) -> Iterator[Any]:
    for choice in body.get("choices", ()):
        yield {**choice, **(choice.get("delta") or choice.get("message") or {})}


def openai(route: str, body: dict[str, Any], text: str, **given_: Any) -> Row:
    return Row(
        route,
        body,
        "text/event-stream; charset=utf-8",
        parts=events,
        text=lambda part: "".join(one.get(text) or "" for one in choices(part)),
        error=lambda body: str(body["error"]["message"]),
        usage=lambda body: (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]),
        streams={"stream": True},
        whole={},
        **given_,
    )


def chat_tokens(part: Any) -> list[str]:
    found = [(one.get("logprobs") or {}).get("content") or [] for one in choices(part)]
    return [token["token"] for tokens in found for token in tokens]


def completion_tokens(part: Any) -> list[str]:
    return [
        token for one in choices(part) for token in (one.get("logprobs") or {}).get("tokens", [])
    ]


def ollama(route: str, body: dict[str, Any]) -> Row:
    def inner(part: Any) -> Any:
        return part.get("message", part)

    return Row(
        route,
        body,
        "application/x-ndjson",
        parts=lines,
        text=lambda part: str(inner(part).get("content", inner(part).get("response", ""))),
        reasoning=lambda part: str(inner(part).get("thinking", "")),
        logprobs=lambda part: [token["token"] for token in part.get("logprobs", ())],
        usage=lambda body: (body["prompt_eval_count"], body["eval_count"]),
        error=lambda body: str(body["error"]),
        whole={"stream": False},
        options="options",
        names={"max_tokens": "num_predict"},
        lacks=frozenset({"logit_bias", "ignore_eos", "grammar", "regex", "json_schema"}),
        asks_logprobs={"logprobs": True, "top_logprobs": 1},
        any_type=True,
    )


HELLO = {"messages": [{"role": "user", "content": "Hello"}]}
ROWS = [
    Row(
        "/token_stream",
        {"query": "Hello"},
        "text/plain; charset=utf-8",
        parts=lambda data: [data.decode()],
        text=str,
        error=lambda body: str(body["error"]["message"]),
        lenient=False,
        tells=False,
        reasons=False,
    ),
    openai(
        "/v1/chat/completions",
        HELLO,
        "content",
        reasoning=lambda part: "".join(one.get("reasoning_content", "") for one in choices(part)),
        logprobs=chat_tokens,
        asks_logprobs={"logprobs": True, "top_logprobs": 1},
    ),
    openai(
        "/v1/completions",
        {"prompt": "Hello"},
        "text",
        logprobs=completion_tokens,
        asks_logprobs={"logprobs": 1},
        reasons=False,
    ),
    ollama("/api/chat", HELLO),
    ollama("/api/generate", {"prompt": "Hello"}),
]
rows = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.route)
WAYS = [
    pytest.param(row, fields, id=f"{row.route}-{way}")
    for row in ROWS
    for way, fields in (("stream", row.streams), ("whole", row.whole))
    if fields is not None
]
both_ways = pytest.mark.parametrize(("row", "way"), WAYS)


async def send(engine: ScriptedEngine, route: str, body: Any) -> tuple[int, Any, bytes]:
    response = await client(engine).post(route, json=body)
    return response.status_code, response.headers, await response.get_data(as_text=False)


def read(row: Row, way: dict[str, Any], data: bytes) -> list[Any]:
    """The parts of a stream, or the body of a whole answer as one part."""
    return row.parts(data) if way == row.streams else [json.loads(data)]


def test_every_route_that_generates_has_a_row() -> None:
    described = {
        operation.path
        for dialect in all_dialects()
        for operation in dialect.operations
        if operation.request is not None and operation.path != "/api/show"
    }
    assert described == {row.route for row in ROWS}


# ---- answers --------------------------------------------------------------------------------


@rows
async def test_a_stream_has_its_type_and_is_not_stored(row: Row) -> None:
    status, headers, data = await send(
        ScriptedEngine([Chunk("Hel", (1,)), last("lo")]), row.route, {**row.body, **row.streams}
    )
    assert (status, headers["Content-Type"]) == (200, row.content_type)
    assert (headers["Cache-Control"], headers["X-Accel-Buffering"]) == ("no-store", "no")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "".join(map(row.text, row.parts(data))) == "Hello"


@pytest.mark.parametrize("row", [row for row in ROWS if row.whole is not None])
async def test_a_whole_answer_ends_with_what_it_cost(row: Row) -> None:
    script = [Chunk("Hel", (1,)), last("lo", FinishReason.LENGTH)]
    status, headers, data = await send(
        ScriptedEngine(script), row.route, {**row.body, **(row.whole or {})}
    )
    body = json.loads(data)
    assert (status, headers["Content-Type"], headers["Cache-Control"]) == (
        200,
        "application/json",
        "no-store",
    )
    assert (row.text(body), row.usage(body)) == ("Hello", (12, 3))
    assert '"length"' in data.decode()


@both_ways
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(max_size=5) | st.just("\u2028é"), max_size=5))
async def test_the_text_is_that_of_the_chunks(
    row: Row, way: dict[str, Any], texts: list[str]
) -> None:
    engine = ScriptedEngine([*map(Chunk, texts), last()])
    _, _, data = await send(engine, row.route, {**row.body, **way})
    assert "".join(map(row.text, read(row, way, data))) == "".join(texts)


@both_ways
async def test_reasoning_is_apart_from_the_text(row: Row, way: dict[str, Any]) -> None:
    script = [Chunk("", (1,), reasoning="h"), Chunk("", (2,), reasoning="m"), last("Yes")]
    _, _, data = await send(ScriptedEngine(script), row.route, {**row.body, **way})
    parts = read(row, way, data)
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
    for asked in (row.asks_logprobs, {}):
        if asked is None:
            continue
        engine = ScriptedEngine(script)
        _, _, data = await send(engine, row.route, {**row.body, **way, **asked})
        tokens = [token for part in read(row, way, data) for token in row.logprobs(part)]
        assert tokens == (["a", " b"] if asked else [])
        assert engine.requests[0].sampling.logprobs == (1 if asked else None)


async def test_only_event_streams_say_something_in_a_silence() -> None:
    for row in ROWS:
        engine = FakeEngine(("one ", "two"), pause=0.1)
        async with serving(engine, heartbeat_seconds=0.01) as served:
            reply = await served.app.test_client().post(row.route, json={**row.body, **row.streams})
            data = await reply.get_data(as_text=False)
        assert (data.count(b": ping\n\n") > 1) == (row.parts is events)
        assert "".join(map(row.text, row.parts(data))) == "one two"


# ---- errors ---------------------------------------------------------------------------------


@both_ways
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ContextLengthError(9000, 8192), 400),
        (PromptError("the roles must alternate"), 400),
        (QueueFullError("64 requests wait already"), 429),
        (EngineDiedError("the engine died"), 503),
    ],
)
async def test_an_error_before_the_first_token_has_its_status(
    row: Row, way: dict[str, Any], error: LLMStreamError, status: int
) -> None:
    found, headers, data = await send(ScriptedEngine([error]), row.route, {**row.body, **way})
    assert (found, headers["Content-Type"]) == (status, "application/json")
    assert row.error(json.loads(data)) == str(error)
    assert ("Retry-After" in headers) == (status in {429, 503})


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


@both_ways
async def test_a_bug_before_the_first_token_tells_nothing(
    row: Row, way: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    engine = ScriptedEngine([RuntimeError("secret")])
    status, _, data = await send(engine, row.route, {**row.body, **way})
    assert (status, row.error(json.loads(data))) == (500, "the server failed; its log says more")
    assert "secret" in caplog.text


@rows
@pytest.mark.parametrize("state", [EngineState.LOADING, EngineState.RESTARTING, EngineState.FAILED])
async def test_an_engine_that_is_not_ready_is_503_with_the_reason(
    row: Row, state: EngineState
) -> None:
    engine = ScriptedEngine([last()])
    engine.status = EngineStatus(state, "a reason for a person")
    status, _, data = await send(engine, row.route, row.body)
    assert (status, row.error(json.loads(data))) == (503, "a reason for a person")
    assert not engine.requests


@rows
async def test_a_model_goes_by_its_names_and_no_other(row: Row) -> None:
    for name in ("tiny", "TINY", "tiny:latest", None):
        status, *_ = await send(ScriptedEngine([last()]), row.route, {**row.body, "model": name})
        assert status == 200
    status, _, data = await send(ScriptedEngine(), row.route, {**row.body, "model": "gpt-5"})
    assert status == 404
    assert row.error(json.loads(data)) == "no model is called 'gpt-5'; served: tiny"


@rows
async def test_a_body_has_to_be_called_json_where_the_api_says_so(row: Row) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}  # as curl's `-d` alone
    server = client(ScriptedEngine([last()]))
    response = await server.post(row.route, data=json.dumps(row.body), headers=form)
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

SCHEMA = {"type": "null"}
SAMPLING: dict[str, tuple[Any, Any]] = {
    "temperature": (1.5, 1.5),
    "top_k": (3, 3),
    "top_p": (0.5, 0.5),
    "min_p": (0.1, 0.1),
    "repeat_penalty": (1.3, 1.3),
    "repeat_last_n": (-1, -1),
    "presence_penalty": (-1.0, -1.0),
    "frequency_penalty": (0.25, 0.25),
    "seed": (7, 7),
    "max_tokens": (9, 9),
    "stop": (["a", "b"], ("a", "b")),
    "logit_bias": ({"5": -2.5}, ((5, -2.5),)),
    "ignore_eos": (True, True),
    "grammar": ('root ::= "a"', 'root ::= "a"'),
    "json_schema": (SCHEMA, '{"type":"null"}'),
    "regex": ("a+", "a+"),
}
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
async def test_every_parameter_reaches_the_engine(row: Row) -> None:
    cases = [(name, *values) for name, values in SAMPLING.items()]
    cases += [("stop", "END", ("END",)), *(LENIENT if row.lenient else [])]
    for name, value, expected in cases:
        if name not in row.lacks:
            engine = ScriptedEngine([last()])
            status, *_ = await send(engine, row.route, row.with_options(**{name: value}))
            assert status == 200, name
            assert engine.requests[0].sampling == replace(DEFAULTS, **{name: expected})


@rows
async def test_nothing_and_null_are_the_servers_defaults(row: Row) -> None:
    engine = ScriptedEngine([last()])
    nulls = dict.fromkeys(name for name in SAMPLING if name not in row.lacks)
    for body in (row.body, row.with_options(**nulls)):
        assert (await send(engine, row.route, body))[0] == 200
    assert engine.requests[0] == replace(engine.requests[1], client=engine.requests[0].client)
    assert engine.requests[0].sampling == DEFAULTS
    request = engine.requests[0]
    assert request.prompt == "Hello" or request.messages == (Message("user", "Hello"),)


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
    for (name, value), way in itertools.product(WRONG, (row.streams, row.whole or {})):
        if name in row.lacks:
            continue
        engine = ScriptedEngine([last()])
        body = {**row.with_options(**{name: value}), **way}
        status, _, data = await send(engine, row.route, body)
        message = row.error(told := json.loads(data))
        assert (status, engine.requests) == (422, []), (name, value)
        assert row.field(name) in message or message.startswith("JSON schema"), message
        assert message.isprintable()
        if isinstance(told["error"], dict):
            assert told["error"]["param"].partition(".")[0] == row.field(name)
            assert told["error"]["code"] == "invalid_field"
            assert told["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("row", [row for row in ROWS if "grammar" not in row.lacks])
async def test_two_constraints_exclude_each_other(row: Row) -> None:
    body = row.with_options(grammar='root ::= "a"', json_schema={})
    status, _, data = await send(ScriptedEngine(), row.route, body)
    assert status == 422
    assert "exclude each other" in row.error(json.loads(data))


@pytest.mark.parametrize("row", [row for row in ROWS if "messages" in row.body])
@pytest.mark.parametrize(
    ("turn", "field"),
    [
        ({"role": "tool", "content": "4"}, "messages.0.role"),
        ({"role": "function", "content": "4"}, "messages.0.role"),
        ({"role": "owner", "content": "4"}, "messages.0.role"),
        ({"role": "assistant", "content": "", "tool_calls": [{}]}, "messages.0.tool_calls"),
        ({"role": "user", "content": 5}, "messages.0.content"),
        ({"content": "4"}, "messages.0.role"),
    ],
)
async def test_a_turn_that_cannot_be_is_refused(row: Row, turn: Any, field: str) -> None:
    status, _, data = await send(ScriptedEngine(), row.route, {"messages": [turn]})
    assert status == 422
    message = row.error(json.loads(data))
    assert message.startswith(field)
    assert ("tools" in message) == ("tool" in str(turn) or "function" in str(turn))


@rows
async def test_what_is_needed_and_missing_is_named(row: Row) -> None:
    status, _, data = await send(ScriptedEngine(), row.route, {})
    if row.any_type:  # then it loads the model
        assert status == 200
        return
    (needed,) = row.body
    assert (status, row.error(json.loads(data))) == (422, f"{needed} is missing")
