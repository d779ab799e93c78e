"""Tools as the dialects read them, and how calls are answered."""

import json
from collections.abc import Sequence
from typing import Any

import ollama
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.lib.streaming.chat import FunctionToolCallArgumentsDoneEvent

from llmstream_cli.api import Chunk, FinishReason, SamplingParams
from llmstream_cli.errors import InvalidValueError
from llmstream_cli.prompts.messages import Message, Tool, ToolCall, ToolCallDelta, ToolChoice
from llmstream_cli.sampling import PARAMETERS
from llmstream_cli.server.body import validated
from llmstream_cli.server.dialects.openai_chat import ChatCompletionRequest
from llmstream_cli.server.dialects.tools import (
    MAX_TOOLS_CHARS,
    Definition,
    arguments_object,
    arguments_text,
    choose,
    defaults_beside,
    link_results,
    new_call_id,
    read_tools,
)
from tests.server.dialects.rows import ROWS, Row, events, lines
from tests.server.fakes import FakeEngine, serving
from tests.server.scripted import ScriptedEngine, client, last

CITY = {"properties": {"city": {"type": "string"}}}


def definition(**fields: Any) -> Definition:
    return Definition(
        **{"field": "tools.0", "name": "f", "description": None, "schema": None, **fields}
    )


# ---- definitions ----------------------------------------------------------------------------


def test_a_tool_without_a_schema_takes_an_object() -> None:
    one, other = definition(schema=CITY, description="Tell."), definition(name="g", schema={})
    schema = '{"type":"object","properties":{"city":{"type":"string"}}}'
    assert read_tools([one, other]) == (Tool("f", "Tell.", schema), Tool("g"))


@pytest.mark.parametrize(
    ("more", "field", "message"),
    [
        ({"name": "g"}, "tools.1.name", "tools.1.name is g, and so is another tool's"),
        ({"schema": {"type": "array"}}, "tools.1.parameters.type", 'must be "object"'),
        ({"schema": {"properties": 5}}, "tools.1.parameters", "JSON schema: properties must be"),
        ({"schema": {"description": "a" * 65536}}, "tools.1.parameters", "at most 65536"),
        ({"description": "a" * MAX_TOOLS_CHARS}, "tools", "at most 524288"),
    ],
)
def test_an_error_names_the_field(more: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        read_tools([definition(name="g"), definition(**{"field": "tools.1", **more})])
    assert caught.value.field == field
    assert str(caught.value).startswith(field)
    assert message in str(caught.value)


def test_a_choice_is_of_tools_that_there_are() -> None:
    tools = [Tool("f"), Tool("g")]
    assert choose(tools, "required", ["g", "g"]) == ToolChoice("required", ("g",))
    assert choose([], "none") == ToolChoice("none")
    for there, names in ((tools, ["h"]), ([], [])):
        with pytest.raises(InvalidValueError, match=r"^tool_choice ") as caught:
            choose(there, "required", names)
        assert caught.value.field == "tool_choice"


def test_a_grammar_for_the_text_excludes_tools_and_a_default_gives_way() -> None:
    tools, defaults = [Tool("f")], SamplingParams(regex="a", seed=3)
    given = [("response_format", "regex", "b")]
    schema = [("response_format", "json_schema", "{}")]
    assert defaults_beside(tools, ToolChoice(), defaults, schema) == SamplingParams(seed=3)
    assert defaults_beside(tools, ToolChoice(), defaults, []) == SamplingParams(seed=3)
    for none, choice in ((tools, ToolChoice("none")), ([], ToolChoice())):
        assert defaults_beside(none, choice, defaults, given) == defaults
    with pytest.raises(InvalidValueError, match=r"^response_format and tools exclude") as caught:
        defaults_beside(tools, ToolChoice(), defaults, given)
    assert caught.value.field == "response_format"


# ---- calls and results ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (None, "{}"),
        ("", "{}"),
        ({}, "{}"),
        ({"city": "Zürich"}, '{"city":"Zürich"}'),
        ('{"city": "Bern"}', '{"city": "Bern"}'),
        ('{"city": "Be', '{"city": "Be'),  # of a call that was cut
    ],
)
def test_arguments_are_text(given: Any, text: str) -> None:
    assert arguments_text(given) == text


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ('{"a": [1, {"b": null}]}', {"a": [1, {"b": None}]}),
        ('{"a": 1, "b": "half', {"a": 1}),  # of a call that was cut
        ('{"a": [1, {"b": tr', {"a": [1, {}]}),
        ('{"a": 1e999', {"a": 1.7976931348623157e308}),
        ('{"a": 1e999}', {"a": 1.7976931348623157e308}),
        ("", {}),
        ("a", {}),
        ("[1", {}),
    ],
)
def test_arguments_are_an_object(text: str, arguments: Any) -> None:
    assert arguments_object(text) == arguments


