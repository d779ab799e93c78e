"""Anthropic's messages: event by event, to what the model is asked, and to Anthropic's client."""

import contextlib
import json
import re
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any

import anthropic
import pytest

from llmstream_cli.api import Chunk, FinishReason, GenerationRequest
from llmstream_cli.errors import EngineDiedError, InvalidValueError
from llmstream_cli.prompts.messages import Message, Tool, ToolCall, ToolCallDelta, ToolChoice
from llmstream_cli.sampling import SamplingParams
from llmstream_cli.server.body import validated
from llmstream_cli.server.dialects.anthropic_request import MessagesRequest
from tests.server.dialects.rows import typed_events
from tests.server.fakes import FakeEngine, Served, serving
from tests.server.scripted import ScriptedEngine, client, last

HELLO = [{"role": "user", "content": "Hello"}]
USAGE = {
    "input_tokens": 8,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 4,
    "output_tokens": 3,
}
TOOL = {"name": "add", "input_schema": {"type": "object", "properties": {"a": {}}}}


def call(index: int, *fragments: str) -> list[Chunk]:
    deltas = [ToolCallDelta(index, "add"), *(ToolCallDelta(index, "", one) for one in fragments)]
    return [Chunk("", (index,), tool_calls=(delta,)) for delta in deltas]


# ---- events ---------------------------------------------------------------------------------


def short(event: Any) -> str:
    """An event in a line."""
    match event:
        case {"type": "content_block_start", "index": index, "content_block": block}:
            return f"{index} start {json.dumps(block)}"
        case {"type": "content_block_delta", "index": index, "delta": {"type": kind, **rest}}:
            (value,) = rest.values()
            return f"{index} {kind} {value}"
        case {"type": "content_block_stop", "index": index}:
            return f"{index} stop"
        case {"type": "message_delta", "delta": delta, "usage": usage}:
            assert usage == USAGE
            return f"{delta['stop_reason']} {delta['stop_sequence']}"
        case {"type": kind}:
            return str(kind)
    raise AssertionError(event)


TEXT = '0 start {"type": "text", "text": ""}'
THINKING = '0 start {"type": "thinking", "thinking": "", "signature": ""}'
CALL = 'start {"type": "tool_use", "id": "toolu_", "name": "add", "input": {}}'
THOUGHT = Chunk("", (1,), reasoning="hm")
SEQUENCES: dict[str, tuple[list[Chunk | Exception], list[str]]] = {
    "text": (
        [Chunk("Hel", (1,)), Chunk("", (2,)), last("lo")],
        [TEXT, "0 text_delta Hel", "0 text_delta lo", "0 stop", "end_turn None", "message_stop"],
    ),
    "thinking, then text": (
        [THOUGHT, last("Hi")],
        [
            *(THINKING, "0 thinking_delta hm", "0 signature_delta ", "0 stop"),
            *(TEXT.replace("0", "1"), "1 text_delta Hi", "1 stop", "end_turn None", "message_stop"),
        ],
    ),
    "cut in thinking": (
        [THOUGHT, last("", FinishReason.LENGTH)],
        [
            *(THINKING, "0 thinking_delta hm", "0 signature_delta ", "0 stop"),
            *("max_tokens None", "message_stop"),
        ],
    ),
    "a stop string": (
        [Chunk("Hi", finish_reason=FinishReason.STOP, usage=last().usage, stop_string="END")],
        [TEXT, "0 text_delta Hi", "0 stop", "stop_sequence END", "message_stop"],
    ),
    "a call without arguments": (
        [*call(0), last("", FinishReason.TOOL_CALLS)],
        [f"0 {CALL}", "0 stop", "tool_use None", "message_stop"],
    ),
    "text and two calls": (
        [Chunk("Hi"), *call(0, '{"a"', ":1}"), *call(1, "{}"), last("", FinishReason.TOOL_CALLS)],
        [
            *(TEXT, "0 text_delta Hi", "0 stop"),
            *(f"1 {CALL}", '1 input_json_delta {"a"', "1 input_json_delta :1}", "1 stop"),
            *(f"2 {CALL}", "2 input_json_delta {}", "2 stop", "tool_use None", "message_stop"),
        ],
    ),
    "nothing": ([last()], ["end_turn None", "message_stop"]),
    "an error": (
        [Chunk("Hi"), EngineDiedError("the engine died")],
        [TEXT, "0 text_delta Hi", "error"],
    ),
}


