"""Clients as they are published, against a server with the real model: protocol, not wit."""

import gc
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import agents
import anthropic
import jsonschema
import openai
import pydantic
import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_ollama import ChatOllama
from langchain_openai import ChatOpenAI
from pydantic_ai import Agent, ModelSettings
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

from tests.server.process import running_server

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

MODEL = "smollm2"
TOKENS = 64
SECONDS = 300.0
QUESTION = "What is the weather in Paris?"
ASKED: list[Any] = [{"role": "user", "content": QUESTION}]
CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Bern", "Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("clients") / "log"
    with running_server(log, "--parallel", "8", "--threads", "2") as running:
        yield running
    # Connections that clients leave open are warned about here, not in a later module.
    gc.collect()


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{url}/v1", api_key="none", timeout=SECONDS, max_retries=0
    ) as client:
        yield client


def function(name: str, schema: dict[str, Any]) -> Any:
    return {"type": "function", "function": {"name": name, "parameters": schema}}


# ---- openai ---------------------------------------------------------------------------------


def test_openai_streams_a_call(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model=MODEL,
        messages=ASKED,
        tools=[function("weather", CITY)],
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens=TOKENS,
    ) as stream:
        kinds = [event.type for event in stream]
        choice = stream.get_final_completion().choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls or []
    assert call.function.name == "weather"
    jsonschema.validate(json.loads(call.function.arguments), CITY)
    pieces = [kind for kind in kinds if kind.startswith("tool_calls")]
    assert len(pieces) > 1
    assert pieces[-1] == "tool_calls.function.arguments.done"
    assert "tool_calls.function.arguments.done" not in pieces[:-1]


def test_openai_responses_call_and_take_the_result(client: openai.OpenAI) -> None:
    tools: Any = [{"type": "function", "name": "weather", "parameters": CITY, "strict": True}]
    response = client.responses.create(
        model=MODEL, input=QUESTION, tools=tools, tool_choice="required", max_output_tokens=TOKENS
    )
    calls = [item for item in response.output if item.type == "function_call"]
    assert calls
    assert calls[0].name == "weather"
    jsonschema.validate(json.loads(calls[0].arguments), CITY)
    result = {"type": "function_call_output", "call_id": calls[0].call_id, "output": "rain"}
    conversation: Any = [*ASKED, calls[0].model_dump(), result]
    with client.responses.stream(
        model=MODEL, input=conversation, tools=tools, tool_choice="none", max_output_tokens=24
    ) as stream:
        kinds = [event.type for event in stream]
        text = stream.get_final_response().output_text if kinds[-1].endswith("completed") else ""
    assert kinds[0] == "response.created"
    assert kinds[-1] in {"response.completed", "response.incomplete"}
    assert "response.output_text.delta" in kinds
    assert text or kinds[-1] == "response.incomplete"


def test_openai_embeds(client: openai.OpenAI) -> None:
    # The client asks for base64 unless told otherwise.
    texts = ["Paris", "Rome"]
    packed = client.embeddings.create(model=MODEL, input=texts)
    plain = client.embeddings.create(model=MODEL, input=texts, encoding_format="float")
    assert [one.index for one in packed.data] == [0, 1]
    for one, other in zip(packed.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-3)
        assert sum(x * x for x in one.embedding) == pytest.approx(1, abs=1e-3)


# ---- a hundred calls ------------------------------------------------------------------------

SCHEMAS: dict[str, dict[str, Any]] = {
    "book": {
        "type": "object",
        "properties": {
            "trip": {
                "type": "object",
                "properties": {
                    "to": {"type": "string", "enum": ["Bern", "Paris", "Rome"]},
                    "days": {"type": "integer", "minimum": 1, "maximum": 30},
                },
                "required": ["to", "days"],
                "additionalProperties": False,
            },
            "class": {"enum": ["first", "second"]},
        },
        "required": ["trip", "class"],
        "additionalProperties": False,
    },
    "measure": {
        "type": "object",
        "properties": {
            "points": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {"x": {"type": "number"}, "hot": {"type": "boolean"}},
                    "required": ["x", "hot"],
                    "additionalProperties": False,
                },
                "minItems": 1,
                "maxItems": 2,
            },
            "unit": {"anyOf": [{"const": "cm"}, {"type": "null"}]},
        },
        "required": ["points", "unit"],
        "additionalProperties": False,
    },
}


def test_a_hundred_required_calls_are_valid(client: openai.OpenAI) -> None:
    def ask(seed: int) -> tuple[str, list[tuple[str, str]]]:
        choice = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Book a trip to Rome, or measure."}],
            tools=[function(name, schema) for name, schema in SCHEMAS.items()],
            tool_choice="required",
            parallel_tool_calls=False,
            temperature=1,
            seed=seed,
            max_tokens=96,
        ).choices[0]
        calls: list[Any] = choice.message.tool_calls or []
        return choice.finish_reason, [(one.function.name, one.function.arguments) for one in calls]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(100)))
    whole = [calls for reason, calls in answers if reason != "length"]
    assert len(whole) > 80  # numbers of any length are valid, so that some answers are cut
    for reason, calls in answers:
        assert reason in {"tool_calls", "length"}
        assert all(name in SCHEMAS for name, _ in calls)
    for calls in whole:
        ((name, arguments),) = calls
        jsonschema.validate(json.loads(arguments), SCHEMAS[name])


# ---- anthropic ------------------------------------------------------------------------------


