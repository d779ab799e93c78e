"""`/v1/responses`: events, items, input, and OpenAI's own client."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any, Literal

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import (
    FunctionTool,
    ParsedResponse,
    Response,
    ResponseFunctionToolCall,
    ResponseReasoningItem,
    ResponseStreamEvent,
)
from pydantic import BaseModel, TypeAdapter

from llmstream_cli.api import Chunk, FinishReason, GenerationRequest, SamplingParams
from llmstream_cli.errors import ContextLengthError, EngineDiedError, InvalidValueError
from llmstream_cli.prompts.messages import Message, Tool, ToolCall, ToolCallDelta, ToolChoice
from llmstream_cli.server.body import validated
from llmstream_cli.server.dialects.openai_responses.request import ResponsesRequest
from tests.server.dialects.rows import typed_events
from tests.server.fakes import FakeEngine, serving
from tests.server.scripted import ScriptedEngine, client, last, logprob

_Script = Sequence[Chunk | Exception]
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
DEFAULTS = SamplingParams(temperature=0.5)


async def events(script: _Script, **fields: Any) -> list[Any]:
    body = {"input": "Hello", "stream": True, **fields}
    response = await client(ScriptedEngine(script)).post("/v1/responses", json=body)
    assert response.status_code == 200
    return typed_events(await response.get_data(as_text=False))


async def whole(script: _Script, **fields: Any) -> Any:
    response = await client(ScriptedEngine(script)).post(
        "/v1/responses", json={"input": "Hello", **fields}
    )
    assert response.status_code == 200
    return await response.get_json()


def call(index: int, name: str = "", arguments: str = "") -> Chunk:
    return Chunk("", (1,), tool_calls=(ToolCallDelta(index, name, arguments),))


# ---- events ---------------------------------------------------------------------------------


def short(event: Any) -> str:
    """An event's type, where it belongs, and what it brings."""
    name = event["type"].removeprefix("response.")
    if "response" in event:
        return f"{name} {event['response']['status']}"
    places = [event.get(one) for one in ("output_index", "content_index", "summary_index")]
    place = ".".join(str(one) for one in places if one is not None)
    part = event.get("part") or {}
    item = event.get("item") or {}
    texts = [event.get("delta"), event.get("text"), event.get("arguments"), part.get("text")]
    texts += [item.get("type"), item.get("name"), item.get("status")]
    return " ".join([name, place, *(repr(one) for one in texts if one is not None)])


REASONING = [
    "output_item.added 0 'reasoning' 'in_progress'",
    "reasoning_summary_part.added 0.0 ''",
    "reasoning_summary_text.delta 0.0 'h'",
    "reasoning_summary_text.delta 0.0 'm'",
    "reasoning_summary_text.done 0.0 'hm'",
    "reasoning_summary_part.done 0.0 'hm'",
    "output_item.done 0 'reasoning' 'completed'",
]
BEGIN = ["created in_progress", "in_progress in_progress"]


def text(index: int, status: str, *deltas: str) -> list[str]:
    joined = "".join(deltas)
    return [
        f"output_item.added {index} 'message' 'in_progress'",
        f"content_part.added {index}.0 ''",
        *(f"output_text.delta {index}.0 {delta!r}" for delta in deltas),
        f"output_text.done {index}.0 {joined!r}",
        f"content_part.done {index}.0 {joined!r}",
        f"output_item.done {index} 'message' '{status}'",
    ]


def called(index: int, name: str, status: str, *deltas: str) -> list[str]:
    return [
        f"output_item.added {index} '' 'function_call' '{name}' 'in_progress'".replace(" '' ", " "),
        *(f"function_call_arguments.delta {index} {delta!r}" for delta in deltas),
        f"function_call_arguments.done {index} {''.join(deltas)!r}",
        f"output_item.done {index} 'function_call' '{name}' '{status}'",
    ]