def test_results_are_linked_to_their_calls() -> None:
    calls = ToolCall("f", id="1"), ToolCall("g", id="2"), ToolCall("f", id="3")
    results = [
        Message("tool", "a", tool_call_id="3"),
        Message("tool", "b", tool_name="f"),
        Message("tool", "c"),
        Message("tool", "d", tool_call_id="9"),
    ]
    _, *linked = link_results([Message("assistant", tool_calls=calls), *results])
    assert [(one.tool_call_id, one.tool_name) for one in linked] == [
        ("3", "f"),
        ("1", "f"),
        ("2", "g"),
        ("9", ""),
    ]


def test_ids_of_calls_are_distinct() -> None:
    assert len({new_call_id() for _ in range(1000)}) == 1000
    assert new_call_id("toolu_").startswith("toolu_")


# ---- choices in OpenAI's words --------------------------------------------------------------

TOOLS = [{"type": "function", "function": {"name": name, "parameters": CITY}} for name in "fgh"]
NAMED: Any = {"type": "function", "function": {"name": "g"}}


@pytest.mark.parametrize(
    ("fields", "choice"),
    [
        ({}, ToolChoice()),
        ({"tool_choice": None}, ToolChoice()),
        ({"tool_choice": "auto", "parallel_tool_calls": True}, ToolChoice()),
        ({"tool_choice": "none"}, ToolChoice("none")),
        ({"tool_choice": "required"}, ToolChoice("required")),
        ({"tool_choice": "any"}, ToolChoice("required")),
        ({"tool_choice": NAMED}, ToolChoice("required", ("g",), parallel=False)),
        (
            {"tool_choice": {"type": "function", "name": "g"}},
            ToolChoice("required", ("g",), parallel=False),
        ),
        (
            {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"tools": [NAMED]}}},
            ToolChoice("auto", ("g",)),
        ),
        (
            {"tool_choice": {"type": "allowed_tools", "mode": "required", "tools": [NAMED]}},
            ToolChoice("required", ("g",)),
        ),
        ({"parallel_tool_calls": False}, ToolChoice(parallel=False)),
    ],
)
def test_choices(fields: dict[str, Any], choice: ToolChoice) -> None:
    body = {"messages": [{"role": "user", "content": "?"}], "tools": TOOLS, **fields}
    (request,) = validated(ChatCompletionRequest, body).generation_requests(SamplingParams())
    assert request.tool_choice == choice
    assert [tool.name for tool in request.tools] == ["f", "g", "h"]


# ---- answers --------------------------------------------------------------------------------

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
CALLS = [
    ToolCallDelta(0, "f", '{"ci'),
    ToolCallDelta(0, arguments='ty":"Bern"}'),
    ToolCallDelta(1, "g"),
    ToolCallDelta(1, arguments="{}"),
]
# The second call begins in the chunk that ends the first one.
SCRIPT = [
    Chunk("Wait.", (1,)),
    Chunk("", (2,), tool_calls=(CALLS[0],)),
    Chunk("", (3,), tool_calls=tuple(CALLS[1:3])),
    Chunk("", (4,), tool_calls=(CALLS[3],)),
    last(reason=FinishReason.TOOL_CALLS),
]


async def ask(route: str, script: Sequence[Chunk | Exception] = SCRIPT, **fields: Any) -> Any:
    body = {"messages": HELLO, "tools": TOOLS, **fields}
    response = await client(ScriptedEngine(script)).post(route, json=body)
    assert response.status_code == 200, await response.get_data()
    return response