async def post(script: Sequence[Chunk | Exception], **fields: Any) -> tuple[int, bytes]:
    body = {"messages": HELLO, **fields}
    response = await client(ScriptedEngine(script)).post("/v1/messages?beta=true", json=body)
    data = await response.get_data(as_text=False)
    return response.status_code, re.sub(rb"(msg_|toolu_)[0-9a-f]{24}", rb"\1", data)


@pytest.mark.parametrize("name", SEQUENCES)
async def test_the_events_of_a_stream(name: str) -> None:
    script, expected = SEQUENCES[name]
    start, ping, *events = typed_events((await post(script, stream=True))[1])
    nothing: dict[str, Any] = {"content": [], "stop_reason": None, "stop_sequence": None}
    message = {"id": "msg_", "type": "message", "role": "assistant", "model": "tiny", **nothing}
    assert start == {
        "type": "message_start",
        "message": {**message, "usage": dict.fromkeys(USAGE, 0)},
    }
    assert ping == {"type": "ping"}
    assert list(map(short, events)) == expected
    if name == "an error":
        assert events[-1]["error"] == {"type": "overloaded_error", "message": "the engine died"}
        assert len(events[-1]["request_id"]) == 32


async def test_a_whole_message() -> None:
    chunks = [THOUGHT, Chunk("Hi"), *call(0, '{"a":[1,2', "")]  # a call that is cut
    status, data = await post([*chunks, last("", FinishReason.LENGTH)])
    assert (status, json.loads(data)) == (
        200,
        {
            "id": "msg_",
            "type": "message",
            "role": "assistant",
            "model": "tiny",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": ""},
                {"type": "text", "text": "Hi"},
                {"type": "tool_use", "id": "toolu_", "name": "add", "input": {"a": [1, 2]}},
            ],
            "stop_reason": "max_tokens",
            "stop_sequence": None,
            "usage": USAGE,
        },
    )
    stopped = Chunk("", finish_reason=FinishReason.STOP, usage=last().usage, stop_string="END")
    told = json.loads((await post([stopped]))[1])
    assert (told["stop_reason"], told["stop_sequence"]) == ("stop_sequence", "END")


# ---- requests -------------------------------------------------------------------------------


def asked(**fields: Any) -> GenerationRequest:
    body = validated(MessagesRequest, {"messages": HELLO, **fields})
    return body.generation_request(SamplingParams())


def turns(*content: Any, role: str = "user") -> tuple[Message, ...]:
    return asked(messages=[{"role": role, "content": [*content]}]).messages


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value, "cache_control": {"type": "ephemeral"}}


def test_results_come_before_the_text_of_their_message() -> None:
    use = {"type": "tool_use", "id": "toolu_1", "name": "add", "input": {"a": 1}}
    thoughts = [
        {"type": "thinking", "thinking": "hm", "signature": "x"},
        {"type": "redacted_thinking", "data": "x"},
    ]
    results = [
        {"type": "tool_result", "tool_use_id": "toolu_1", "content": [text("2"), text("3")]},
        {"type": "tool_result", "tool_use_id": "other", "content": "no", "is_error": True},
    ]
    messages = [
        {"role": "assistant", "content": [*thoughts, text("I add."), use]},
        {"role": "user", "content": [text("And"), text("now?"), *results]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "other"}]},
    ]
    calls = (ToolCall("add", '{"a":1}', "toolu_1"),)
    assert asked(messages=messages).messages == (
        Message("assistant", "I add.", "hm", calls),
        Message("tool", "2\n3", tool_call_id="toolu_1", tool_name="add"),
        Message("tool", "Error: no", tool_call_id="other"),
        Message("user", "And\nnow?"),
        Message("tool", "", tool_call_id="other"),
    )