def test_anthropic_streams_a_call_and_takes_the_result(url: str) -> None:
    client = anthropic.Anthropic(base_url=url, api_key="none", timeout=SECONDS, max_retries=0)
    tools: Any = [{"name": "weather", "input_schema": CITY}]
    with client.messages.stream(
        model=MODEL,
        messages=ASKED,
        tools=tools,
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        max_tokens=TOKENS,
    ) as stream:
        kinds = [event.type for event in stream]
        message = stream.get_final_message()
    assert message.stop_reason == "tool_use"
    call = message.content[-1]
    assert call.type == "tool_use"
    assert call.name == "weather"
    jsonschema.validate(call.input, CITY)
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"
    assert kinds.index("content_block_start") < kinds.index("input_json")
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "It rains."}
    conversation: Any = [
        *ASKED,
        {"role": "assistant", "content": [block.model_dump() for block in message.content]},
        {"role": "user", "content": [result]},
    ]
    answer = client.messages.create(
        model=MODEL, messages=conversation, tools=tools, tool_choice={"type": "none"}, max_tokens=24
    )
    assert [block.type for block in answer.content] == ["text"]
    assert answer.stop_reason in {"end_turn", "max_tokens"}


# ---- frameworks -----------------------------------------------------------------------------


class City(pydantic.BaseModel):
    """Where to look."""

    city: Literal["Bern", "Paris", "Rome"]


def weather(city: Literal["Bern", "Paris", "Rome"]) -> str:
    """Tell the weather of a city."""
    return f"It rains in {city}."


def langchain_model(name: str, url: str) -> Any:
    if name == "ollama":
        return ChatOllama(model=MODEL, base_url=url, num_predict=TOKENS, temperature=0)
    return ChatOpenAI(
        model=MODEL,
        base_url=f"{url}/v1",
        api_key=pydantic.SecretStr("none"),
        timeout=SECONDS,
        max_retries=0,
        max_completion_tokens=TOKENS,
        temperature=0,
        use_responses_api=name == "openai responses",
    )


@pytest.mark.parametrize("name", ["openai", "openai responses"])
def test_langchain_openai_calls_and_takes_the_result(name: str, url: str) -> None:
    bound = langchain_model(name, url).bind_tools([weather], tool_choice="required")
    whole: Any = None
    for piece in bound.stream(QUESTION):
        whole = piece if whole is None else whole + piece
    assert whole.tool_calls
    assert not whole.invalid_tool_calls
    call = whole.tool_calls[0]
    assert call["name"] == "weather"
    City.model_validate(call["args"])
    results = [
        ToolMessage(weather(**one["args"]), tool_call_id=one["id"]) for one in whole.tool_calls
    ]
    answer = langchain_model(name, url).invoke([HumanMessage(QUESTION), whole, *results])
    assert answer.text
    assert answer.usage_metadata["output_tokens"] > 0


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("openai", "json_schema"),
        ("openai", "function_calling"),
        ("openai responses", "json_schema"),
        ("ollama", "json_schema"),
    ],
)
def test_langchain_gets_an_object(name: str, method: str, url: str) -> None:
    model = langchain_model(name, url).with_structured_output(City, method=method)
    assert isinstance(model.invoke(QUESTION), City)


def test_langchain_ollama_streams_and_offers_tools(url: str) -> None:
    bound = langchain_model("ollama", url).bind_tools([weather])
    whole: Any = None
    for piece in bound.stream(QUESTION):
        whole = piece if whole is None else whole + piece
    assert whole.text or whole.tool_calls
    assert whole.response_metadata["done_reason"] in {"stop", "length"}
    assert all(call["name"] == "weather" for call in whole.tool_calls)
    call = {"name": "weather", "args": {"city": "Rome"}, "id": "1"}
    conversation = [HumanMessage(QUESTION), AIMessage("", tool_calls=[call])]
    assert bound.invoke([*conversation, ToolMessage(weather("Rome"), tool_call_id="1")]).id


@pytest.mark.parametrize("kind", [OpenAIChatModel, OpenAIResponsesModel])
async def test_pydantic_ai_gets_an_object(
    kind: type[OpenAIChatModel | OpenAIResponsesModel], url: str
) -> None:
    settings = ModelSettings(max_tokens=TOKENS, temperature=0)
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", timeout=SECONDS) as client:
        model = kind(MODEL, provider=OpenAIProvider(openai_client=client))
        # It asks for a call of a tool, whose arguments are the object.
        agent = Agent(model, output_type=City, model_settings=settings)
        answer = await agent.run(QUESTION)
    assert isinstance(answer.output, City)
    assert answer.usage.output_tokens > 0


@pytest.mark.parametrize("kind", [agents.OpenAIChatCompletionsModel, agents.OpenAIResponsesModel])
async def test_openai_agents_runs_a_tool(kind: Any, url: str) -> None:
    agents.set_tracing_disabled(True)
    asked: list[str] = []

    def weather(city: Literal["Bern", "Paris", "Rome"]) -> str:
        """Tell the weather of a city."""
        asked.append(city)
        return f"It rains in {city}."

    client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", timeout=SECONDS)
    # After a call its tool choice is "auto", so that the run ends with a text.
    agent = agents.Agent(
        name="weather",
        model=kind(model=MODEL, openai_client=client),
        tools=[agents.function_tool(weather)],
        model_settings=agents.ModelSettings(
            tool_choice="required", max_tokens=TOKENS, temperature=0, parallel_tool_calls=False
        ),
    )
    run = agents.Runner.run_streamed(agent, QUESTION, max_turns=8)
    items = [event.item.type async for event in run.stream_events() if hasattr(event, "item")]
    assert asked
    assert items[:2] == ["tool_call_item", "tool_call_output_item"]
    assert items[-1] == "message_output_item"
    assert run.final_output
    await client.close()