THOUGHT = [Chunk("", (1,), reasoning="h"), Chunk("", (2,), reasoning="m")]
DIED = EngineDiedError("the engine died")
SEQUENCES: dict[str, tuple[_Script, list[str]]] = {
    "nothing": ([last()], ["completed completed"]),
    "text": (
        [Chunk("Hel"), Chunk("", (2,)), last("lo")],
        [*text(0, "completed", "Hel", "lo"), "completed completed"],
    ),
    "reasoning and text": (
        [*THOUGHT, last("Yes")],
        [*REASONING, *text(1, "completed", "Yes"), "completed completed"],
    ),
    "a call": (
        [call(0, "f", '{"a":'), call(0, "", "1}"), last(reason=FinishReason.TOOL_CALLS)],
        [*called(0, "f", "completed", '{"a":', "1}"), "completed completed"],
    ),
    "reasoning, text and two calls": (
        [
            *THOUGHT,
            Chunk("Wait."),
            call(0, "f"),
            call(0, "", "{}"),
            Chunk("", tool_calls=(ToolCallDelta(1, "g", "{"), ToolCallDelta(1, "", "}"))),
            last(reason=FinishReason.TOOL_CALLS),
        ],
        [
            *REASONING,
            *text(1, "completed", "Wait."),
            *called(2, "f", "completed", "{}"),
            *called(3, "g", "completed", "{", "}"),
            "completed completed",
        ],
    ),
    "cut text": (
        [Chunk("Hel"), last(reason=FinishReason.LENGTH)],
        [*text(0, "incomplete", "Hel"), "incomplete incomplete"],
    ),
    "cut reasoning": (
        [*THOUGHT, last(reason=FinishReason.LENGTH)],
        [*REASONING[:-1], "output_item.done 0 'reasoning' 'incomplete'", "incomplete incomplete"],
    ),
    "a cut call": (
        [Chunk("a"), call(0, "f", "{"), last(reason=FinishReason.LENGTH)],
        [
            *text(0, "completed", "a"),
            *called(1, "f", "incomplete", "{"),
            "incomplete incomplete",
        ],
    ),
    "a failure": ([Chunk("Hel"), DIED], [*text(0, "incomplete", "Hel"), "failed failed"]),
}


@pytest.mark.parametrize("name", SEQUENCES)
async def test_the_events_of_a_stream(name: str) -> None:
    script, expected = SEQUENCES[name]
    found = await events(script)
    assert [*map(short, found)] == [*BEGIN, *expected]
    assert [event["sequence_number"] for event in found] == [*range(len(found))]
    response = found[-1]["response"]
    assert {event["response"]["id"] for event in found if "response" in event} == {response["id"]}
    for event in found:
        sdks = json.loads(
            json.dumps(event).replace("engine_died", "server_error")
        )  # knows few codes
        EVENT.validate_python(sdks)
        if "item_id" in event:
            assert event["item_id"] == response["output"][event["output_index"]]["id"]
    done = [event["item"] for event in found if event["type"] == "response.output_item.done"]
    assert done == response["output"]


def without_ids(response: Any) -> Any:
    items = [{**item, "id": "", "call_id": ""} for item in response["output"]]
    times = {"created_at": 0, "completed_at": 0}
    return {**response, "id": "", "output": items, **times}


@pytest.mark.parametrize("name", [name for name in SEQUENCES if name != "a failure"])
async def test_a_stream_ends_with_the_whole_answer(name: str) -> None:
    script, _ = SEQUENCES[name]
    response = await whole(script)
    assert without_ids(response) == without_ids((await events(script))[-1]["response"])
    Response.model_validate(response)


async def test_what_a_response_says_of_itself_and_of_what_was_asked() -> None:
    tool = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}
    response = await whole(
        [*THOUGHT, Chunk("Wait."), call(0, "f", "{}"), last(reason=FinishReason.LENGTH)],
        instructions="Be brief.",
        tools=[tool, {"type": "web_search"}],
        tool_choice={"type": "function", "name": "f"},
        parallel_tool_calls=False,
        include=["reasoning.encrypted_content"],
        reasoning={"effort": "low", "summary": "auto"},
        max_output_tokens=9,
        temperature=1.5,
        metadata={"run": "1"},
        store=True,
        previous_response_id=None,
        truncation="disabled",
    )
    thought, message, called_ = response.pop("output")
    for item, prefix in ((thought, "rs_"), (message, "msg_"), (called_, "fc_")):
        assert item.pop("id").startswith(prefix)
    assert called_.pop("call_id").startswith("call_")
    assert thought == {
        "type": "reasoning",
        "status": "completed",
        "summary": [{"type": "summary_text", "text": "hm"}],
        "encrypted_content": "hm",
    }
    part = {"type": "output_text", "text": "Wait.", "annotations": [], "logprobs": []}
    assert message == {
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [part],
    }
    assert called_ == {
        "type": "function_call",
        "status": "incomplete",
        "name": "f",
        "arguments": "{}",
    }
    assert response.pop("id").startswith("resp_")
    assert response.pop("created_at") > 1.7e9
    assert response == {
        "object": "response",
        "completed_at": None,
        "status": "incomplete",
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"},
        "model": "tiny",
        "instructions": "Be brief.",
        "usage": {
            "input_tokens": 12,
            "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
            "output_tokens": 3,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 15,
        },
        "temperature": 1.5,
        "top_p": 0.95,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "top_logprobs": 0,
        "max_output_tokens": 9,
        "max_tool_calls": None,
        "reasoning": {"effort": "low", "summary": "auto"},
        "text": {"format": {"type": "text"}},
        "tools": [{**tool, "description": None}],
        "tool_choice": {"type": "function", "name": "f"},
        "parallel_tool_calls": False,
        "truncation": "disabled",
        "store": False,
        "background": False,
        "previous_response_id": None,
        "metadata": {"run": "1"},
        "service_tier": "default",
        "prompt_cache_key": None,
        "safety_identifier": None,
        "user": None,
    }


