"""What each field of Ollama's requests becomes, and what is refused."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from llmstream_cli.core.api import GenerationRequest, SamplingParams
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


def test_without_options_the_servers_defaults_hold() -> None:
    expected = GenerationRequest((Message("user", "Hello"),), DEFAULTS)
    assert chat() == generate() == expected


@pytest.mark.parametrize(
    ("options", "sampling"),
    [
        ({}, {}),
        ({"temperature": 0, "top_k": 7}, {"temperature": 0, "top_k": 7}),
        ({"top_p": 0.5, "min_p": 0.1}, {"top_p": 0.5, "min_p": 0.1}),
        ({"repeat_penalty": 1.0}, {"repeat_penalty": 1.0}),
        ({"repeat_last_n": -1}, {"repeat_last_n": -1}),
        ({"presence_penalty": -1}, {"presence_penalty": -1}),
        ({"frequency_penalty": 2}, {"frequency_penalty": 2}),
        ({"seed": 7}, {"seed": 7}),
        ({"seed": -1}, {"seed": None}),
        ({"num_predict": 5}, {"max_tokens": 5}),
        ({"num_predict": -1}, {"max_tokens": None}),
        ({"num_predict": -2}, {"max_tokens": None}),
        ({"stop": "\n"}, {"stop": ("\n",)}),
        ({"stop": ["a", "b"]}, {"stop": ("a", "b")}),
        ({"num_ctx": 4096, "num_gpu": 1, "num_thread": 8, "use_mmap": True, "num_keep": 4}, {}),
        ({"mirostat": 0, "mirostat_tau": 5.0, "mirostat_eta": 0.1}, {}),
        ({"tfs_z": 1.0, "typical_p": 1}, {}),
        ({"temperature": None, "mirostat": None, "seed": None, "stop": None}, {}),
    ],
)  # fmt: skip
def test_options(options: dict[str, Any], sampling: dict[str, Any]) -> None:
    for request in (chat(options=options), generate(options=options)):
        assert request is not None
        assert request.sampling == replace(DEFAULTS, **sampling)


@pytest.mark.parametrize("type_", [ChatRequest, GenerateRequest])
def test_null_is_the_same_as_absent(type_: type[ChatRequest | GenerateRequest]) -> None:
    needed = {"messages": HELLO, "prompt": "Hello"}
    nulls = {name: None for name in type_.model_fields if name not in needed}
    given = validated(type_, {**nulls, **needed}).generation_request(DEFAULTS)
    assert given == validated(type_, needed).generation_request(DEFAULTS)


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
        ({"options": {"mirostat": 2}}, "options.mirostat"),
        ({"options": {"tfs_z": 0.5}}, "options.tfs_z"),
        ({"options": {"typical_p": 0.5}}, "options.typical_p"),
        ({"options": {"num_predict": 0}}, "options.num_predict"),
        ({"options": {"num_predict": -3}}, "options.num_predict"),
        ({"options": {"temperature": -1}}, "options.temperature"),
        ({"options": {"top_k": -2}}, "options.top_k"),
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
        ({"messages": [{"role": "tool", "content": "4"}]}, "messages.0.role"),
        ({"messages": [{"role": "owner", "content": "4"}]}, "messages.0.role"),
        ({"messages": [*HELLO, {"role": "user", "images": ["aGk="]}]}, "messages.1.images"),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages.0.tool_calls"),
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


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"options": {"temperature": "0.5"}}, "options.temperature"),
        ({"options": {"temperature": "hot"}}, "options.temperature"),
        ({"options": {"temperature": float("nan")}}, "options.temperature"),
        ({"options": {"top_k": 1.5}}, "options.top_k"),
        ({"options": {"seed": 2**63}}, "options.seed"),
        ({"options": {"stop": 5}}, "options.stop"),
        ({"options": []}, "options"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"model": "m" * 257}, "model"),
    ],
)
def test_values_of_the_wrong_kind(given: dict[str, Any], field: str) -> None:
    for make in (chat, generate):
        with pytest.raises(InvalidValueError) as caught:
            make(**given)
        assert caught.value.field == field
