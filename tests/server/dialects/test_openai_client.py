"""OpenAI's own client, and the `llm` command, against a server that runs the real model."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam
from pydantic import BaseModel

from llmstream_cli.core.llama import Model
from llmstream_cli.errors import EngineDiedError
from tests.server.fakes import FakeEngine, serving

PARIS: list[ChatCompletionMessageParam] = [
    {"role": "system", "content": "Answer in one sentence."},
    {"role": "user", "content": "Where is Paris?"},
]
# Greedy, so that every way to ask the same gives the same answer.
GREEDY: dict[str, Any] = {"model": "smollm2", "temperature": 0, "max_tokens": 24}
slow = pytest.mark.slow  # the server runs the real model


@pytest.fixture
def client(server_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server_url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
async def async_client(server_url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    client = openai.AsyncOpenAI(base_url=f"{server_url}/v1", api_key="none", max_retries=0)
    async with client:
        yield client


@slow
def test_a_stream_is_the_whole_answer_in_pieces(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {**GREEDY, "messages": PARIS, "logprobs": True, "top_logprobs": 3}
    whole = client.chat.completions.create(**asked)
    (choice,) = whole.choices
    usage_option: dict[str, Any] = {"stream_options": {"include_usage": True}}
    *chunks, last = client.chat.completions.create(stream=True, **usage_option, **asked)
    deltas = [chunk.choices[0] for chunk in chunks]
    pieces = [one.delta.content or "" for one in deltas]
    assert "Paris" in "".join(pieces)
    assert len(list(filter(None, pieces))) > 3
    assert "".join(pieces) == choice.message.content
    assert deltas[0].delta.role == "assistant"
    assert deltas[-1].finish_reason == choice.finish_reason
    assert last.usage is not None
    assert whole.usage is not None
    assert last.usage.completion_tokens == whole.usage.completion_tokens <= 24
    assert last.usage.prompt_tokens == whole.usage.prompt_tokens > 10
    assert whole.model == "smollm2"
    assert choice.logprobs is not None
    tokens = choice.logprobs.content or []
    assert bytes(byte for token in tokens for byte in token.bytes or []).decode() == "".join(pieces)
    for token in tokens:
        likeliest = [top.logprob for top in token.top_logprobs]
        assert likeliest == sorted(likeliest, reverse=True)
        assert (len(likeliest), token.logprob <= 0) == (3, True)
    streamed = [token for one in deltas if one.logprobs for token in one.logprobs.content or []]
    assert [one.token for one in streamed] == [one.token for one in tokens]


@slow
async def test_the_async_client_gets_the_same_from_many_requests_at_once(
    async_client: openai.AsyncOpenAI,
) -> None:
    async def streamed() -> str:
        stream = await async_client.chat.completions.create(messages=PARIS, stream=True, **GREEDY)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def whole() -> str | None:
        answer = await async_client.chat.completions.create(messages=PARIS, **GREEDY)
        return answer.choices[0].message.content  # type: ignore[no-any-return]

    answers = await asyncio.gather(streamed(), whole(), streamed(), whole())
    assert len(set(answers)) == 1
    assert answers[0]


@slow
def test_a_seed_gives_one_answer_and_each_choice_another(client: openai.OpenAI) -> None:
    drawn: dict[str, Any] = {"model": "smollm2", "temperature": 1.5, "max_tokens": 12}
    whole = client.chat.completions.create(messages=PARIS, n=2, seed=7, **drawn)
    texts = ["", ""]
    for chunk in client.chat.completions.create(messages=PARIS, n=2, seed=7, stream=True, **drawn):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == [choice.message.content for choice in whole.choices]
    assert texts[0] != texts[1]
    second = client.chat.completions.create(messages=PARIS, seed=8, **drawn)
    assert second.choices[0].message.content == texts[1]


@slow
def test_completions_continue_prompts_of_every_shape(
    client: openai.OpenAI, model_path: Path
) -> None:
    prompts = ["The capital of France is", "Once upon a time"]
    asked: dict[str, Any] = {**GREEDY, "logprobs": 2}
    alone = [client.completions.create(prompt=one, **asked).choices[0] for one in prompts]
    texts = [choice.text for choice in alone]
    assert "Paris" in texts[0]
    model = Model(str(model_path))
    tokens = [model.tokenize(prompt, special=True) for prompt in prompts]
    for together in (prompts, tokens):
        answer = client.completions.create(prompt=together, **GREEDY)
        assert [choice.text for choice in answer.choices] == texts
    stream = client.completions.create(prompt=prompts[0], stream=True, **GREEDY)
    assert "".join(chunk.choices[0].text for chunk in stream) == texts[0]
    found = alone[0].logprobs
    assert found is not None
    for token, offset in zip(found.tokens or [], found.text_offset or [], strict=True):
        assert texts[0][offset:].startswith(token)
    assert "".join(found.tokens or []) == texts[0]
    (first,) = model.tokenize((found.tokens or [""])[0], special=False)
    biased = client.completions.create(prompt=prompts[0], logit_bias={str(first): -100}, **GREEDY)
    assert not biased.choices[0].text.startswith((found.tokens or [""])[0])


class Place(BaseModel):
    city: Literal["Paris", "Rome"]
    continent: Literal["Europe", "Asia"]
    capital: bool


@slow
def test_the_helpers_parse_a_pydantic_model_whole_and_streamed(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {**GREEDY, "max_tokens": 200, "messages": PARIS}
    answer = client.chat.completions.parse(response_format=Place, **asked)
    with client.chat.completions.stream(response_format=Place, **asked) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert isinstance(final.choices[0].message.parsed, Place)
    assert final.choices[0].message.parsed == answer.choices[0].message.parsed
    assert "".join(deltas) == final.choices[0].message.content


@slow
def test_fields_that_frameworks_send_along_are_taken(client: openai.OpenAI) -> None:
    part: Any = {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]}
    answer = client.chat.completions.create(
        messages=[part, *PARIS],
        user="somebody",
        store=False,
        metadata={"run": "1"},
        parallel_tool_calls=False,
        logit_bias=None,
        stop=None,
        tools=[],
        tool_choice="none",
        response_format={"type": "text"},
        extra_body={"best_of": 1, "top_k": 5, "grammar": 'root ::= "yes" | "no"'},
        **GREEDY,
    )
    assert answer.choices[0].message.content in {"yes", "no"}


@slow
def test_errors_are_those_of_the_clients_tree(client: openai.OpenAI) -> None:
    create = client.chat.completions.create
    with pytest.raises(openai.NotFoundError, match="smollm2") as missing:
        create(messages=PARIS, model="gpt-5")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.UnprocessableEntityError, match="temperature") as wrong:
        create(messages=PARIS, **{**GREEDY, "temperature": 50})
    assert wrong.value.param == "temperature"
    with pytest.raises(openai.BadRequestError, match="context") as long:
        create(messages=[{"role": "user", "content": "word " * 20_000}], **GREEDY)
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.UnprocessableEntityError, match="token"):
        client.completions.create(prompt=[2**31 - 1], **GREEDY)


async def test_an_error_on_the_way_is_raised_after_the_text_before_it() -> None:
    texts: list[str | None] = []

    async def read(client: openai.AsyncOpenAI) -> None:
        stream = await client.chat.completions.create(model="fake", messages=PARIS, stream=True)
        async for chunk in stream:
            texts.append(chunk.choices[0].delta.content)  # noqa: PERF401  (an error ends it)

    engine = FakeEngine(("one ", "two"), error=EngineDiedError("the engine died"))
    async with (
        serving(engine) as served,
        openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none") as client,
    ):
        with pytest.raises(openai.APIError, match="the engine died") as caught:
            await read(client)
        assert [model.id async for model in client.models.list()] == ["fake"]
        for name in ("fake", "ALIAS", "fake:latest"):
            assert (await client.models.retrieve(name)).owned_by == "llmstream"
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("none/such")
    assert texts == ["", "one ", "two"]
    assert caught.value.code == "engine_died"


@slow
def test_the_llm_command(server_url: str, tmp_path: Path) -> None:
    models = [
        {"model_id": "local", "supports_schema": True},
        {"model_id": "local-completion", "completion": True},
    ]
    known = [{"model_name": "smollm2", "api_base": f"{server_url}/v1", **one} for one in models]
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps(known))

    def run(*arguments: str, model: str = "local") -> str:
        command = (sys.executable, "-m", "llm", "-m", model, *arguments, "-o", "temperature", "0")
        environment = {**os.environ, "LLM_USER_PATH": str(tmp_path), "OPENAI_API_KEY": "none"}
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    streamed = run("Where is Paris?", "-o", "max_tokens", "24")
    assert "Paris" in streamed
    assert run("--no-stream", "Where is Paris?", "-o", "max_tokens", "24") == streamed
    continued = run("The capital of France is", "-o", "max_tokens", "8", model="local-completion")
    assert "Paris" in continued
    answer = run("Where is Paris?", "--schema", json.dumps(Place.model_json_schema()))
    Place.model_validate_json(answer)
