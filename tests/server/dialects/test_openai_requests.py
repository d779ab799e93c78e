"""What each field of OpenAI's requests becomes, and what is refused."""

from typing import Any

import pytest

from llmstream_cli.api import GenerationRequest, SamplingParams
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
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": []}]}, "messages.0.content"),
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
    ],
)
def test_what_a_completion_refuses(given: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        complete(**given)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"messages": []}, "messages"),
        ({"messages": HELLO * 4097}, "messages"),
        ({"messages": "Hello"}, "messages"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"n": 0}, "n"),
        ({"n": 9}, "n"),
        ({"model": "m" * 257}, "model"),
        ({"stream": "yes"}, "stream"),
        ({"logprobs": 1}, "logprobs"),
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