async def test_a_failure_has_a_code_also_where_it_comes_before_the_first_token() -> None:
    *_, end = await events([Chunk("Hel"), DIED])
    assert end["response"]["error"] == {"code": "engine_died", "message": "the engine died"}
    engine = FakeEngine((), error=ContextLengthError(9000, 8192))
    engine.gate.clear()
    async with (
        serving(engine, heartbeat_seconds=0.01) as served,
        openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none") as caller,
    ):
        stream = await caller.responses.create(input="Hello", stream=True)
        engine.gate.set()
        found = [event async for event in stream]
    assert [event.type for event in found] == [
        "response.created",
        "response.in_progress",
        "response.failed",
    ]
    assert found[-1].type == "response.failed"
    error: Any = found[-1].response.error
    assert error.code == "context_length_exceeded"


async def test_log_probabilities_are_in_the_deltas_and_in_the_whole() -> None:
    script = [
        Chunk("a", (1,), logprobs=(logprob(b"a", -0.25, top=(b"b",)),)),
        Chunk("\u2028", (2,), logprobs=(logprob("\u2028".encode()),)),
        last(),
    ]
    asked = {"top_logprobs": 1}
    found = await events(script, **asked)
    deltas = [event["logprobs"] for event in found if event["type"].endswith("text.delta")]
    top = {"token": "b", "logprob": -0.5, "bytes": [98]}
    assert deltas[0] == [{"token": "a", "logprob": -0.25, "bytes": [97], "top_logprobs": [top]}]
    (item,) = found[-1]["response"]["output"]
    assert item["content"][0]["logprobs"] == [token for one in deltas for token in one]
    assert item["content"] == (await whole(script, **asked))["output"][0]["content"]


# ---- input ----------------------------------------------------------------------------------

USER = {"role": "user", "content": "Hi"}
CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a":1}'}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "4"}
SAID = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "So"}]}
THINKS = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}
CALLED = ToolCall("f", '{"a":1}', "c1")
RESULT = Message("tool", "4", tool_call_id="c1", tool_name="f")
ASKED = Message("user", "Hi")


def request(input_: Any, **fields: Any) -> GenerationRequest:
    return validated(ResponsesRequest, {"input": input_, **fields}).generation_request(DEFAULTS)


