"""What each field of OpenAI's requests becomes, and what is refused."""

import json
from dataclasses import replace
from typing import Any

import pytest

from llmstream_cli.core.api import GenerationRequest, SamplingParams
from llmstream_cli.errors import InvalidValueError
from llmstream_cli.prompts.messages import Message
from llmstream_cli.server.body import validated
from llmstream_cli.server.dialects.openai_chat import ChatCompletionRequest
from llmstream_cli.server.dialects.openai_completions import CompletionRequest

DEFAULTS = SamplingParams(temperature=0.7, max_tokens=100, repeat_penalty=1.2)
HELLO = [{"role": "user", "content": "Hello"}]


def chat(**fields: Any) -> list[GenerationRequest]:
    body = validated(ChatCompletionRequest, {"messages": HELLO, **fields})
    return body.generation_requests(DEFAULTS)


def complete(**fields: Any) -> list[GenerationRequest]:
    body = validated(CompletionRequest, {"prompt": "Once", **fields})
    return body.generation_requests(DEFAULTS)


def messages(*turns: dict[str, Any]) -> tuple[Message, ...]:
    (request,) = chat(messages=list(turns))
    return request.messages


def test_without_parameters_the_servers_defaults_hold() -> None:
    assert chat() == [GenerationRequest((Message("user", "Hello"),), DEFAULTS)]
    assert complete() == [GenerationRequest(sampling=DEFAULTS, prompt="Once")]


@pytest.mark.parametrize(
    ("given", "thinking"),
    [
        ({}, None),
        ({"chat_template_kwargs": {}}, None),
        ({"chat_template_kwargs": {"enable_thinking": True}}, True),
        ({"chat_template_kwargs": {"enable_thinking": False}}, False),
        ({"chat_template_kwargs": {"thinking": False}}, False),
        ({"chat_template_kwargs": {"enable_thinking": True}, "reasoning_effort": "none"}, True),
        ({"reasoning_effort": "none"}, False),
        ({"reasoning_effort": "high"}, None),
    ],
)
def test_thinking_is_on_off_or_left_to_the_model(
    given: dict[str, Any], thinking: bool | None
) -> None:
    (request,) = chat(**given)
    assert request.thinking is thinking


def test_what_else_a_template_would_be_told_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="tone"):
        chat(chat_template_kwargs={"tone": "formal"})


SAME_IN_BOTH: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"temperature": 0}, {"temperature": 0}),
    ({"top_p": 0.5, "top_k": 7, "min_p": 0.1}, {"top_p": 0.5, "top_k": 7, "min_p": 0.1}),
    ({"presence_penalty": -1}, {"presence_penalty": -1}),
    ({"frequency_penalty": 2}, {"frequency_penalty": 2}),
    ({"repeat_penalty": 1.0, "repeat_last_n": -1}, {"repeat_penalty": 1.0, "repeat_last_n": -1}),
    ({"seed": 7}, {"seed": 7}),
    ({"seed": -1}, {"seed": None}),
    ({"seed": 2**40}, {"seed": 2**40 % (2**32 - 1)}),
    ({"max_tokens": 5}, {"max_tokens": 5}),
    ({"max_tokens": -1}, {"max_tokens": None}),
    ({"stop": "\n"}, {"stop": ("\n",)}),
    ({"stop": ["a", "b"]}, {"stop": ("a", "b")}),
    ({"stop": []}, {"stop": ()}),
    ({"logit_bias": {"5": -100, "7": 1.5}}, {"logit_bias": ((5, -100), (7, 1.5))}),
    ({"ignore_eos": True}, {"ignore_eos": True}),
    ({"grammar": 'root ::= "a"'}, {"grammar": 'root ::= "a"'}),
    ({"grammar": ""}, {}),
    ({"json_schema": {"type": "null"}}, {"json_schema": '{"type":"null"}'}),
    ({"user": "me", "metadata": {}, "store": False, "best_of": None, "service_tier": "auto"}, {}),
]  # fmt: skip


@pytest.mark.parametrize(("given", "sampling"), SAME_IN_BOTH)
def test_fields_of_both_routes(given: dict[str, Any], sampling: dict[str, Any]) -> None:
    expected = replace(DEFAULTS, **sampling)
    assert [request.sampling for request in chat(**given)] == [expected]
    assert [request.sampling for request in complete(**given)] == [expected]


