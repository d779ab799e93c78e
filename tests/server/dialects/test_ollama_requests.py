"""What each field of Ollama's requests becomes, and what is refused."""

import json
import math
from typing import Any

import pytest

from llmstream_cli.api import GenerationRequest, SamplingParams
from llmstream_cli.errors import InvalidValueError
from llmstream_cli.prompts.messages import Message
from llmstream_cli.server.body import validated
from llmstream_cli.server.dialects.ollama import ChatRequest, GenerateRequest
from llmstream_cli.server.dialects.ollama_models import ShowRequest

DEFAULTS = SamplingParams(temperature=0.7, max_tokens=100, repeat_penalty=1.2)
HELLO = [{"role": "user", "content": "Hello"}]


def chat(**fields: Any) -> GenerationRequest | None:
    body = validated(ChatRequest, {"model": "tiny", "messages": HELLO, **fields})
    return body.generation_request(DEFAULTS)


def generate(**fields: Any) -> GenerationRequest | None:
    body = validated(GenerateRequest, {"model": "tiny", "prompt": "Hello", **fields})
    return body.generation_request(DEFAULTS)


@pytest.mark.parametrize(
    ("given", "streams"), [({}, True), ({"stream": None}, True), ({"stream": False}, False)]
)
def test_who_does_not_say_gets_a_stream(given: dict[str, Any], streams: bool) -> None:
    assert validated(ChatRequest, given).streams is streams
    assert validated(GenerateRequest, given).streams is streams


SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}}


@pytest.mark.parametrize(
    ("format_", "schema"),
    [(None, None), ("", None), ("json", {"type": "object"}), (SCHEMA, SCHEMA), ({}, {})],
)
def test_formats(format_: object, schema: object) -> None:
    request = chat(format=format_)
    assert request is not None
    text = request.sampling.json_schema
    assert (None if text is None else json.loads(text)) == schema


@pytest.mark.parametrize(
    ("given", "logprobs"),
    [
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": 5}, 5),
        ({"logprobs": False}, None),
    ],
)
def test_logprobs(given: dict[str, Any], logprobs: int | None) -> None:
    for request in (chat(**given), generate(**given)):
        assert request is not None
        assert request.sampling.logprobs == logprobs


def test_messages() -> None:
    request = chat(
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hello", "images": []},
            {"role": "assistant", "content": None, "thinking": "hm", "tool_calls": []},
            {"role": "user"},
        ]
    )
    assert request is not None
    assert request.messages == (
        Message("system", "Be brief."),
        Message("user", "Hello"),
        Message("assistant", ""),
        Message("user", ""),
    )


def test_a_system_message_goes_before_the_prompt() -> None:
    request = generate(system="Be brief.")
    assert request is not None
    assert request.messages == (Message("system", "Be brief."), Message("user", "Hello"))


def test_a_raw_prompt_is_continued_as_it_is() -> None:
    assert generate(raw=True) == GenerationRequest(sampling=DEFAULTS, prompt="Hello")


def test_without_a_prompt_there_is_only_a_model_to_load() -> None:
    assert chat(messages=[]) is None
    assert chat(messages=None) is None
    assert generate(prompt="") is None
    assert generate(prompt=None, raw=True) is None


@pytest.mark.parametrize(
    ("given", "seconds"), [(None, None), ("", None), (0, 0), ("5m", 300), (-1, math.inf)]
)
def test_how_long_the_model_stays(given: Any, seconds: float | None) -> None:
    fields = {"keep_alive": given}
    for request in (chat(**fields), generate(**fields), generate(**fields, raw=True)):
        assert request is not None
        assert request.keep_alive == seconds


def test_what_changes_nothing_is_taken() -> None:
    fields = {"keep_alive": "", "suffix": "", "template": "", "context": []}
    assert generate(**fields, images=[], system="", raw=False) == generate()
    assert chat(tools=[], format="") == chat()


@pytest.mark.parametrize(
    ("think", "thinking"),
    [(None, None), (True, True), (False, False), ("low", True), ("high", True)],
)
def test_thinking_is_on_off_or_left_to_the_model(think: object, thinking: bool | None) -> None:
    for request in (chat(think=think), generate(think=think)):
        assert request is not None
        assert request.thinking is thinking
    assert generate(raw=True, think=False) == GenerationRequest(sampling=DEFAULTS, prompt="Hello")


def test_a_level_of_thinking_that_there_is_not_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="think"):
        chat(think="deeply")


def test_the_old_name_of_the_model_field() -> None:
    for fields in ({"model": "tiny"}, {"name": "tiny"}, {"model": "tiny", "name": "other"}):
        assert validated(ShowRequest, fields).model == "tiny"


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"format": "yaml"}, "format"),
        ({"format": ["json"]}, "format"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"options": []}, "options"),
        ({"model": "m" * 257}, "model"),
    ],
)
def test_what_both_routes_refuse(given: dict[str, Any], field: str) -> None:
    for make in (chat, generate):
        with pytest.raises(InvalidValueError) as caught:
            make(**given)
        assert caught.value.field == field
        assert field.rpartition(".")[2] in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"messages": [*HELLO, {"role": "user", "images": ["aGk="]}]}, "messages.1.images"),
    ],
)
def test_what_a_chat_refuses(given: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        chat(**given)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"suffix": "end"}, "suffix"),
        ({"template": "{{ .Prompt }}"}, "template"),
        ({"context": [1, 2]}, "context"),
        ({"images": ["aGk="]}, "images"),
        ({"raw": True, "system": "Be brief."}, "system"),
        ({"raw": True, "think": True}, "think"),
    ],
)
def test_what_generate_refuses(given: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        generate(**given)
    assert caught.value.field == field