@pytest.mark.parametrize(
    ("items", "messages"),
    [
        ("Hi", [ASKED]),
        ("", [Message("user", "")]),
        ([{**USER, "type": "message", "id": "m", "status": "completed"}], [ASKED]),
        ([{"role": "developer", "content": "Be brief."}, USER],
         [Message("system", "Be brief."), ASKED]),
        ([{"role": "user", "content": [{"type": "input_text", "text": "a"},
                                       {"type": "text", "text": "b"}]}],
         [Message("user", "a\nb")]),
        ([USER, {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}],
         [ASKED, Message("assistant", "No.")]),
        ([USER, THINKS, SAID], [ASKED, Message("assistant", "So", "hm")]),
        ([USER, THINKS, SAID, CALL, OUTPUT],
         [ASKED, Message("assistant", "So", "hm", (CALLED,)), RESULT]),
        ([USER, CALL, SAID, OUTPUT], [ASKED, Message("assistant", "So", "", (CALLED,)), RESULT]),
        ([USER, CALL, {**CALL, "call_id": "c2"}, OUTPUT, {**OUTPUT, "call_id": "c2"}, SAID],
         [ASKED, Message("assistant", tool_calls=(CALLED, ToolCall("f", '{"a":1}', "c2"))), RESULT,
          Message("tool", "4", tool_call_id="c2", tool_name="f"), Message("assistant", "So")]),
        ([USER, CALL, {**OUTPUT, "output": [{"type": "input_text", "text": "4"}]}],
         [ASKED, Message("assistant", tool_calls=(CALLED,)), RESULT]),
        ([USER, {**CALL, "arguments": ""}], [ASKED, Message("assistant", tool_calls=(
            ToolCall("f", "{}", "c1"),))]),
        ([USER, {"type": "custom_tool_call", "call_id": "c1", "name": "f", "input": "ls"},
          {"type": "custom_tool_call_output", "call_id": "c1", "output": "4"}],
         [ASKED, Message("assistant", tool_calls=(ToolCall("f", '{"input":"ls"}', "c1"),)),
          RESULT]),
        ([USER, {"type": "web_search_call", "id": "w", "status": "completed"}, SAID],
         [ASKED, Message("assistant", "So")]),
        *(
            ([USER, {"type": "reasoning", **more}, SAID], [ASKED, Message("assistant", "So", has)])
            for more, has in (
                ({}, ""),
                ({"summary": [], "encrypted_content": "gAAA"}, ""),
                ({"summary": [], "content": None, "encrypted_content": None}, ""),
                ({"summary": [], "content": [{"type": "reasoning_text", "text": "raw"}]}, "raw"),
                ({**THINKS, "content": []}, "hm"),
                ({**THINKS, "content": [{"type": "reasoning_text", "text": ""}]}, "hm"),
            )
        ),
    ],
)  # fmt: skip
def test_items_become_messages(items: Any, messages: list[Message]) -> None:
    assert request(items).messages == tuple(messages)
    instructed = request(items, instructions="Hm.").messages
    assert instructed == (Message("system", "Hm."), *messages)


def test_a_last_message_of_the_assistants_is_not_continued() -> None:
    assert request([USER, SAID]).prompt_ending == "turn"


_PARTS = st.sampled_from([SAID, THINKS, CALL])


@given(st.lists(st.lists(_PARTS, min_size=1), min_size=1))
def test_what_stands_together_is_one_turn_and_nothing_is_lost(turns: list[list[Any]]) -> None:
    items = [item for turn in turns for item in (USER, *turn)]
    messages = request(items).messages
    assert [one.role for one in messages] == ["user", "assistant"] * len(turns)
    for turn, message in zip(turns, messages[1::2], strict=True):
        assert message.content.split() == ["So"] * turn.count(SAID)
        assert message.reasoning.split() == ["hm"] * turn.count(THINKS)
        assert message.tool_calls == (CALLED,) * turn.count(CALL)


IMAGE = {"type": "input_image", "image_url": "data:image/png;base64,"}