@pytest.mark.parametrize("type_", [ChatCompletionRequest, CompletionRequest])
def test_null_is_the_same_as_absent(
    type_: type[ChatCompletionRequest | CompletionRequest],
) -> None:
    needed = {"messages": HELLO, "prompt": "Once"}
    nulls = {name: None for name in type_.model_fields if name not in needed}
    given = type_.model_validate({**nulls, **needed}).generation_requests(DEFAULTS)
    assert given == type_.model_validate(needed).generation_requests(DEFAULTS)


@pytest.mark.parametrize(
    ("given", "max_tokens"),
    [
        ({"max_completion_tokens": 5}, 5),
        ({"max_completion_tokens": 5, "max_tokens": 9}, 5),
        ({"max_completion_tokens": 9, "max_tokens": 5}, 5),
        ({"max_completion_tokens": 9, "max_tokens": -1}, 9),
        ({"max_completion_tokens": -1}, None),
    ],
)
def test_of_two_bounds_the_smaller_holds(given: dict[str, int], max_tokens: int | None) -> None:
    (request,) = chat(**given)
    assert request.sampling.max_tokens == max_tokens


@pytest.mark.parametrize(
    ("given", "logprobs"),
    [
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": 5}, 5),
        ({"logprobs": False, "top_logprobs": 0}, None),
        ({"logprobs": False}, None),
    ],
)
def test_logprobs_of_chats(given: dict[str, Any], logprobs: int | None) -> None:
    (request,) = chat(**given)
    assert request.sampling.logprobs == logprobs


@pytest.mark.parametrize("logprobs", [None, 0, 5])
def test_logprobs_of_completions(logprobs: int | None) -> None:
    (request,) = complete(logprobs=logprobs)
    assert request.sampling.logprobs == logprobs


def test_each_choice_has_its_own_seed() -> None:
    assert [request.sampling.seed for request in chat(n=3, seed=7)] == [7, 8, 9]
    assert [request.sampling.seed for request in chat(n=3)] == [None] * 3


SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}}


@pytest.mark.parametrize(
    ("response_format", "schema"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"type": "object"}),
        ({"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}, SCHEMA),
        (
            {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": SCHEMA}},
            SCHEMA,
        ),
    ],
)
def test_response_formats(response_format: dict[str, Any], schema: object) -> None:
    (request,) = chat(response_format=response_format)
    text = request.sampling.json_schema
    assert (None if text is None else json.loads(text)) == schema


def test_content_is_text_or_text_parts() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert messages(
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": None},
        {"role": "assistant", "content": "Three", "name": "me", "refusal": None},
        {"role": "user", "content": ""},
    ) == (
        Message("system", "Be brief."),
        Message("user", "one\ntwo"),
        Message("assistant", ""),
        Message("assistant", "Three"),
        Message("user", ""),
    )


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("Once", ["Once"]),
        ("", [""]),
        (["Once", "Then"], ["Once", "Then"]),
        ([1, 2], [(1, 2)]),
        ([[1, 2], [3]], [(1, 2), (3,)]),
    ],
)
def test_prompts_of_every_shape(prompt: object, prompts: list[object]) -> None:
    assert [request.prompt for request in complete(prompt=prompt)] == prompts


def test_a_prompt_has_the_same_seeds_alone_and_in_company() -> None:
    requests = complete(prompt=["a", "b"], n=2, seed=5)
    assert [(request.prompt, request.sampling.seed) for request in requests] == [
        ("a", 5),
        ("a", 6),
        ("b", 5),
        ("b", 6),
    ]


TOOL = {"type": "function", "function": {"name": "f"}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}


