"""What a benchmark counts of a server's answers; the client itself has tests of its own."""

import pytest

from llmstream_cli.cli.bench_client import OpenAIClient
from llmstream_cli.cli.bench_figures import Cost
from llmstream_cli.errors import EngineError, InvalidValueError
from tests.fake_openai import (
    DONE,
    PIECES,
    ROLE,
    USAGE,
    Reply,
    answer_events,
    delta,
    event,
    serving,
    story,
)

KEY = "sk-secret"


async def ask(url: str, *, model: str | None = "tiny") -> list[str | Cost]:
    client = OpenAIClient(url, model=model, max_tokens=7, api_key=KEY)
    try:
        return [part async for part in client.stream("Hello?")]
    finally:
        await client.aclose()


async def parts_of(reply: Reply) -> list[str | Cost]:
    async with serving(reply) as server:
        return await ask(server.url)


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
        event({}),
        event({"choices": []}),
        event({"choices": [{"delta": None}]}),
        event({"choices": None, "error": None}),
        *story(),
    )
    assert await parts_of(reply) == [*PIECES, Cost(40, 10, 16)]


async def test_a_failure_is_the_clients() -> None:
    with pytest.raises(EngineError, match="the server failed: out of memory"):
        await parts_of(answer_events(event({"error": "out of memory"}), DONE))


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


async def models(body: object) -> str:
    async with serving(answer_events(*story()), models=body) as server:
        client = OpenAIClient(server.url, model=None, max_tokens=7)
        try:
            return await client.ready()
        finally:
            await client.aclose()


@pytest.mark.parametrize("body", [{}, {"data": []}, {"data": [7]}, [], "models", None])
async def test_no_model_is_an_error(body: object) -> None:
    with pytest.raises(EngineError, match="does not say what model it has"):
        await models(body)


async def test_of_several_models_one_must_be_named() -> None:
    body = {"data": [{"id": f"model-{number}"} for number in range(9)]}
    with pytest.raises(InvalidValueError, match="name one: model-0") as raised:
        await models(body)
    assert str(raised.value).endswith("model-4, …")


async def test_a_models_name_is_shown_as_one_line() -> None:
    assert await models({"data": [{"id": "ti\x1b[2J\nny"}]}) == "ti [2J ny"