@pytest.mark.parametrize(
    ("items", "field"),
    [
        ([], "input"),
        ([{"type": "reasoning", "summary": []}], "input"),
        ([USER, {"type": "item_reference", "id": "msg_1"}], "input.1.type"),
        ([USER, {"type": "computer_call"}], "input.1.type"),
        ([{"role": "user", "content": ["Hi"]}], "input.0.content.0"),
        ([{"role": "user", "content": [{"type": "input_text", "text": "a"}, IMAGE]}],
         "input.0.content.1.type"),
        ([{**OUTPUT, "output": [IMAGE]}], "input.0.output.0.type"),
        ([{"role": "user", "content": [{"type": "input_text"}]}], "input.0.content.0.text"),
        ([{"role": "owner", "content": "Hi"}], "input.0.role"),
        ([{"content": "Hi"}], "input.0.role"),
        ([{"role": "user"}], "input.0.content"),
        ([{**CALL, "name": None}], "input.0.name"),
        ([{**CALL, "call_id": None}], "input.0.call_id"),
        ([{**CALL, "arguments": {}}], "input.0.arguments"),
        ([{"type": "function_call_output", "output": "4"}], "input.0.call_id"),
        ([{"type": "function_call_output", "call_id": "c1"}], "input.0.output"),
        ([{"role": "assistant", "content": "", "tool_calls": [{}]}], "input.0.tool_calls"),
    ],
)  # fmt: skip
def test_an_item_that_cannot_be_is_refused_with_its_place(items: Any, field: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        request(items)
    assert caught.value.field == field
    assert str(caught.value).startswith(field)


# ---- tools, formats -------------------------------------------------------------------------

F, G = ({"type": "function", "name": name} for name in "fg")
AMONG = {"type": "allowed_tools", "mode": "required", "tools": [G]}


@pytest.mark.parametrize(
    ("fields", "choice"),
    [
        ({}, ToolChoice()),
        ({"tool_choice": "auto", "parallel_tool_calls": True}, ToolChoice()),
        ({"tool_choice": "none"}, ToolChoice("none")),
        ({"tool_choice": "required"}, ToolChoice("required")),
        (
            {"tool_choice": {"type": "function", "name": "g"}},
            ToolChoice("required", ("g",), parallel=False),
        ),
        ({"tool_choice": AMONG}, ToolChoice("required", ("g",))),
        ({"parallel_tool_calls": False}, ToolChoice(parallel=False)),
    ],
)
def test_tools_and_the_choice_among_them(fields: Any, choice: ToolChoice) -> None:
    others = [{"type": "custom", "name": "f"}, {"type": "local_shell"}, {"type": "web_search"}]
    asked = request("Hi", tools=[*others, F, G], **fields)
    assert asked.tools == (Tool("f"), Tool("g"))
    assert asked.tool_choice == choice
    assert request("Hi", tools=others).tools == ()


async def test_functions_of_a_namespace_are_called_by_both_names() -> None:
    space = {"type": "namespace", "name": "n", "tools": [{"type": "custom"}, G]}
    asked = request([USER, {**CALL, "namespace": "n"}], tools=[F, space])
    assert asked.tools == (Tool("f"), Tool("n.g"))
    assert asked.messages[1].tool_calls == (ToolCall("n.f", '{"a":1}', "c1"),)
    response = await whole([call(0, "n.g", "{}"), call(1, "f", "{}"), last()], tools=[F, space])
    names = [(item["name"], item.get("namespace")) for item in response["output"]]
    assert names == [("g", "n"), ("f", None)]
    assert [tool["type"] for tool in response["tools"]] == ["function", "namespace"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"tools": [F, F]}, "tools.1.name"),
        ({"tools": [{"type": "function"}]}, "tools.0.name"),
        ({"tools": [{**F, "name": "a b"}]}, "tools.0.name"),
        ({"tools": [{"type": "namespace", "name": "n", "tools": [F, F]}]}, "tools.0.tools.1.name"),
        ({"tools": [{"name": "f"}]}, "tools.0.type"),
        ({"tools": [{**F, "parameters": {"type": "array"}}]}, "tools.0.parameters.type"),
        ({"tools": [F], "tool_choice": {"type": "function", "name": "h"}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(fields: Any, field: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        request("Hi", **fields)
    assert caught.value.field == field
    assert str(caught.value).startswith(field)


# ---- OpenAI's client ------------------------------------------------------------------------


class Place(BaseModel):
    city: Literal["Paris", "Rome"]


class SlowEngine(FakeEngine):
    """Says what it is told to, with pauses for heartbeats."""

    script: _Script = ()

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Chunk]:
        self.requests.append(request)
        for item in self.script:
            await asyncio.sleep(0.03)
            if isinstance(item, Exception):
                raise item
            yield item


_Served = tuple[SlowEngine, openai.AsyncOpenAI]


@pytest.fixture
async def served() -> AsyncIterator[_Served]:
    engine = SlowEngine()
    async with (
        serving(engine, heartbeat_seconds=0.01) as server,
        openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as caller,
    ):
        yield engine, caller


async def test_openais_client_goes_on_with_what_it_was_given(served: _Served) -> None:
    engine, caller = served
    engine.script = [*THOUGHT, Chunk("Wait."), call(0, "f", '{"a":1}'), last()]
    conversation: list[Any] = [{"role": "user", "content": "Hi"}]
    tool: Any = {"type": "function", "name": "f", "parameters": {}, "strict": True}
    answer = await caller.responses.create(model="fake", input=conversation, tools=[tool])
    thought, _, called_ = answer.output
    assert isinstance(thought, ResponseReasoningItem)
    assert isinstance(called_, ResponseFunctionToolCall)
    assert (answer.output_text, called_.arguments) == ("Wait.", '{"a":1}')
    assert isinstance(answer.tools[0], FunctionTool)
    assert answer.usage is not None
    assert answer.usage.total_tokens == 15
    result = {"type": "function_call_output", "call_id": called_.call_id, "output": "4"}
    engine.script = [last("Done.")]
    again = await caller.responses.create(
        model="fake",
        input=[*conversation, *(one.model_dump() for one in answer.output), result],  # type: ignore[list-item]
        tools=[tool],
    )
    assert again.output_text == "Done."
    made = ToolCall("f", '{"a":1}', called_.call_id)
    assert engine.requests[-1].messages == (
        ASKED,
        Message("assistant", "Wait.", "hm", (made,)),
        Message("tool", "4", tool_call_id=called_.call_id, tool_name="f"),
    )


async def test_openais_client_counts_the_tokens_of_a_prompt(served: _Served) -> None:
    engine, caller = served
    counted = await caller.responses.input_tokens.count(input="one two", instructions="Hm.")
    assert counted.to_dict() == {"object": "response.input_tokens", "input_tokens": 7}
    assert engine.requests[-1].messages == (Message("system", "Hm."), Message("user", "one two"))


async def test_the_helpers_of_openais_client_follow_a_stream(served: _Served) -> None:
    engine, caller = served
    engine.script = [*THOUGHT, Chunk('{"city":'), last('"Rome"}')]
    async with caller.responses.stream(model="fake", input="?", text_format=Place) as stream:
        deltas = [one.delta async for one in stream if one.type == "response.output_text.delta"]
        final: ParsedResponse[Place] = await stream.get_final_response()
    assert deltas == ['{"city":', '"Rome"}']
    assert final.output_parsed == Place(city="Rome")
    parsed = await caller.responses.parse(model="fake", input="?", text_format=Place)
    assert parsed.output_parsed == Place(city="Rome")
    assert parsed.output_text == '{"city":"Rome"}'
    schemas = {one.sampling.json_schema for one in engine.requests}
    assert len(schemas) == 1
    assert json.loads(schemas.pop() or "")["required"] == ["city"]


async def test_errors_are_those_of_openais_client(served: _Served) -> None:
    engine, caller = served
    engine.script = [ContextLengthError(9000, 8192)]
    with pytest.raises(openai.BadRequestError) as long:
        await caller.responses.create(model="fake", input="Hi")
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.UnprocessableEntityError, match="nothing is kept") as kept:
        await caller.responses.create(model="fake", input="Hi", previous_response_id="resp_1")
    assert kept.value.param == "previous_response_id"
    with pytest.raises(openai.NotFoundError, match="no model is called 'gpt-5'"):
        await caller.responses.create(model="gpt-5", input="Hi")


@pytest.mark.slow  # the server runs the real model
def test_the_real_model_answers_and_calls(server_url: str) -> None:
    greedy: dict[str, Any] = {"model": "smollm2", "temperature": 0, "max_output_tokens": 100}
    schema = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}}
    tool: Any = {"type": "function", "name": "weather", "parameters": schema, "strict": True}
    asked: Any = {"input": "How is the weather in Rome?", "tools": [tool], **greedy}
    with openai.OpenAI(base_url=f"{server_url}/v1", api_key="none", max_retries=0) as caller:
        answer = caller.responses.create(input="Where is Paris?", **greedy)
        counted = caller.responses.input_tokens.count(input="Where is Paris?")
        stream = caller.responses.create(input="Where is Paris?", stream=True, **greedy)
        deltas = [one.delta for one in stream if one.type == "response.output_text.delta"]
        forced = caller.responses.create(tool_choice="required", **asked)
        with caller.responses.stream(tool_choice="required", **asked) as events_:
            streamed = events_.get_final_response()
    assert "Paris" in answer.output_text
    assert answer.usage is not None
    assert answer.usage.input_tokens == counted.input_tokens
    assert "".join(deltas) == answer.output_text
    responses: list[Any] = [forced, streamed]
    for response in responses:
        first = next(item for item in response.output if item.type == "function_call")
        assert first.name == "weather"
        assert json.loads(first.arguments).get("city", "Rome") in {"Paris", "Rome"}
    assert [item.type for item in forced.output] == [item.type for item in streamed.output]
