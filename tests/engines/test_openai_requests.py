"""Requests in the words of OpenAI's API, and of those who add to it."""

from typing import Any

import pytest

from llmstream_cli.api import GenerationRequest, SamplingParams
from llmstream_cli.engines.openai_format import request_body, request_path
from llmstream_cli.errors import InvalidValueError
from llmstream_cli.prompts.messages import Message

HELLO = (Message("system", "Be brief."), Message("user", "Hello?"))
ALL = tuple(SamplingParams.__dataclass_fields__)


def sampled(owner: str, *, messages: tuple[Message, ...] = HELLO, **said: Any) -> dict[str, Any]:
    """What a request adds to its body for the parameters that a user set."""
    unset = tuple(name for name in ALL if name not in said)
    prompt = None if messages else "Once"
    request = GenerationRequest(messages, SamplingParams(**said), prompt, unset=unset)
    body = request_body(request, "tiny", owner)
    for name in ("model", "stream", "stream_options", "messages", "prompt"):
        body.pop(name, None)
    return body


def test_a_conversation() -> None:
    request = GenerationRequest(HELLO, unset=ALL)
    assert request_path(request) == "/v1/chat/completions"
    assert request_body(request, "tiny", "vllm") == {
        "model": "tiny",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hello?"},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


@pytest.mark.parametrize("prompt", ["Once", (1, 2)])
def test_a_raw_prompt(prompt: str | tuple[int, ...]) -> None:
    request = GenerationRequest(prompt=prompt, unset=ALL)
    assert request_path(request) == "/v1/completions"
    assert request_body(request, "tiny", "")["prompt"] == prompt


@pytest.mark.parametrize("owner", ["llmstream", "llamacpp", "vllm", "sglang", "openai", ""])
def test_what_nobody_asked_for_is_not_sent(owner: str) -> None:
    assert sampled(owner) == {}


@pytest.mark.parametrize("owner", ["llmstream", "llamacpp", "vllm", "sglang", "openai", ""])
def test_what_all_of_them_take(owner: str) -> None:
    said: dict[str, Any] = {
        "temperature": 0.0,
        "top_p": 0.5,
        "presence_penalty": 0.25,
        "frequency_penalty": -1.0,
        "seed": 0,
        "max_tokens": 7,
    }
    assert sampled(owner, **said) == said
    assert sampled(owner, stop=("a", "b")) == {"stop": ("a", "b")}
    assert sampled(owner, logit_bias=((7, -100.0), (8, 1.0))) == {
        "logit_bias": {"7": -100.0, "8": 1.0}
    }


@pytest.mark.parametrize("owner", ["llmstream", "llamacpp"])
def test_what_llama_cpp_takes(owner: str) -> None:
    said: dict[str, Any] = {
        "top_k": 0,
        "min_p": 0.1,
        "repeat_penalty": 1.5,
        "repeat_last_n": -1,
        "ignore_eos": True,
    }
    assert sampled(owner, **said) == said
    assert sampled(owner, grammar='root ::= "a"') == {"grammar": 'root ::= "a"'}


@pytest.mark.parametrize(
    ("owner", "grammar"),
    [("vllm", {"structured_outputs": {"grammar": "G"}}), ("sglang", {"ebnf": "G"})],
)
def test_what_vllm_and_sglang_take(owner: str, grammar: dict[str, Any]) -> None:
    said: dict[str, Any] = {"top_k": 5, "min_p": 0.1, "ignore_eos": True}
    assert sampled(owner, **said) == said
    assert sampled(owner, top_k=0) == {"top_k": -1}
    assert sampled(owner, repeat_penalty=1.5) == {"repetition_penalty": 1.5}
    assert sampled(owner, grammar="G") == grammar


@pytest.mark.parametrize(
    ("owner", "said", "api"),
    [
        ("vllm", {"repeat_last_n": 5}, "vllm's"),
        ("", {"top_k": 5}, "OpenAI's"),
        ("library", {"min_p": 0.1}, "OpenAI's"),
        ("openai", {"grammar": "G"}, "OpenAI's"),
        ("llmstream", {"logprobs": 1}, "llmstream's"),
    ],
)
def test_what_would_be_lost_is_refused(owner: str, said: dict[str, Any], api: str) -> None:
    (name,) = said
    with pytest.raises(InvalidValueError, match=rf"^{name} cannot be asked of .*{api}$"):
        sampled(owner, **said)


def test_all_is_meant_unless_it_is_said_to_be_unset() -> None:
    body = request_body(GenerationRequest(HELLO), "tiny", "llmstream")
    assert (body["temperature"], body["repeat_penalty"], body["top_k"]) == (0.2, 1.1, 40)
    assert not {"seed", "max_tokens", "stop", "grammar", "ignore_eos", "logprobs"} & body.keys()


def test_a_schema() -> None:
    schema = '{"type":"object"}'
    named = {"name": "answer", "schema": {"type": "object"}}
    fields = {"response_format": {"type": "json_schema", "json_schema": named}}
    for owner in ("", "vllm", "sglang"):
        assert sampled(owner, json_schema=schema) == fields
    for messages in (HELLO, ()):  # OpenAI's format of a response is one of chats alone
        for owner in ("llmstream", "llamacpp"):
            said = sampled(owner, messages=messages, json_schema=schema)
            assert said == {"json_schema": {"type": "object"}}


@pytest.mark.parametrize("schema", ["{", "[" * 60_000])
def test_a_schema_that_is_none(schema: str) -> None:
    with pytest.raises(InvalidValueError, match=r"^json_schema is no JSON"):
        sampled("", json_schema=schema)


@pytest.mark.parametrize("owner", ["llmstream", "llamacpp", "vllm", "sglang"])
@pytest.mark.parametrize("thinking", [True, False])
def test_thinking_is_told_to_the_template(owner: str, thinking: bool) -> None:
    body = request_body(GenerationRequest(HELLO, unset=ALL, thinking=thinking), "m", owner)
    assert body["chat_template_kwargs"] == {"enable_thinking": thinking}


def test_openais_own_models_can_only_be_told_not_to_think() -> None:
    body = request_body(GenerationRequest(HELLO, unset=ALL, thinking=False), "tiny", "openai")
    assert body["reasoning_effort"] == "none"
    with pytest.raises(InvalidValueError, match=r"^thinking cannot be asked of this server"):
        request_body(GenerationRequest(HELLO, unset=ALL, thinking=True), "tiny", "openai")


def test_a_raw_prompt_says_nothing_of_thinking() -> None:
    request = GenerationRequest(prompt="Once", unset=ALL, thinking=False)
    assert not {"chat_template_kwargs", "reasoning_effort"} & set(request_body(request, "m", ""))
