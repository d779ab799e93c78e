"""Ollama's own client against a server that runs the real model."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any, Literal

import ollama
import pytest
from pydantic import BaseModel

from llmstream_cli.errors import EngineDiedError
from tests.server.fakes import FakeEngine, serving

PARIS = [
    {"role": "system", "content": "Answer in one sentence."},
    {"role": "user", "content": "Where is Paris?"},
]
# Greedy, so that every way to ask the same gives the same answer.
GREEDY: dict[str, Any] = {"temperature": 0, "num_predict": 24}
slow = pytest.mark.slow  # the server runs the real model


@pytest.fixture
def client(server_url: str) -> Iterator[ollama.Client]:
    with ollama.Client(server_url) as client:
        yield client


@pytest.fixture
async def async_client(server_url: str) -> AsyncIterator[ollama.AsyncClient]:
    async with ollama.AsyncClient(server_url) as client:
        yield client


@slow
def test_a_chat_whole_and_streamed(client: ollama.Client) -> None:
    asked: dict[str, Any] = {"logprobs": True, "top_logprobs": 3, "options": GREEDY}
    whole = client.chat("smollm2", PARIS, **asked)
    text = whole.message.content or ""
    assert "Paris" in text
    assert (whole.message.role, whole.model) == ("assistant", "smollm2")
    *parts, last = client.chat("smollm2", PARIS, stream=True, **asked)
    assert len(parts) > 3
    assert "".join(part.message.content or "" for part in parts) == text
    assert not any(part.done for part in parts)
    assert (last.done, last.done_reason) == (True, whole.done_reason)
    assert last.eval_count == whole.eval_count
    assert last.prompt_eval_count == whole.prompt_eval_count
    assert last.total_duration is not None
    assert last.eval_duration is not None
    assert 0 < last.eval_duration <= last.total_duration
    assert "".join(token.token for token in whole.logprobs or []) == text
    assert all(len(token.top_logprobs or []) == 3 for token in whole.logprobs or [])


@slow
def test_generate_whole_streamed_and_raw(client: ollama.Client) -> None:
    asked: dict[str, Any] = {"model": "smollm2:latest", "options": GREEDY}
    asked |= {"system": "Answer in one sentence.", "prompt": "Where is Paris?"}
    whole = client.generate(**asked)
    assert whole.model == "smollm2:latest"
    assert whole.response == client.chat("smollm2", PARIS, options=GREEDY).message.content
    parts = list(client.generate(stream=True, **asked))
    assert "".join(part.response or "" for part in parts) == whole.response
    raw = client.generate("smollm2", "The capital of France is", raw=True, options=GREEDY)
    assert "Paris" in (raw.response or "")
    assert client.generate("smollm2").done_reason == client.chat("smollm2").done_reason == "load"


@slow
async def test_the_async_client_gets_the_same_from_many_requests_at_once(
    async_client: ollama.AsyncClient,
) -> None:
    async def streamed() -> str:
        parts = await async_client.chat("smollm2", PARIS, options=GREEDY, stream=True)
        return "".join([part.message.content or "" async for part in parts])

    async def whole() -> str | None:
        return (await async_client.chat("smollm2", PARIS, options=GREEDY)).message.content

    answers = await asyncio.gather(streamed(), whole(), streamed(), whole())
    assert len(set(answers)) == 1
    assert answers[0]


class Place(BaseModel):
    city: Literal["Paris", "Rome"]
    continent: Literal["Europe", "Asia"]
    capital: bool


@slow
def test_formats_and_the_options_that_frameworks_send_along(client: ollama.Client) -> None:
    sent_along: dict[str, Any] = {"num_ctx": 32_768, "mirostat": None, "num_thread": 4}
    options = {**GREEDY, **sent_along, "num_predict": 200, "stop": ["\n\n\n"], "seed": 1}
    more: dict[str, Any] = {"options": options, "think": False, "keep_alive": "5m"}
    schema = Place.model_json_schema()
    answer = client.chat("smollm2", PARIS, format=schema, tools=[], **more)
    Place.model_validate_json(answer.message.content or "")
    generated = client.generate("smollm2", "Describe Paris in JSON.", format="json", **more)
    assert (generated.response or "").startswith("{")


@slow
def test_errors_bear_their_status(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="smollm2") as missing:
        client.chat("llama9", PARIS)
    assert missing.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="context") as long:
        client.chat("smollm2", [{"role": "user", "content": "word " * 20_000}], stream=False)
    assert long.value.status_code == 400
    with pytest.raises(ollama.ResponseError, match="temperature") as wrong:
        list(client.generate("smollm2", "Hello", options={"temperature": -1}, stream=True))
    assert wrong.value.status_code == 422
    with pytest.raises(ollama.ResponseError, match="think"):
        client.chat("smollm2", PARIS, think=True)


async def test_an_error_on_the_way_is_raised_after_the_text_before_it() -> None:
    texts: list[str | None] = []

    async def read(client: ollama.AsyncClient) -> None:
        async for part in await client.chat("fake", PARIS, stream=True):
            texts.append(part.message.content)  # noqa: PERF401  (an error ends it)

    engine = FakeEngine(("one ", "two"), error=EngineDiedError("the engine died"))
    async with serving(engine) as served, ollama.AsyncClient(served.url) as client:
        with pytest.raises(ollama.ResponseError, match="the engine died"):
            await read(client)
    assert texts == ["one ", "two"]


@slow
def test_models(client: ollama.Client) -> None:
    (model,) = client.list().models
    assert model.details is not None
    assert (model.model, model.details.family) == ("smollm2:latest", "llama")
    assert (model.details.quantization_level, model.details.parameter_size) == ("Q4_1", "134.52M")
    assert (model.size or 0) > 50_000_000
    assert [process.digest for process in client.ps().models] == [model.digest]
    shown = client.show("smollm2")
    assert shown.modelinfo is not None
    assert shown.modelinfo["llama.context_length"] == 8192
    assert "<|im_start|>" in (shown.template or "")
