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
from openai.types.chat import (
    ChatCompletion,
    ChatCompletionMessageParam,
    ChatCompletionTokenLogprob,
)
from pydantic import BaseModel

from llmstream_cli.core.llama import Model
from llmstream_cli.errors import EngineDiedError
from tests.server.fakes import FakeEngine, Served, serving

PARIS: list[ChatCompletionMessageParam] = [
    {"role": "system", "content": "Answer in one sentence."},
    {"role": "user", "content": "Where is Paris?"},
]
# Greedy, so that every way to ask the same gives the same answer.
GREEDY: dict[str, Any] = {"model": "smollm2", "temperature": 0, "max_tokens": 24}


@pytest.fixture
def client(server_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server_url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
async def async_client(server_url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    client = openai.AsyncOpenAI(base_url=f"{server_url}/v1", api_key="none", max_retries=0)
    async with client:
        yield client


@pytest.fixture(scope="module")
def model(model_path: Path) -> Model:
    """The server's model, for its vocabulary."""
    return Model(str(model_path))


def test_a_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(messages=PARIS, **GREEDY)
    assert "Paris" in (answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason in {"stop", "length"}
    assert answer.model == "smollm2"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 10
    assert 0 < answer.usage.completion_tokens <= 24


async def test_reasoning_comes_apart_whole_and_streamed() -> None:
    engine = FakeEngine(("Yes", "."), reasoning=("hm ", "hm"))
    async with (
        serving(engine) as served,
        openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none") as client,
    ):
        whole = await client.chat.completions.create(model="fake", messages=PARIS)
        chunks = await client.chat.completions.create(
            model="fake", messages=PARIS, stream=True, reasoning_effort="none"
        )
        deltas = [chunk.choices[0].delta async for chunk in chunks]
    message = whole.choices[0].message
    assert (message.content, message.model_extra) == ("Yes.", {"reasoning_content": "hm hm"})
    assert whole.usage is not None
    assert whole.usage.completion_tokens_details is not None
    assert whole.usage.completion_tokens_details.reasoning_tokens == 2
    assert [delta.content for delta in deltas if delta.content] == ["Yes", "."]
    reasoning = [(delta.model_extra or {}).get("reasoning_content") for delta in deltas]
    assert [piece for piece in reasoning if piece] == ["hm ", "hm"]
    assert [request.thinking for request in engine.requests] == [None, False]


def test_a_stream_is_the_whole_answer_in_pieces(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(messages=PARIS, **GREEDY)
    chunks = list(
        client.chat.completions.create(
            messages=PARIS, stream=True, stream_options={"include_usage": True}, **GREEDY
        )
    )
    *answer, usage = chunks
    assert answer[0].choices[0].delta.role == "assistant"
    pieces = [chunk.choices[0].delta.content or "" for chunk in answer]
    assert len([piece for piece in pieces if piece]) > 3
    assert "".join(pieces) == whole.choices[0].message.content
    assert answer[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert usage.usage is not None
    assert whole.usage is not None
    assert usage.usage.completion_tokens == whole.usage.completion_tokens
    assert usage.usage.prompt_tokens == whole.usage.prompt_tokens


async def test_the_async_client_gets_the_same_from_many_requests_at_once(
    client: openai.OpenAI, async_client: openai.AsyncOpenAI
) -> None:
    async def streamed() -> str:
        stream = await async_client.chat.completions.create(messages=PARIS, stream=True, **GREEDY)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def whole() -> str | None:
        answer: ChatCompletion = await async_client.chat.completions.create(
            messages=PARIS, **GREEDY
        )
        return answer.choices[0].message.content

    answers = await asyncio.gather(streamed(), whole(), streamed(), whole())
    assert len(set(answers)) == 1
    assert answers[0]


def test_the_stream_helper_puts_the_message_together(client: openai.OpenAI) -> None:
    # It takes an answer that is cut by max_tokens for an error, so a stop string ends this one.
    with client.chat.completions.stream(messages=PARIS, stop=",", **GREEDY) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(deltas) == final.choices[0].message.content


def test_a_seed_gives_one_answer_and_each_choice_another_seed(client: openai.OpenAI) -> None:
    drawn: dict[str, Any] = {"model": "smollm2", "temperature": 1.5, "max_tokens": 12}
    three = client.chat.completions.create(messages=PARIS, n=3, seed=7, **drawn)
    texts = [choice.message.content for choice in three.choices]
    assert [choice.index for choice in three.choices] == [0, 1, 2]
    assert len(set(texts)) > 1
    for seed, text in zip((7, 8, 9), texts, strict=True):
        alone = client.chat.completions.create(messages=PARIS, seed=seed, **drawn)
        assert alone.choices[0].message.content == text


def test_choices_are_told_apart_in_a_stream(client: openai.OpenAI) -> None:
    drawn: dict[str, Any] = {"model": "smollm2", "temperature": 1.5, "max_tokens": 12}
    whole = client.chat.completions.create(messages=PARIS, n=2, seed=7, **drawn)
    texts = ["", ""]
    stream = client.chat.completions.create(messages=PARIS, n=2, seed=7, stream=True, **drawn)
    for chunk in stream:
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == [choice.message.content for choice in whole.choices]


def test_a_stop_string_ends_the_answer(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(messages=PARIS, **GREEDY).choices[0].message.content
    assert whole is not None
    stop = whole.split()[3]
    stopped = client.chat.completions.create(messages=PARIS, stop=[stop], **GREEDY).choices[0]
    assert stopped.message.content == whole[: whole.index(stop)]
    assert stopped.finish_reason == "stop"


def test_a_repeated_prompt_comes_from_the_cache(client: openai.OpenAI) -> None:
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Count. " * 50}]
    for _ in range(2):
        answer = client.chat.completions.create(messages=messages, **GREEDY)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == answer.usage.prompt_tokens - 1


def test_completions_continue_prompts_of_every_shape(client: openai.OpenAI, model: Model) -> None:
    prompts = ["The capital of France is", "Once upon a time"]
    alone = [
        client.completions.create(prompt=prompt, **GREEDY).choices[0].text for prompt in prompts
    ]
    together = client.completions.create(prompt=prompts, **GREEDY)
    assert [choice.text for choice in together.choices] == alone
    assert "Paris" in alone[0]
    tokens = [model.tokenize(prompt, special=True) for prompt in prompts]
    as_ids = client.completions.create(prompt=tokens, **GREEDY)
    assert [choice.text for choice in as_ids.choices] == alone
    stream = client.completions.create(prompt=prompts[0], stream=True, **GREEDY)
    assert "".join(chunk.choices[0].text for chunk in stream) == alone[0]


def test_token_ids_that_the_model_does_not_have_are_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.completions.create(prompt=[2**31 - 1], **GREEDY)
    assert caught.value.status_code in {400, 422}
    assert client.completions.create(prompt="Still", **GREEDY).choices[0].text


def test_log_probabilities_of_a_chat(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {**GREEDY, "logprobs": True, "top_logprobs": 3, "messages": PARIS}
    choice = client.chat.completions.create(**asked).choices[0]
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    spelled = bytes(byte for token in choice.logprobs.content for byte in token.bytes or [])
    assert spelled.decode() == choice.message.content
    for token in choice.logprobs.content:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 3
        likeliest = [top.logprob for top in token.top_logprobs]
        assert likeliest == sorted(likeliest, reverse=True)
    streamed: list[ChatCompletionTokenLogprob] = []
    for chunk in client.chat.completions.create(stream=True, **asked):
        logprobs = chunk.choices[0].logprobs
        streamed += (logprobs.content or []) if logprobs else []
    assert [token.token for token in streamed] == [t.token for t in choice.logprobs.content]


def test_log_probabilities_of_a_completion(client: openai.OpenAI) -> None:
    (choice,) = client.completions.create(prompt="One, two,", logprobs=2, **GREEDY).choices
    assert choice.logprobs is not None
    tokens, offsets = choice.logprobs.tokens, choice.logprobs.text_offset
    assert tokens is not None
    assert offsets is not None
    assert "".join(tokens) == choice.text
    assert all(
        choice.text[at:].startswith(token) for token, at in zip(tokens, offsets, strict=True)
    )
    assert choice.logprobs.top_logprobs is not None
    assert all(2 <= len(top) <= 3 for top in choice.logprobs.top_logprobs)


def test_a_logit_bias_bans_a_token(client: openai.OpenAI, model: Model) -> None:
    asked: dict[str, Any] = {**GREEDY, "max_tokens": 1}
    first = client.completions.create(prompt="The capital of France is", **asked).choices[0].text
    (token,) = model.tokenize(first, special=False)
    biased = client.completions.create(
        prompt="The capital of France is", logit_bias={str(token): -100}, **asked
    )
    assert biased.choices[0].text not in {"", first}


class Place(BaseModel):
    city: Literal["Paris", "Rome"]
    continent: Literal["Europe", "Asia"]
    capital: bool


def test_a_pydantic_model_is_what_parse_returns(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(
        model="smollm2", messages=PARIS, response_format=Place, temperature=0, max_tokens=200
    )
    assert isinstance(answer.choices[0].message.parsed, Place)


def test_a_stream_can_be_parsed_too(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model="smollm2", messages=PARIS, response_format=Place, temperature=0, max_tokens=200
    ) as stream:
        final = stream.get_final_completion()
    assert isinstance(final.choices[0].message.parsed, Place)


def test_json_mode_gives_an_object(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="smollm2",
        messages=[{"role": "user", "content": "Describe Paris in JSON with name and country."}],
        response_format={"type": "json_object"},
        temperature=0,
        max_tokens=400,
    )
    text = answer.choices[0].message.content or ""
    assert text.startswith("{")
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(text), dict)


def test_extensions_of_llama_server(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        messages=PARIS,
        extra_body={
            "top_k": 5,
            "min_p": 0.1,
            "repeat_penalty": 1.0,
            "repeat_last_n": 32,
            "grammar": 'root ::= "yes" | "no"',
        },
        **GREEDY,
    )
    assert answer.choices[0].message.content in {"yes", "no"}


def test_fields_that_frameworks_send_along_are_taken(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        messages=[
            {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
            *PARIS,
        ],
        n=1,
        user="somebody",
        store=False,
        metadata={"run": "1"},
        parallel_tool_calls=False,
        presence_penalty=0,
        frequency_penalty=0,
        logit_bias=None,
        stop=None,
        tools=[],
        tool_choice="none",
        response_format={"type": "text"},
        extra_body={"best_of": 1, "reasoning_effort": "none"},
        **GREEDY,
    )
    assert answer.choices[0].message.content


def test_errors_are_those_of_the_clients_tree(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="smollm2") as missing:
        client.chat.completions.create(messages=PARIS, model="gpt-5")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.UnprocessableEntityError, match="temperature") as wrong:
        client.chat.completions.create(messages=PARIS, **{**GREEDY, "temperature": 50})
    assert wrong.value.param == "temperature"
    with pytest.raises(openai.BadRequestError, match="context") as long:
        client.chat.completions.create(
            messages=[{"role": "user", "content": "word " * 20_000}], **GREEDY
        )
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.UnprocessableEntityError, match="tools are not supported"):
        client.chat.completions.create(
            messages=PARIS,
            tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}],
            **GREEDY,
        )


def test_a_schema_that_is_none_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(
            messages=PARIS,
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "bad", "schema": {"type": "nonsense"}},
            },
            **GREEDY,
        )
    assert caught.value.status_code in {400, 422}


def test_models(client: openai.OpenAI) -> None:
    assert "smollm2" in [model.id for model in client.models.list()]
    assert client.models.retrieve("smollm2").owned_by == "llmstream"


def fake_client(served: Served) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)


async def test_an_error_on_the_way_is_raised_after_the_text_before_it() -> None:
    texts: list[str | None] = []

    async def read(client: openai.AsyncOpenAI) -> None:
        stream = await client.chat.completions.create(model="fake", messages=PARIS, stream=True)
        async for chunk in stream:
            texts.append(chunk.choices[0].delta.content)  # noqa: PERF401  (an error ends it)

    engine = FakeEngine(("one ", "two"), error=EngineDiedError("the engine died"))
    async with serving(engine) as served, fake_client(served) as client:
        with pytest.raises(openai.APIError, match="the engine died") as caught:
            await read(client)
    assert texts == ["", "one ", "two"]
    assert caught.value.code == "engine_died"


@pytest.fixture
def llm_home(server_url: str, tmp_path: Path) -> Path:
    """A home of the `llm` command that knows the server."""
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"""
- model_id: local
  model_name: smollm2
  api_base: {server_url}/v1
  supports_schema: true
- model_id: local-completion
  model_name: smollm2
  api_base: {server_url}/v1
  completion: true
"""
    )
    return tmp_path


def run_llm(home: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "llm", *arguments, "-o", "temperature", "0"],
        env={**os.environ, "LLM_USER_PATH": str(home), "OPENAI_API_KEY": "none"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_llm_command(llm_home: Path) -> None:
    streamed = run_llm(llm_home, "-m", "local", "Where is Paris?", "-o", "max_tokens", "24")
    assert "Paris" in streamed
    whole = run_llm(
        llm_home, "-m", "local", "--no-stream", "Where is Paris?", "-o", "max_tokens", "24"
    )
    assert whole == streamed
    continued = run_llm(
        llm_home, "-m", "local-completion", "The capital of France is", "-o", "max_tokens", "8"
    )
    assert "Paris" in continued


def test_the_llm_command_with_a_schema(llm_home: Path) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome"]}, "capital": {"type": "boolean"}},
        "required": ["city", "capital"],
    }
    answer = run_llm(llm_home, "-m", "local", "Where is Paris?", "--schema", json.dumps(schema))
    assert set(json.loads(answer)) == {"city", "capital"}
