"""Ollama's own client against a server that runs the real model."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any, Literal

import httpx2
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
GREEDY = {"temperature": 0, "num_predict": 24}


@pytest.fixture
def client(server_url: str) -> Iterator[ollama.Client]:
    with ollama.Client(server_url) as client:
        yield client


@pytest.fixture
async def async_client(server_url: str) -> AsyncIterator[ollama.AsyncClient]:
    async with ollama.AsyncClient(server_url) as client:
        yield client


def test_a_chat_whole_and_streamed(client: ollama.Client) -> None:
    whole = client.chat("smollm2", PARIS, options=GREEDY)
    assert "Paris" in (whole.message.content or "")
    assert whole.message.role == "assistant"
    assert whole.done_reason in {"stop", "length"}
    parts = list(client.chat("smollm2", PARIS, options=GREEDY, stream=True))
    assert len(parts) > 3
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    last = parts[-1]
    assert last.eval_count == whole.eval_count
    assert last.prompt_eval_count == whole.prompt_eval_count
    assert last.total_duration is not None
    assert last.eval_duration is not None
    assert 0 < last.eval_duration <= last.total_duration


async def test_thinking_comes_apart_whole_and_streamed() -> None:
    engine = FakeEngine(("Yes", "."), reasoning=("hm ", "hm"))
    async with serving(engine) as served, ollama.AsyncClient(served.url) as client:
        whole = await client.chat("fake", PARIS, think=True)
        chat = await client.chat("fake", PARIS, think="high", stream=True)
        parts = [part.message async for part in chat]
        generated = await client.generate("fake", "Hello", think=False)
    assert (whole.message.content, whole.message.thinking) == ("Yes.", "hm hm")
    assert [part.thinking for part in parts if part.thinking] == ["hm ", "hm"]
    assert [part.content for part in parts if part.content] == ["Yes", "."]
    assert (generated.response, generated.thinking) == ("Yes.", "hm hm")
    assert [request.thinking for request in engine.requests] == [True, True, False]


def test_generate_whole_and_streamed(client: ollama.Client) -> None:
    asked: dict[str, Any] = {
        "model": "smollm2:latest",
        "system": "Answer in one sentence.",
        "prompt": "Where is Paris?",
        "options": GREEDY,
    }
    whole = client.generate(**asked)
    assert whole.model == "smollm2:latest"
    assert whole.response == client.chat("smollm2", PARIS, options=GREEDY).message.content
    parts = list(client.generate(stream=True, **asked))
    assert "".join(part.response or "" for part in parts) == whole.response


async def test_the_async_client_gets_the_same_from_many_requests_at_once(
    client: ollama.Client, async_client: ollama.AsyncClient
) -> None:
    async def streamed() -> str:
        parts = await async_client.chat("smollm2", PARIS, options=GREEDY, stream=True)
        return "".join([part.message.content or "" async for part in parts])

    async def whole() -> str | None:
        return (await async_client.chat("smollm2", PARIS, options=GREEDY)).message.content

    answers = await asyncio.gather(streamed(), whole(), streamed(), whole())
    assert len(set(answers)) == 1
    assert answers[0] == client.chat("smollm2", PARIS, options=GREEDY).message.content


def test_a_raw_prompt_is_continued(client: ollama.Client) -> None:
    answer = client.generate(
        "smollm2", "The capital of France is", raw=True, options={**GREEDY, "num_predict": 4}
    )
    assert "Paris" in (answer.response or "")


def test_a_request_without_a_prompt_loads_the_model(client: ollama.Client) -> None:
    assert client.generate("smollm2").done_reason == "load"
    assert client.chat("smollm2").done_reason == "load"


class Place(BaseModel):
    city: Literal["Paris", "Rome"]
    continent: Literal["Europe", "Asia"]
    capital: bool


def test_a_pydantic_models_schema_as_format(client: ollama.Client) -> None:
    answer = client.chat(
        "smollm2",
        PARIS,
        format=Place.model_json_schema(),
        options={"temperature": 0, "num_predict": 200},
    )
    Place.model_validate_json(answer.message.content or "")


def test_json_as_format(client: ollama.Client) -> None:
    answer = client.generate(
        "smollm2",
        "Describe Paris in JSON with name and country.",
        format="json",
        options={"temperature": 0, "num_predict": 400},
    )
    assert (answer.response or "").startswith("{")
    if answer.done_reason == "stop":
        assert isinstance(json.loads(answer.response or ""), dict)


def test_log_probabilities(client: ollama.Client) -> None:
    answer = client.chat("smollm2", PARIS, logprobs=True, top_logprobs=3, options=GREEDY)
    assert answer.logprobs
    assert "".join(token.token for token in answer.logprobs) == answer.message.content
    assert all(token.logprob <= 0 for token in answer.logprobs)
    assert all(len(token.top_logprobs or []) == 3 for token in answer.logprobs)


def test_options_that_frameworks_send_along_are_taken(client: ollama.Client) -> None:
    options: dict[str, Any] = {
        "mirostat": None,
        "num_ctx": 32_768,
        "num_gpu": None,
        "num_thread": 4,
        "repeat_last_n": 64,
        "stop": ["\n\n\n"],
        "seed": 1,
        **GREEDY,
    }
    answer = client.chat("smollm2", PARIS, options=options, think=False, keep_alive="5m", tools=[])
    assert answer.message.content


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


def test_models(client: ollama.Client) -> None:
    listed = {model.model: model for model in client.list().models}
    model = listed["smollm2:latest"]
    assert model.details is not None
    assert model.details.family == "llama"
    assert model.details.quantization_level == "Q4_1"
    assert model.details.parameter_size == "134.52M"
    assert model.size is not None
    assert model.size > 50_000_000
    running = {process.model: process for process in client.ps().models}
    assert running["smollm2:latest"].digest == model.digest
    shown = client.show("smollm2")
    assert shown.capabilities == ["completion"]
    assert shown.modelinfo is not None
    assert shown.modelinfo["llama.context_length"] == 8192
    assert "<|im_start|>" in (shown.template or "")


def test_what_open_webui_asks_first(server_url: str) -> None:
    version = httpx2.get(f"{server_url}/api/version").json()["version"]
    assert all(part.isdigit() for part in version.split("."))
    (model,) = httpx2.get(f"{server_url}/api/tags").json()["models"]
    assert {"name", "model", "modified_at", "size", "digest", "details"} <= set(model)
    (served,) = httpx2.get(f"{server_url}/v1/models").json()["data"]
    assert served["object"] == "model"
