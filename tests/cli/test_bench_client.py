"""The client of the OpenAI API, against a server that misbehaves on purpose."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstream_cli.cli import bench_client
from llmstream_cli.cli.bench_client import DataLines, OpenAIClient, base_url, one_line
from llmstream_cli.cli.bench_figures import Cost
from llmstream_cli.errors import EngineError, InvalidValueError
from tests.fake_openai import (
    DONE,
    PIECES,
    ROLE,
    USAGE,
    Reply,
    answer,
    answer_events,
    answer_json,
    delta,
    event,
    serving,
    story,
)

KEY = "sk-secret"


async def ask(
    url: str, *, model: str | None = "tiny", key: str | None = KEY, idle_seconds: float = 60.0
) -> list[str | Cost]:
    client = OpenAIClient(url, model=model, max_tokens=7, api_key=key, idle_seconds=idle_seconds)
    try:
        return [part async for part in client.stream("Hello?")]
    finally:
        await client.aclose()


async def parts_of(reply: Reply) -> list[str | Cost]:
    async with serving(reply) as server:
        return await ask(server.url)


async def complaint_about(reply: Reply, idle_seconds: float = 60.0) -> str:
    async with serving(reply) as server:
        with pytest.raises(EngineError) as raised:
            await ask(server.url, idle_seconds=idle_seconds)
    message = str(raised.value)
    assert message.isprintable()
    assert len(message) <= 300
    assert KEY not in message
    return message


# ---- answers --------------------------------------------------------------------------------


async def test_an_answer() -> None:
    assert await parts_of(answer_events(*story())) == [*PIECES, Cost(40, 10, 16)]


async def test_the_request() -> None:
    async with serving(answer_events(*story())) as server:
        await ask(server.url + "/v1/")
    (request,) = server.requests
    assert request.line == "POST /v1/chat/completions HTTP/1.1"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.body == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "Hello?"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0,
        "max_tokens": 7,
    }


async def test_no_proxy_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    assert await parts_of(answer_events(*story())) == [*PIECES, Cost(40, 10, 16)]


async def test_lines_that_arrive_in_pieces() -> None:
    greeting = 'data: {"choices": [{"delta": {"content": "Grüße 🇦🇹"}}]}\n\n'.encode()
    stream = ROLE + greeting + DONE
    pieces = [stream[start : start + 3] for start in range(0, len(stream), 3)]
    assert await parts_of(answer_events(*pieces)) == ["Grüße 🇦🇹"]


@given(st.data())
def test_any_split_of_a_stream_gives_the_same_lines(data: st.DataObject) -> None:
    ends = st.sampled_from([b"\n", b"\r\n"])
    values = data.draw(st.lists(st.text().map(lambda text: json.dumps(text).encode())))
    stream = b"".join(
        b": ping\nevent: x\ndata:" + data.draw(st.sampled_from([b"", b" "])) + value + end + end
        for value in values
        for end in [data.draw(ends)]
    )
    lines, got, start = DataLines(), [], 0
    for cut in [*sorted(data.draw(st.lists(st.integers(0, len(stream))))), len(stream)]:
        got += lines.feed(stream[start:cut])
        start = cut
    assert got == values


async def test_an_answer_without_usage() -> None:
    assert await parts_of(answer_events(*story(usage=None))) == list(PIECES)


@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 2}, [Cost(3, 2)]),
        ({**USAGE, "prompt_tokens_details": None}, [Cost(40, 10)]),
        ({**USAGE, "prompt_tokens_details": {"cached_tokens": None}}, [Cost(40, 10)]),
        ({**USAGE, "prompt_tokens": None}, []),
        ({**USAGE, "prompt_tokens": "40"}, []),
        ({**USAGE, "completion_tokens": -1}, []),
        ({**USAGE, "completion_tokens": 10**400}, []),
        ({"total_tokens": 5}, []),
        ([40, 10], []),
    ],
)
async def test_usage_is_taken_if_it_makes_sense(usage: object, cost: list[Cost]) -> None:
    assert await parts_of(answer_events(*story(usage))) == [*PIECES, *cost]


async def test_thoughts_count_as_text() -> None:
    reply = answer_events(
        ROLE, delta(reasoning_content="Hm"), delta(reasoning="m.", content=None), *story()[1:]
    )
    assert await parts_of(reply) == ["Hm", "m.", *PIECES, Cost(40, 10, 16)]


async def test_events_without_text_are_passed_over() -> None:
    reply = answer_events(
        b": keep-alive\n\n",
        event({}),
        event({"choices": []}),
        event({"choices": [{"delta": None}]}),
        event({"choices": [{"delta": {"content": ["?"]}}]}),
        event({"choices": None, "error": None}),
        *story(),
    )
    assert await parts_of(reply) == [*PIECES, Cost(40, 10, 16)]


async def test_nothing_is_awaited_after_done() -> None:
    reply = answer_events(*story(), hang=True)
    assert await parts_of(reply) == [*PIECES, Cost(40, 10, 16)]


# ---- failures -------------------------------------------------------------------------------

CHUNKED = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)


@pytest.mark.parametrize(
    ("reply", "complaint"),
    [
        (
            answer_events(
                ROLE, delta(content="Once"), event({"error": {"message": "on\nfire"}}), DONE
            ),
            "on fire",
        ),
        (answer_events(event({"error": "out of memory"}), DONE), "out of memory"),
        (answer_events(event({"error": {"code": 7}}), DONE), '{"error": {"code": 7}}'),
        (
            answer_json({"error": {"message": "the prompt is too long"}}, "400 Bad Request"),
            "HTTP 400: the prompt is too long",
        ),
        (answer_json({"error": "no model"}, "404 Not Found"), "HTTP 404: no model"),
        (answer_json({"detail": "busy"}, "429 Too Many Requests"), "HTTP 429: busy"),
        (answer_json({"message": "no"}, "401 Unauthorized"), "HTTP 401: no"),
        (answer_json({"error": None}, "500 Oops"), 'HTTP 500: {"error": null}'),
        (
            answer_json(f"Incorrect key: {KEY}", "401 Unauthorized"),
            'HTTP 401: "Incorrect key: ***"',
        ),
        (
            answer("text/html", b"<h1>Bad\x1b[2J\r\ngateway</h1>", status="502 Bad Gateway"),
            "HTTP 502: <h1>Bad [2J gateway</h1>",
        ),
        (answer("text/plain", b"", status="503 Busy"), "HTTP 503:"),
        (answer("text/plain", b"", status="302 Found\r\nLocation: /elsewhere"), "HTTP 302:"),
        (answer_events(ROLE, delta(content="Once")), "the stream ended without [DONE]"),
        (answer_events(), "the stream ended without [DONE]"),
        (Reply((CHUNKED, b"5\r\ndata:")), "the connection failed: peer closed connection"),
        (Reply(()), "the connection failed: Server disconnected"),
        (Reply((b"Hello, who is this?\r\n",)), "the connection failed: "),
        (answer_events(b"data: Once upon\n\n", DONE), "no JSON object: Once upon"),
        (answer_events(b"data: [1]\n\n", DONE), "no JSON object: [1]"),
        (answer_events(b"data: " + b"[" * 100_000 + b"\n\n", DONE), "no JSON object: [[[["),
        (answer_events(b"data: \xff\xfe\n\n", DONE), "no JSON object: \N{REPLACEMENT CHARACTER}"),
        (
            answer_json({"choices": [{"message": {"content": "Once"}}]}),
            "the answer is application/json, not an event stream",
        ),
    ],
)
async def test_a_failure_is_one_line(reply: Reply, complaint: str) -> None:
    assert complaint in await complaint_about(reply)


async def test_a_silent_server_is_given_up() -> None:
    reply = answer_events(ROLE, hang=True)
    assert "sent nothing for 0.05 s" in await complaint_about(reply, idle_seconds=0.05)


async def test_a_line_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_client, "_MAX_LINE_BYTES", 1 << 20)
    reply = answer_events(*[b"data: " + b"x" * (1 << 19)] * 4)
    assert await complaint_about(reply) == "the stream has a line longer than 1 MiB"


async def test_a_body_without_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_client, "_MAX_BODY_BYTES", 1000)
    reply = answer("text/plain", b"x" * 2000, status="500 Oops", hang=True)
    assert (await complaint_about(reply)).startswith("HTTP 500: xxx")


async def test_no_server() -> None:
    async with serving(answer_events()) as server:
        pass
    with pytest.raises(EngineError, match=f"cannot connect to {server.url}"):
        await ask(server.url, key=None)


async def test_no_key_is_no_header() -> None:
    async with serving(answer_events(*story())) as server:
        await ask(server.url, key=None)
    assert "authorization" not in server.requests[0].headers


async def test_an_answer_that_is_left_closes_its_connection() -> None:
    async with serving(answer_events(*story()[:-1], hang=True)) as server:
        client = OpenAIClient(server.url, model="tiny", max_tokens=7)
        stream = client.stream("Hello?")
        assert await anext(stream) == "Once"
        await stream.aclose()
        await client.aclose()
    # Leaving the block has waited for the server's side: it saw the end.


# ---- the model's name -----------------------------------------------------------------------


async def test_the_only_model_is_taken() -> None:
    async with serving(answer_events(*story())) as server:
        await ask(server.url, model=None)
    assert server.requests[0].body["model"] == "tiny"


async def models(body: object, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("tests.fake_openai.MODELS", body)
    async with serving(answer_events(*story())) as server:
        client = OpenAIClient(server.url, model=None, max_tokens=7)
        try:
            return await client.ready()
        finally:
            await client.aclose()


@pytest.mark.parametrize("body", [{}, {"data": []}, {"data": [7]}, [], "models", None])
async def test_no_model_is_an_error(body: object, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EngineError, match="name it with --url-model"):
        await models(body, monkeypatch)


async def test_of_several_models_one_must_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    body = {"data": [{"id": f"model-{number}\x1b"} for number in range(9)]}
    with pytest.raises(InvalidValueError, match="model-0 , model-1 ") as raised:
        await models(body, monkeypatch)
    assert str(raised.value).endswith("model-4 , …")


async def test_a_models_name_is_shown_as_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await models({"data": [{"id": "ti\x1b[2J\nny"}]}, monkeypatch) == "ti [2J ny"


# ---- what the user gives --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "base"),
    [
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://127.0.0.1:8080/", "http://127.0.0.1:8080"),
        ("http://127.0.0.1:8080/v1", "http://127.0.0.1:8080"),
        ("https://example.org/openai/v1/", "https://example.org/openai"),
        ("http://[::1]:3030", "http://[::1]:3030"),
    ],
)
def test_urls(given: str, base: str) -> None:
    assert base_url(given) == base


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ("", "must be like"),
        ("127.0.0.1:8080", "must be like|is no URL"),
        ("localhost:8080", "must be like"),
        ("ftp://127.0.0.1", "must be like"),
        ("http://", "must be like"),
        ("http://127.0.0.1:port", "is no URL"),
        ("http://127.0.0.1\n", "is no URL"),
        ("http://me:secret@127.0.0.1", "must have no password"),
        ("http://127.0.0.1/?key=secret", "must end with the host or a path"),
        ("http://127.0.0.1/#there", "must end with the host or a path"),
    ],
)
def test_bad_urls(given: str, complaint: str) -> None:
    with pytest.raises(InvalidValueError, match=complaint) as raised:
        base_url(given)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "schlüssel", "\x7f"])
def test_bad_keys(key: str) -> None:
    with pytest.raises(InvalidValueError, match="no key can have") as raised:
        OpenAIClient("http://127.0.0.1", model=None, max_tokens=1, api_key=key)
    assert key not in str(raised.value)


@given(st.text())
def test_any_text_becomes_one_line(text: str) -> None:
    line = one_line(text)
    assert line.isprintable()
    assert len(line) <= 300