def test_what_changes_with_each_request_is_not_in_the_system_message() -> None:
    header = "x-anthropic-billing-header: cc_version=2; cch=1a2b3;"
    expected = (Message("system", "You are\nbrief."), Message("user", "Hello"))
    for system in (
        [text(header), text("You are"), text("brief.")],
        f"{header}\n\nYou are\nbrief.",
        "You are\nbrief.",
    ):
        assert asked(system=system).messages == expected
    assert asked(system=header).messages == asked(system=[]).messages == expected[1:]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, ToolChoice()),
        ({"type": "auto", "disable_parallel_tool_use": True}, ToolChoice(parallel=False)),
        ({"type": "any"}, ToolChoice("required")),
        ({"type": "tool", "name": "add"}, ToolChoice("required", ("add",), parallel=False)),
        ({"type": "none"}, ToolChoice("none")),
    ],
)
def test_tools_and_the_choice_among_them(choice: Any, expected: ToolChoice) -> None:
    search = {"type": "web_search_20250305", "name": "web_search", "max_uses": 5}
    request = asked(tools=[search, {**TOOL, "type": "custom"}], tool_choice=choice)
    assert request.tools == (Tool("add", "", '{"type":"object","properties":{"a":{}}}'),)
    assert request.tool_choice == expected


def test_whether_the_model_thinks() -> None:
    kinds = ("enabled", "disabled", "adaptive")
    thinks = [asked(thinking={"type": kind, "budget_tokens": 1024}).thinking for kind in kinds]
    assert thinks == [True, False, None]


IMAGE = {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"content": [text("Hi"), IMAGE]}, "messages.0.content.1.type cannot be image: the model"),
        ({"content": [{"type": "document"}]}, "messages.0.content.0.type cannot be document: "),
        (
            {"content": [{"type": "tool_result", "content": [IMAGE]}]},
            "messages.0.content.0.content.0.type cannot be image: the model reads text alone",
        ),
        ({"content": [{"type": "text"}]}, "messages.0.content.0.text is missing"),
        ({"content": []}, "messages.0.content is missing"),
        (
            {"role": "assistant", "content": [{"type": "tool_use"}]},
            "messages.0.content.0.name is missing",
        ),
        (
            {"content": [{"type": "tool_use", "name": "f"}]},
            "messages.0.content.0 is a tool_use, which belongs to messages of the assistant's",
        ),
        (
            {"role": "assistant", "content": [{"type": "tool_result"}]},
            "messages.0.content.0 is a tool_result, which belongs to messages of the user's",
        ),
    ],
)
def test_a_block_that_cannot_be_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        asked(messages=[{"role": "user", **fields}])
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tool_choice": {"type": "any"}}, "tool_choice asks for a call, and there are no tools"),
        ({"tools": [TOOL, TOOL]}, "tools.1.name is add, and so is another tool's"),
        ({"tools": [{**TOOL, "input_schema": {"type": "array"}}]}, "tools.0.input_schema.type"),
        ({"mcp_servers": [{}]}, "mcp_servers is not supported; the server calls no tools itself"),
        ({"response_format": {}}, "response_format is not supported; send output_config.format"),
    ],
)
def test_what_cannot_be_asked_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=f"^{re.escape(message)}"):
        asked(**fields)


# ---- Anthropic's client ---------------------------------------------------------------------


@dataclass
class Script(FakeEngine):
    """Answers with these chunks."""

    chunks: Sequence[Chunk] = ()

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Chunk]:
        self.requests.append(request)
        for chunk in self.chunks:
            yield chunk


@contextlib.asynccontextmanager
async def connected(
    *chunks: Chunk, **settings: Any
) -> AsyncGenerator[tuple[anthropic.AsyncAnthropic, Served]]:
    key: dict[str, Any] = {"api_key": "none", **settings.pop("client", {})}
    async with (
        serving(Script(chunks=chunks), **settings) as served,
        anthropic.AsyncAnthropic(base_url=served.url, max_retries=0, **key) as sdk,
    ):
        yield sdk, served


ASK: dict[str, Any] = {"model": "fake", "max_tokens": 64, "messages": HELLO}
ADDS = [THOUGHT, Chunk("I "), Chunk("add."), *call(0, '{"a"', ": 1}"), *call(1)]