async def test_the_events_of_openais_calls() -> None:
    response = await ask("/v1/chat/completions", stream=True, n=2)
    parts = events(await response.get_data())
    assert len(parts) == 2 * 8
    ids = set()
    for index in range(2):
        choices = [one["choices"][0] for one in parts if one["choices"][0]["index"] == index]
        deltas = [call for one in choices for call in one["delta"].get("tool_calls", ())]
        ids |= {call.pop("id") for call in deltas if "id" in call}
        assert deltas == [
            {"index": 0, "type": "function", "function": {"name": "f", "arguments": ""}},
            {"index": 0, "function": {"arguments": '{"ci'}},
            {"index": 0, "function": {"arguments": 'ty":"Bern"}'}},
            {"index": 1, "type": "function", "function": {"name": "g", "arguments": ""}},
            {"index": 1, "function": {"arguments": "{}"}},
        ]
        assert (choices[-1]["delta"], choices[-1]["finish_reason"]) == ({}, "tool_calls")
    assert len(ids) == 4


@pytest.mark.parametrize(("text", "content"), [("", None), ("Wait.", "Wait.")])
async def test_openais_whole_message(text: str, content: str | None) -> None:
    response = await ask("/v1/chat/completions", [Chunk(text, (1,)), *SCRIPT[1:]])
    (choice,) = (await response.get_json())["choices"]
    message = choice["message"]
    ids = {call.pop("id") for call in message["tool_calls"]}
    assert len(ids) == 2
    assert (message["content"], choice["finish_reason"]) == (content, "tool_calls")
    assert message["tool_calls"] == [
        {"type": "function", "function": {"name": "f", "arguments": '{"city":"Bern"}'}},
        {"type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]


async def test_ollamas_calls_come_whole() -> None:
    response = await ask("/api/chat")
    text, *calls, end = lines(await response.get_data())
    assert text["message"] == {"role": "assistant", "content": "Wait."}
    assert [one["message"]["content"] for one in (*calls, end)] == ["", "", ""]
    found = [call for one in calls for call in one["message"]["tool_calls"]]
    assert len({call.pop("id") for call in found}) == 2
    assert found == [
        {"function": {"index": 0, "name": "f", "arguments": {"city": "Bern"}}},
        {"function": {"index": 1, "name": "g", "arguments": {}}},
    ]
    assert (end["done"], end["done_reason"]) == (True, "stop")
    whole = await (await ask("/api/chat", stream=False)).get_json()
    for call in whole["message"]["tool_calls"]:
        del call["id"]
    assert whole["message"] == {"role": "assistant", "content": "Wait.", "tool_calls": found}


NAMES = st.sampled_from("fgh")
ARGUMENTS = st.dictionaries(st.text(max_size=3), st.text(max_size=9) | st.integers(), max_size=2)


@settings(max_examples=30, deadline=None)
@given(calls=st.lists(st.tuples(NAMES, ARGUMENTS), min_size=1, max_size=4), data=st.data())
async def test_calls_are_the_same_however_they_come(
    calls: list[tuple[str, dict[str, Any]]], data: st.DataObject
) -> None:
    deltas = []
    for index, (name, arguments) in enumerate(calls):
        text = json.dumps(arguments, ensure_ascii=False)
        cut = data.draw(st.integers(0, len(text)))
        deltas += [ToolCallDelta(index, name, text[:cut]), ToolCallDelta(index, "", text[cut:])]
    script: list[Chunk] = []
    while deltas:
        count = data.draw(st.integers(1, len(deltas)))
        script.append(Chunk("", (1,), tool_calls=tuple(deltas[:count])))
        del deltas[:count]
    script.append(last(reason=FinishReason.TOOL_CALLS))
    whole = await (await ask("/v1/chat/completions", script)).get_json()
    of_openai = [one["function"] for one in whole["choices"][0]["message"]["tool_calls"]]
    assert [(one["name"], json.loads(one["arguments"])) for one in of_openai] == calls
    data_ = await (await ask("/v1/chat/completions", script, stream=True)).get_data()
    streamed = ["" for _ in calls]
    for part in events(data_):
        for call in part["choices"][0]["delta"].get("tool_calls", ()):
            streamed[call["index"]] += call["function"]["arguments"]
    assert streamed == [one["arguments"] for one in of_openai]
    parts = lines(await (await ask("/api/chat", script)).get_data())
    of_ollama = [call["function"] for one in parts for call in one["message"].get("tool_calls", ())]
    assert [(one["name"], one["arguments"]) for one in of_ollama] == calls
    assert [one["index"] for one in of_ollama] == [*range(len(calls))]


async def test_a_call_that_was_cut() -> None:
    script = [*SCRIPT[:2], last(reason=FinishReason.LENGTH)]
    (choice,) = (await (await ask("/v1/chat/completions", script)).get_json())["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"ci'
    *_, call, end = lines(await (await ask("/api/chat", script)).get_data())
    assert call["message"]["tool_calls"][0]["function"]["arguments"] == {}
    assert end["done_reason"] == "length"


CHATS = [row for row in ROWS if "messages" in row.body]


@pytest.mark.parametrize("row", CHATS, ids=lambda row: row.route)
async def test_a_header_says_what_of_a_tools_schema_is_passed_over(row: Row) -> None:
    parameters: Any = {"properties": {"a": {"not": {}}}}
    tool: Any = {"function": {"name": "f", "parameters": parameters}}
    place = "/tools/0/function/parameters"
    if row.route == "/v1/messages":
        tool, place = {"name": "f", "input_schema": parameters}, "/tools/0/input_schema"
    response = await ask(row.route, [last()], tools=[tool], **row.body)
    assert response.headers["X-Schema-Ignored"] == f"{place}/properties/a/not"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.route)
async def test_the_engine_is_told_what_the_client_did_not_give(row: Row) -> None:
    engine = ScriptedEngine([last()])
    await client(engine).post(row.route, json=row.with_options(repeat_penalty=1.5))
    assert {*PARAMETERS} - {*engine.requests[0].unset} == {"repeat_penalty"}


# ---- clients --------------------------------------------------------------------------------


async def test_openais_client_streams_calls_and_sends_their_results() -> None:
    engine = FakeEngine((), calls=CALLS)
    asked: dict[str, Any] = {"model": "fake", "tools": TOOLS, "messages": HELLO}
    async with (
        serving(engine) as served,
        openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none") as api,
    ):
        whole = await api.chat.completions.create(**asked, tool_choice="required")
        async with api.chat.completions.stream(**asked, tool_choice=NAMED) as stream:
            seen = [event async for event in stream]
            streamed = await stream.get_final_completion()
        done = [one for one in seen if isinstance(one, FunctionToolCallArgumentsDoneEvent)]
        assert [(one.name, one.arguments) for one in done] == [
            ("f", '{"city":"Bern"}'),
            ("g", "{}"),
        ]
        for answer in (whole, streamed):
            (choice,) = answer.choices
            assert choice.finish_reason == "tool_calls"
            calls = choice.message.tool_calls or []
            history = [*HELLO, choice.message.model_dump(exclude={"parsed"})]
            history += [
                {"role": "tool", "tool_call_id": call.id, "content": "5"}
                for call in reversed(calls)
            ]
            await api.chat.completions.create(**{**asked, "messages": history})
            _, said, *results = engine.requests[-1].messages
            assert [(one.name, one.arguments) for one in said.tool_calls] == [
                ("f", '{"city":"Bern"}'),
                ("g", "{}"),
            ]
            assert [one.tool_name for one in results] == ["g", "f"]
    choices = [request.tool_choice for request in engine.requests[:2]]
    assert choices == [ToolChoice("required"), ToolChoice("required", ("g",), parallel=False)]


def weather(city: str) -> str:
    """Tell the weather.

    Args:
        city: where
    """
    return f"rain in {city}"


async def test_ollamas_client_calls_a_function_and_sends_its_result() -> None:
    engine = FakeEngine((), calls=[ToolCallDelta(0, "weather", '{"city":"Bern"}')])
    async with serving(engine) as served, ollama.AsyncClient(served.url) as api:
        whole = await api.chat("fake", HELLO, tools=[weather])
        parts = [one async for one in await api.chat("fake", HELLO, tools=[weather], stream=True)]
        (streamed,) = [one for one in parts if one.message.tool_calls]
        for answer in (whole, streamed):
            (call,) = answer.message.tool_calls or []
            result = weather(**call.function.arguments)
            history = [*HELLO, answer.message]
            history.append(ollama.Message(role="tool", tool_name="weather", content=result))
            await api.chat("fake", history, tools=[weather])
            _, said, heard = engine.requests[-1].messages
            assert said.tool_calls == (ToolCall("weather", '{"city":"Bern"}'),)
            assert heard == Message("tool", "rain in Bern", tool_name="weather")
    (tool,) = engine.requests[0].tools
    assert (tool.name, tool.description) == ("weather", "Tell the weather.")
    assert json.loads(tool.parameters)["required"] == ["city"]