@pytest.mark.parametrize(
    "harmless",
    [
        {"tools": []},
        {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True},
        {"tools": [TOOL], "tool_choice": "none"},
        {"functions": [{"name": "f"}], "function_call": "none"},
        {"modalities": ["text"]},
        {"stream_options": {"include_usage": True}},
    ],
)
def test_what_changes_nothing_is_taken(harmless: dict[str, Any]) -> None:
    assert chat(**harmless) == chat()


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"tools": [TOOL]}, "tools"),
        ({"tools": [TOOL], "tool_choice": "required"}, "tool_choice"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "alloy", "format": "wav"}}, "audio"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
         "response_format"),
        ({"response_format": {"type": "json_object"}, "grammar": "g"}, "response_format"),
        ({"response_format": {"type": "json_object"}, "json_schema": {}}, "response_format"),
        ({"messages": [{"role": "tool", "content": "4"}]}, "messages.0.role"),
        ({"messages": [{"role": "function", "content": "4"}]}, "messages.0.role"),
        ({"messages": [{"role": "owner", "content": "4"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": []}]}, "messages.0.content"),
        ({"messages": [{"role": "assistant", "tool_calls": [TOOL]}]}, "messages.0.tool_calls"),
        ({"messages": [{"role": "assistant", "function_call": {"name": "f"}}]},
         "messages.0.tool_calls"),
        ({"messages": [*HELLO, {"role": "user", "content": [IMAGE]}]},
         "messages.1.content.0.type"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]},
         "messages.0.content.0.text"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"max_completion_tokens": 0, "max_tokens": 5}, "max_completion_tokens"),
        ({"max_completion_tokens": 5, "max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 0, "max_tokens": -1}, "max_completion_tokens"),
        ({"temperature": 11}, "temperature"),
    ],
)  # fmt: skip
def test_what_a_chat_refuses(given: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        chat(**given)
    assert caught.value.field == field
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"echo": True}, "echo"),
        ({"suffix": "end"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"prompt": ["a"] * 5, "n": 8}, "prompt"),
        ({"max_tokens": 0}, "max_tokens"),
    ],
)
def test_what_a_completion_refuses(given: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        complete(**given)
    assert caught.value.field == field


def test_a_schema_excludes_an_answer_without_end() -> None:
    with pytest.raises(InvalidValueError, match="cannot be combined"):
        chat(response_format={"type": "json_object"}, ignore_eos=True)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": "0.5"}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"seed": 2**63}, "seed"),
        ({"n": 0}, "n"),
        ({"n": 9}, "n"),
        ({"stop": 5}, "stop"),
        ({"stop": [5]}, "stop.0"),
        ({"logit_bias": {"five": 1}}, "logit_bias"),
        ({"logit_bias": {"-5": 1}}, "logit_bias"),
        ({"logit_bias": {"5": "x"}}, "logit_bias.5"),
        ({"model": "m" * 257}, "model"),
        ({"stream": "yes"}, "stream"),
    ],
)
def test_values_of_the_wrong_kind(given: dict[str, Any], field: str) -> None:
    for make in (chat, complete):
        with pytest.raises(InvalidValueError) as caught:
            make(**given)
        assert caught.value.field == field


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"messages": []}, "messages"),
        ({"messages": HELLO * 4097}, "messages"),
        ({"messages": "Hello"}, "messages"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": 1}, "logprobs"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
    ],
)
def test_chats_of_the_wrong_kind(given: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        chat(**given)
    assert caught.value.field == field


@pytest.mark.parametrize(
    "prompt", [5, [], [[]], [5, "five"], [-1], [2**31], [True], ["a"] * 33, {"text": "a"}]
)
def test_prompts_of_the_wrong_kind(prompt: object) -> None:
    with pytest.raises(InvalidValueError) as caught:
        complete(prompt=prompt)
    assert caught.value.field == "prompt"


@pytest.mark.parametrize(
    ("fields", "ending"),
    [
        ({}, "message"),
        ({"continue_final_message": True}, "message"),
        ({"continue_final_message": True, "add_generation_prompt": False}, "message"),
        ({"continue_final_message": False}, "turn"),
        ({"add_generation_prompt": True}, "turn"),
        ({"add_generation_prompt": False}, "closed"),
        ({"continue_final_message": True, "add_generation_prompt": True}, None),
    ],
)
def test_how_the_prompt_ends(fields: dict[str, bool], ending: str | None) -> None:
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "It"}]
    asked = ChatCompletionRequest.model_validate({"messages": turns, **fields})
    if ending is None:
        with pytest.raises(InvalidValueError, match="exclude each other"):
            asked.generation_requests(SamplingParams())
        return
    assert asked.generation_requests(SamplingParams())[0].prompt_ending == ending