async def test_the_client_reads_a_message_whole_and_streamed() -> None:
    async with connected(*ADDS, last("", FinishReason.TOOL_CALLS)) as (sdk, served):
        asks: dict[str, Any] = {**ASK, "tools": [TOOL], "tool_choice": {"type": "any"}}
        whole = await sdk.messages.create(**asks)
        async with sdk.messages.stream(**asks) as stream:
            texts = [piece async for piece in stream.text_stream]
            final = await stream.get_final_message()
        counted = await sdk.messages.count_tokens(model="fake", messages=asks["messages"])
    assert texts == ["I ", "add."]
    for message in (whole, final):
        content = [block.model_dump(exclude_none=True) for block in message.content]
        assert [block.pop("id")[:6] for block in content[2:]] == ["toolu_", "toolu_"]
        assert content == [
            {"type": "thinking", "thinking": "hm", "signature": ""},
            {"type": "text", "text": "I add."},
            {"type": "tool_use", "name": "add", "input": {"a": 1}},
            {"type": "tool_use", "name": "add", "input": {}},
        ]
        assert message.stop_reason == "tool_use"
        usage = message.usage
        assert (usage.input_tokens, usage.cache_read_input_tokens) == (8, 4)
        assert usage.output_tokens == 3
    assert counted.input_tokens == 7
    request = served.engine.requests[0]
    assert (request.tools[0].name, request.tool_choice.mode) == ("add", "required")
    assert request.sampling.max_tokens == 64


async def test_the_client_raises_what_the_server_refuses() -> None:
    bearer: dict[str, Any] = {"api_key": None, "auth_token": "right"}
    async with connected(client=bearer, api_keys=["right"]) as (sdk, served):
        with pytest.raises(anthropic.NotFoundError, match="no model is called 'gpt-5'"):
            await sdk.messages.create(**{**ASK, "model": "gpt-5"})
        with pytest.raises(anthropic.AuthenticationError, match="authentication_error"):
            await sdk.with_options(auth_token="wrong").messages.create(**ASK)
        async with anthropic.AsyncAnthropic(base_url=served.url, api_key="right") as other:
            await other.messages.count_tokens(model="fake", messages=ASK["messages"])


async def test_the_client_raises_an_error_on_the_way() -> None:
    async with serving(FakeEngine(error=EngineDiedError("the engine died"))) as served:
        sdk = anthropic.AsyncAnthropic(base_url=served.url, api_key="none", max_retries=0)
        with pytest.raises(anthropic.APIStatusError, match="the engine died"):
            async with sdk, sdk.messages.stream(**ASK) as stream:
                await stream.get_final_message()


@pytest.mark.slow
def test_a_real_model_answers_counts_and_stops(server_url: str) -> None:
    with anthropic.Anthropic(base_url=server_url, api_key="none", max_retries=0) as sdk:
        asks: dict[str, Any] = {
            "model": "smollm2",
            "max_tokens": 24,
            "extra_body": {"temperature": 0},
            "system": "Answer in one sentence.",
            "messages": [{"role": "user", "content": "Where is Paris?"}],
        }
        whole = sdk.messages.create(**asks)
        with sdk.messages.stream(**asks) as stream:
            final = stream.get_final_message()
        (block,) = whole.content
        assert isinstance(block, anthropic.types.TextBlock)
        assert "Paris" in block.text
        assert [one.model_dump()["text"] for one in final.content] == [block.text]
        usage = whole.usage
        counted = sdk.messages.count_tokens(
            model="smollm2", system=asks["system"], messages=asks["messages"]
        )
        assert counted.input_tokens == usage.input_tokens + usage.cache_read_input_tokens
        stopped = sdk.messages.create(**asks, stop_sequences=["aris"])
        assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "aris")
        schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
        tools: Any = [{"name": "double", "input_schema": schema}]
        call_it: dict[str, Any] = {**asks, "tools": tools, "tool_choice": {"type": "any"}}
        called = sdk.messages.create(**{**call_it, "max_tokens": 200})
        counted = sdk.messages.count_tokens(
            model="smollm2", system=asks["system"], messages=asks["messages"], tools=tools
        )
        assert isinstance(called.content[0], anthropic.types.ToolUseBlock)
        assert isinstance(called.content[0].input["a"], int)
        assert called.stop_reason == "tool_use"
        cached = called.usage.cache_read_input_tokens or 0
        assert counted.input_tokens == called.usage.input_tokens + cached > 50
