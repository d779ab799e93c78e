"""What each field of a request becomes, and what is refused."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstream_cli.api import EngineState, EngineStatus, GenerationRequest, SamplingParams
from llmstream_cli.errors import InvalidValueError
from llmstream_cli.prompts.messages import Message, ToolCall
from llmstream_cli.server.body import validated
from llmstream_cli.server.dialects.ollama import ChatRequest, GenerateRequest
from llmstream_cli.server.dialects.openai_chat import ChatCompletionRequest
from llmstream_cli.server.dialects.openai_completions import CompletionRequest
from tests.server.scripted import ScriptedEngine, client

DEFAULTS = SamplingParams(temperature=0.7, max_tokens=100, repeat_penalty=1.2)
USER = {"role": "user", "content": "Hello"}
HELLO = [USER]


def openai(**fields: Any) -> list[GenerationRequest]:
    body = validated(ChatCompletionRequest, {"messages": HELLO, **fields})
    return body.generation_requests(DEFAULTS)


def complete(**fields: Any) -> list[GenerationRequest]:
    body = validated(CompletionRequest, {"prompt": "Once", **fields})
    return body.generation_requests(DEFAULTS)


def chat(**fields: Any) -> list[GenerationRequest]:
    request = validated(ChatRequest, {"messages": HELLO, **fields}).generation_request(DEFAULTS)
    return [request] if request is not None else []


def generate(**fields: Any) -> list[GenerationRequest]:
    body = validated(GenerateRequest, {"prompt": "Hello", **fields})
    request = body.generation_request(DEFAULTS)
    return [request] if request is not None else []


# ---- messages and prompts -------------------------------------------------------------------


CALLS = [
    {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a":'}},
    {"id": "2", "function": {"name": "g", "arguments": {}}},
]


def test_messages_of_openais_chats() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    turns = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": None, "tool_calls": [], "function_call": None},
        {"role": "assistant", "reasoning_content": "hm", "tool_calls": CALLS},
        {"role": "tool", "content": parts, "tool_call_id": "2"},
        {"role": "function", "content": "", "name": "f"},
        {"role": "assistant", "content": "Three", "name": "me", "refusal": None},
        {"role": "user", "content": ""},
    ]
    assert openai(messages=turns)[0].messages == (
        Message("system", "Be brief."),
        Message("user", "one\ntwo"),
        Message("assistant", ""),
        Message("assistant", "", "hm", (ToolCall("f", '{"a":', "1"), ToolCall("g", "{}", "2"))),
        Message("tool", "one\ntwo", tool_call_id="2", tool_name="g"),
        Message("tool", "", tool_call_id="1", tool_name="f"),
        Message("assistant", "Three"),
        Message("user", ""),
    )


def test_messages_of_ollamas_chats() -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello", "images": []},
        {"role": "assistant", "content": None, "thinking": "hm", "tool_calls": []},
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]},
        {"role": "tool", "content": "2", "tool_name": "f"},
        {"role": "user"},
    ]
    assert chat(messages=turns)[0].messages == (
        Message("system", "Be brief."),
        Message("user", "Hello"),
        Message("assistant", "", "hm"),
        Message("assistant", tool_calls=(ToolCall("f", '{"a":1}'),)),
        Message("tool", "2", tool_name="f"),
        Message("user", ""),
    )


def test_a_system_message_goes_before_the_prompt_and_a_raw_prompt_is_continued() -> None:
    (request,) = generate(system="Be brief.")
    assert request.messages == (Message("system", "Be brief."), Message("user", "Hello"))
    raw = GenerationRequest(sampling=DEFAULTS, prompt="Hello")
    assert generate(raw=True) == generate(raw=True, think=False) == [raw]


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("Once", ["Once"]),
        ("", [""]),
        (["Once", "Then"], ["Once", "Then"]),
        ([1, 2], [(1, 2)]),
        ([[1, 2], [3]], [(1, 2), (3,)]),
        ([[1, 2], "Then"], [(1, 2), "Then"]),
    ],
)
def test_prompts_of_every_shape(prompt: object, prompts: list[object]) -> None:
    assert [request.prompt for request in complete(prompt=prompt)] == prompts


@given(st.integers(0, 2**32 - 2))
def test_choices_have_distinct_seeds_the_first_the_clients_and_prompts_the_same(seed: int) -> None:
    requests = complete(prompt=["a", "b"], n=8, seed=seed)
    first, second = requests[:8], requests[8:]
    assert first[0].sampling.seed == seed
    assert len({request.sampling.seed for request in first}) == 8
    assert [one.sampling for one in first] == [one.sampling for one in second]
    assert {request.sampling.seed for request in complete(n=2)} == {None}


def test_the_shapes_that_no_prompt_has() -> None:
    prompts = [5, [], [[]], [5, "five"], [-1], [2**31], [True], ["a"] * 33, {"text": "a"}, [["a"]]]
    for prompt in prompts:
        with pytest.raises(
            InvalidValueError, match=r"^prompt must be a string, token ids"
        ) as caught:
            complete(prompt=prompt)
        assert caught.value.field == "prompt"


# ---- thinking, endings, bounds --------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "thinking"),
    [
        ({}, None),
        ({"chat_template_kwargs": {}}, None),
        ({"chat_template_kwargs": {"enable_thinking": True}}, True),
        ({"chat_template_kwargs": {"enable_thinking": False}}, False),
        ({"chat_template_kwargs": {"thinking": False}}, False),
        ({"chat_template_kwargs": {"enable_thinking": True}, "reasoning_effort": "none"}, True),
        ({"reasoning_effort": "none"}, False),
        ({"reasoning_effort": "high"}, None),
        ({"think": None}, None),
        ({"think": True}, True),
        ({"think": False}, False),
        ({"think": "low"}, True),
    ],
)
def test_thinking_is_on_off_or_left_to_the_model(fields: Any, thinking: bool | None) -> None:
    for ask in (chat, generate) if "think" in fields else (openai,):
        assert [request.thinking for request in ask(**fields)] == [thinking]


@pytest.mark.parametrize(
    ("fields", "ending"),
    [
        ({}, "message"),
        ({"continue_final_message": True}, "message"),
        ({"continue_final_message": True, "add_generation_prompt": False}, "message"),
        ({"continue_final_message": False}, "turn"),
        ({"add_generation_prompt": True}, "turn"),
        ({"add_generation_prompt": False}, "closed"),
    ],
)
def test_how_the_prompt_ends(fields: dict[str, bool], ending: str) -> None:
    turns = [USER, {"role": "assistant", "content": "It"}]
    (request,) = openai(messages=turns, **fields)
    assert request.prompt_ending == ending


@pytest.mark.parametrize(
    ("fields", "max_tokens"),
    [
        ({"max_completion_tokens": 5}, 5),
        ({"max_completion_tokens": 5, "max_tokens": 9}, 5),
        ({"max_completion_tokens": 9, "max_tokens": 5}, 5),
        ({"max_completion_tokens": 9, "max_tokens": -1}, 9),
        ({"max_completion_tokens": -1}, None),
        ({}, 100),
    ],
)
def test_of_two_bounds_the_smaller_holds(fields: Any, max_tokens: int | None) -> None:
    assert openai(**fields)[0].sampling.max_tokens == max_tokens


@pytest.mark.parametrize(
    ("fields", "logprobs"),
    [
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": 5}, 5),
        ({"logprobs": False, "top_logprobs": 0}, None),
    ],
)
def test_log_probabilities(fields: dict[str, Any], logprobs: int | None) -> None:
    for ask in (openai, chat, generate):
        assert ask(**fields)[0].sampling.logprobs == logprobs
    assert complete(logprobs=logprobs)[0].sampling.logprobs == logprobs


SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}}


@pytest.mark.parametrize(
    ("format_", "schema"),
    [(None, None), ("", None), ("json", {"type": "object"}), (SCHEMA, SCHEMA), ({}, {})],
)
def test_ollamas_formats(format_: object, schema: object) -> None:
    text = chat(format=format_)[0].sampling.json_schema
    assert (None if text is None else json.loads(text)) == schema


# ---- the model's stay -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "seconds"), [(None, None), ("", None), (0, 0), ("5m", 300), (-1, math.inf)]
)
def test_how_long_the_model_stays(given: Any, seconds: float | None) -> None:
    for requests in (chat(keep_alive=given), generate(keep_alive=given, raw=True)):
        assert [request.keep_alive for request in requests] == [seconds]


@pytest.mark.parametrize("route", ["/api/chat", "/api/generate"])
async def test_a_request_without_a_prompt_waits_for_the_model(route: str) -> None:
    for stream, content_type in ((True, "application/x-ndjson"), (False, "application/json")):
        engine = ScriptedEngine()
        empty: dict[str, Any] = {"messages": [], "prompt": "", "raw": True, "model": "TINY"}
        response = await client(engine).post(route, json={**empty, "stream": stream})
        assert (response.status_code, response.content_type) == (200, content_type)
        line = json.loads(await response.get_data())
        assert (line["model"], line["done"], line["done_reason"]) == ("TINY", True, "load")
        assert line.get("response", line.get("message", {}).get("content")) == ""
        assert not engine.requests
    engine.status = EngineStatus(EngineState.CLOSED)
    response = await client(engine).post(route, json={})
    assert (response.status_code, await response.get_json()) == (503, {"error": "closed"})


# ---- what is refused ------------------------------------------------------------------------

TOOL = {"type": "function", "function": {"name": "f"}}
BAD_SCHEMA = {"function": {"name": "f", "parameters": {"required": 5}}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}
FORMAT = {"type": "json_object"}
USER_MESSAGE = {**USER, "images": ["aGk="]}


def test_what_asks_for_nothing_is_taken() -> None:
    for harmless in (
        {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True},
        {"functions": [{"name": "f"}], "function_call": "none"},
    ):
        assert openai(**harmless) == openai()
    fields = {"keep_alive": "", "suffix": "", "template": "", "context": []}
    assert generate(**fields, images=[], system="", raw=False) == generate()


@pytest.mark.parametrize(
    ("ask", "fields", "field"),
    [
        (openai, {"chat_template_kwargs": {"tone": "formal"}}, "chat_template_kwargs.tone"),
        (openai, {"tools": [{"type": "custom", "function": {"name": "f"}}]}, "tools.0.type"),
        (openai, {"tools": [{"function": {"name": "f g"}}]}, "tools.0.function.name"),
        (openai, {"tools": [TOOL, TOOL]}, "tools.1.function.name"),
        (openai, {"tools": [TOOL] * 1025}, "tools"),
        (openai, {"tools": [BAD_SCHEMA]}, "tools.0.function.parameters"),
        (openai, {"tools": [TOOL], "regex": "a"}, "regex"),
        (openai, {"tools": [TOOL], "grammar": "g", "tool_choice": "auto"}, "grammar"),
        (openai, {"tools": [TOOL], "tool_choice": "always"}, "tool_choice"),
        (openai, {"tools": [TOOL], "tool_choice": {"type": "function"}}, "tool_choice"),
        (openai, {"tools": [TOOL], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.tools"),
        (openai, {"tool_choice": "required"}, "tool_choice"),
        (openai, {"function_call": "f"}, "function_call"),
        (openai, {"functions": [{"name": "f"}]}, "functions"),
        (openai, {"modalities": ["text", "audio"]}, "modalities"),
        (openai, {"top_logprobs": 3}, "top_logprobs"),
        (openai, {"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        (openai, {"response_format": FORMAT, "grammar": "g"}, "response_format"),
        (openai, {"response_format": FORMAT, "json_schema": {}}, "response_format"),
        (openai, {"messages": []}, "messages"),
        (openai, {"messages": HELLO * 4097}, "messages"),
        (openai, {"messages": "Hello"}, "messages"),
        (openai, {"messages": [{"role": "user"}]}, "messages.0.content"),
        (openai, {"messages": [{"role": "user", "content": []}]}, "messages.0.content"),
        (openai, {"messages": [{**USER, "function_call": {}}]}, "messages.0.function_call"),
        (openai, {"messages": [USER, {**USER, "content": [IMAGE]}]}, "messages.1.content.0.type"),
        (openai, {"messages": [{**USER, "content": [{"type": "text"}]}]},
         "messages.0.content.0.text"),
        (openai, {"max_completion_tokens": 0, "max_tokens": 5}, "max_completion_tokens"),
        (openai, {"max_completion_tokens": 5, "max_tokens": 0}, "max_tokens"),
        (openai, {"continue_final_message": True, "add_generation_prompt": True},
         "continue_final_message"),
        (openai, {"continue_final_message": True}, "continue_final_message"),
        (openai, {"n": 0}, "n"),
        (openai, {"n": 9}, "n"),
        (openai, {"model": "m" * 257}, "model"),
        (openai, {"stream": "yes"}, "stream"),
        (openai, {"logprobs": 1}, "logprobs"),
        (complete, {"echo": True}, "echo"),
        (complete, {"suffix": "end"}, "suffix"),
        (complete, {"best_of": 2}, "best_of"),
        (complete, {"prompt": ["a"] * 5, "n": 8}, "prompt"),
        (complete, {"logprobs": 21}, "logprobs"),
        (chat, {"format": "yaml"}, "format"),
        (chat, {"format": ["json"]}, "format"),
        (chat, {"top_logprobs": 3}, "top_logprobs"),
        (chat, {"top_logprobs": 21}, "top_logprobs"),
        (chat, {"options": []}, "options"),
        (chat, {"model": "m" * 257}, "model"),
        (chat, {"think": "deeply"}, "think"),
        (chat, {"keep_alive": "soon"}, "keep_alive"),
        (chat, {"tools": [BAD_SCHEMA]}, "tools.0.function.parameters"),
        (chat, {"tools": [TOOL], "tool_choice": "required"}, "tool_choice"),
        (chat, {"messages": [USER, USER_MESSAGE]}, "messages.1.images"),
        (generate, {"suffix": "end"}, "suffix"),
        (generate, {"template": "{{ .Prompt }}"}, "template"),
        (generate, {"context": [1, 2]}, "context"),
        (generate, {"images": ["aGk="]}, "images"),
        (generate, {"raw": True, "system": "Be brief."}, "system"),
        (generate, {"raw": True, "think": True}, "think"),
    ],
)  # fmt: skip
def test_what_is_refused(ask: Any, fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        ask(**fields)
    assert caught.value.field == field
    assert field in str(caught.value)
    assert str(caught.value).isprintable()
