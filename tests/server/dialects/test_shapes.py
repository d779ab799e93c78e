"""What OpenAI's and Ollama's routes answer, byte by byte, and to the types of their clients."""

import json
import re
from dataclasses import replace
from typing import Any

import ollama
import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

from llmstream_cli.api import Chunk, FinishReason, Usage
from tests.server.scripted import USAGE, ScriptedEngine, client, last, logprob

HELLO = {"messages": [{"role": "user", "content": "Hello"}]}
PROMPT = {"prompt": "Hello"}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": HELLO,
    "/v1/completions": PROMPT,
    "/api/chat": HELLO,
    "/api/generate": PROMPT,
}
EVENT = '"created":0,"model":"tiny","system_fingerprint":"fp_"'
CHAT_EVENT = f'{{"id":"chatcmpl-","object":"chat.completion.chunk",{EVENT},"choices":['
TEXT_EVENT = f'{{"id":"cmpl-","object":"text_completion",{EVENT},"choices":['
LINE = '{"model":"tiny:latest","created_at":"T",'
STATISTICS = (
    '"total_duration":1,"load_duration":0,"prompt_eval_count":12,'
    '"prompt_eval_duration":250000000,"eval_count":3,"eval_duration":500000000}'
)
END = f'"done":true,"done_reason":"length",{STATISTICS}'


async def ask(script: Any, route: str, names: tuple[str, ...] = ("tiny",), **fields: Any) -> str:
    """What a route answers, with constants for what differs each time."""
    body = {**BODIES[route], **fields}
    response = await client(ScriptedEngine(script), names).post(route, json=body)
    assert response.status_code == 200
    text = await response.get_data(as_text=True)
    text = re.sub(r'"total_duration":[1-9]\d*', '"total_duration":1', text)
    text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", "T", text)
    text = re.sub(r'"created":\d{10}', '"created":0', text)
    return re.sub(r"(cmpl-)[0-9a-f]{32}|(fp_)[0-9a-f]{10}", r"\1\2", text)


def delta(delta: str, finish_reason: str = "null", index: int = 0) -> str:
    head = f'{{"index":{index},"delta":{delta},"logprobs":null'
    return f'data: {CHAT_EVENT}{head},"finish_reason":{finish_reason}}}]}}'


def piece(text: str, finish_reason: str = "null") -> str:
    head = f'{{"text":"{text}","index":0,"logprobs":null'
    return f'data: {TEXT_EVENT}{head},"finish_reason":{finish_reason}}}]}}'


ROLE = delta('{"role":"assistant","content":""}')
STREAMS = {
    "/v1/chat/completions": [
        ROLE,
        delta('{"reasoning_content":"hm"}'),
        delta('{"reasoning_content":"!"}'),
        delta('{"content":"H\\u00e9"}'),
        delta('{"content":"."}'),
        delta("{}", '"length"'),
        "data: [DONE]",
    ],
    "/v1/completions": [piece("H\\u00e9"), piece(".", '"length"'), "data: [DONE]"],
    "/api/chat": [
        f'{LINE}"message":{{"role":"assistant","content":"","thinking":"hm"}},"done":false}}',
        f'{LINE}"message":{{"role":"assistant","content":"","thinking":"!"}},"done":false}}',
        f'{LINE}"message":{{"role":"assistant","content":"H\\u00e9"}},"done":false}}',
        f'{LINE}"message":{{"role":"assistant","content":"."}},"done":false}}',
        f'{LINE}"message":{{"role":"assistant","content":""}},{END}',
    ],
    "/api/generate": [
        f'{LINE}"response":"","thinking":"hm","done":false}}',
        f'{LINE}"response":"","thinking":"!","done":false}}',
        f'{LINE}"response":"H\\u00e9","done":false}}',
        f'{LINE}"response":".","done":false}}',
        f'{LINE}"response":"",{END}',
    ],
}


@pytest.mark.parametrize("route", STREAMS)
async def test_the_bytes_of_a_stream(route: str) -> None:
    script = [
        Chunk("", (1,), reasoning="hm"),
        Chunk("", (2,)),  # a part of a character
        Chunk("Hé", (3,), reasoning="!"),
        last(".", FinishReason.LENGTH),
    ]
    text = await ask(script, route, stream=True)
    end = "\n\n" if route.startswith("/v1") else "\n"
    assert text.split(end) == [*STREAMS[route], ""]


# ---- log probabilities and usage ------------------------------------------------------------

EURO = "€".encode()
CHUNKS = [
    Chunk("a", (1,), logprobs=(logprob(b"a", -0.25, top=(b"a", b"b")),)),
    Chunk("", (2,), logprobs=(logprob(EURO[:2], top=(EURO[:2], b"c")),)),
    Chunk("€", (3,), logprobs=(logprob(EURO[2:], float("-inf"), top=(b"d", b"d")),)),
    Chunk("", (4,), logprobs=(logprob(b"", top=(b"e",)),)),  # a token without text
    Chunk("", (5,), logprobs=(logprob(b" st"),)),  # held back: it could begin a stop string
    last(reason=FinishReason.STOP, usage=replace(USAGE, reasoning_tokens=2)),
]


def token(text: str, value: float, data: bytes) -> dict[str, Any]:
    return {"token": text, "logprob": value, "bytes": [*data]}


def with_top(drawn: dict[str, Any], *top: dict[str, Any]) -> dict[str, Any]:
    return {**drawn, "top_logprobs": [*top]}


LOST = "\N{REPLACEMENT CHARACTER}"
TOKENS = [
    with_top(token("a", -0.25, b"a"), token("a", -0.5, b"a"), token("b", -1.5, b"b")),
    with_top(token(LOST, -0.5, EURO[:2]), token(LOST, -0.5, EURO[:2]), token("c", -1.5, b"c")),
    with_top(token(LOST, -9999.0, EURO[2:]), token("d", -0.5, b"d"), token("d", -1.5, b"d")),
    with_top(token("", -0.5, b""), token("e", -0.5, b"e")),
]
LISTS: dict[str, list[Any]] = {
    "tokens": ["a", r"bytes:\xe2\x82", r"bytes:\xac", ""],
    "token_logprobs": [-0.25, -0.5, -9999.0, -0.5],
    "top_logprobs": [
        {"a": -0.5, "b": -1.5},
        {r"bytes:\xe2\x82": -0.5, "c": -1.5},
        {"d": -0.5, r"bytes:\xac": -9999.0},
        {"e": -0.5, "": -0.5},
    ],
    "text_offset": [0, 1, 1, 2],
}
USAGE_BODY = {
    "prompt_tokens": 12,
    "completion_tokens": 3,
    "total_tokens": 15,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
MESSAGE = {"role": "assistant", "content": "a€"}
CHAT_LOGPROBS = {"content": TOKENS, "refusal": None}
DONE = {"model": "tiny:latest", "created_at": "T", "done": True, "done_reason": "stop"}
WHOLE: dict[str, tuple[type[BaseModel], dict[str, Any], Any]] = {
    "/v1/chat/completions": (
        ChatCompletion,
        {"logprobs": True, "top_logprobs": 2},
        {"message": {**MESSAGE, "refusal": None}, "logprobs": CHAT_LOGPROBS},
    ),
    "/v1/completions": (Completion, {"logprobs": 2}, {"text": "a€", "logprobs": LISTS}),
    "/api/chat": (
        ollama.ChatResponse,
        {"logprobs": True, "top_logprobs": 2},
        {"message": MESSAGE, "logprobs": TOKENS},
    ),
    "/api/generate": (
        ollama.GenerateResponse,
        {"logprobs": True, "top_logprobs": 2},
        {"response": "a€", "logprobs": TOKENS},
    ),
}


@pytest.mark.parametrize("route", WHOLE)
async def test_the_body_of_a_whole_answer(route: str) -> None:
    type_, asked, answer = WHOLE[route]
    text = await ask(CHUNKS, route, stream=False, **asked)
    body = json.loads(text)
    if route.startswith("/v1"):
        choice = {"index": 0, **answer, "finish_reason": "stop"}
        head = json.loads(f'{{"object":"{body["object"]}",{EVENT}}}')
        assert body == {"id": body["id"], **head, "choices": [choice], "usage": USAGE_BODY}
        assert body["object"] in {"chat.completion", "text_completion"}
    else:
        assert body == {**DONE, **json.loads(f"{{{STATISTICS}"), **answer}
        body["created_at"] = "2026-05-04T03:02:01.006789Z"
    type_.model_validate(body)


@pytest.mark.parametrize("route", WHOLE)
async def test_a_stream_has_the_log_probabilities_of_the_whole_answer(route: str) -> None:
    _, asked, answer = WHOLE[route]
    streamed: dict[str, list[Any]] = {name: [] for name in ("content", "refusal", "lines", *LISTS)}
    for line in (await ask(CHUNKS, route, stream=True, **asked)).split("\n"):
        if not line.endswith("}"):
            continue
        part = json.loads(line.removeprefix("data: "))
        if "chat.completion" in line:
            ChatCompletionChunk.model_validate(part)
        found = part["choices"][0]["logprobs"] if "choices" in part else part.get("logprobs")
        for name, values in (found if isinstance(found, dict) else {"lines": found}).items():
            streamed[name] += values or []
    expected = answer["logprobs"] if isinstance(answer["logprobs"], dict) else {"lines": TOKENS}
    assert {name: values for name, values in streamed.items() if values} == {
        name: values for name, values in expected.items() if values
    }


@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/completions"])
async def test_a_stream_that_reports_its_usage_has_the_field_in_every_event(route: str) -> None:
    script = [Chunk("Hello", (1,)), CHUNKS[-1]]
    text = await ask(script, route, stream=True, stream_options={"include_usage": True})
    *events, done, end = text.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    *before, usage = [json.loads(event.removeprefix("data: ")) for event in events]
    assert all(one["usage"] is None for one in before)
    assert (usage["choices"], usage["usage"]) == ([], USAGE_BODY)


async def test_choices_are_told_apart_and_their_common_prompt_counts_once() -> None:
    engine = ScriptedEngine([Chunk("a", (1,)), last()])
    asked = {"prompt": ["x", [5, 6]], "n": 2}
    response = await client(engine).post("/v1/completions", json=asked)
    body = await response.get_json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    assert [request.prompt for request in engine.requests] == ["x", "x", (5, 6), (5, 6)]
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (24, 12)
    text = await ask([last("a")], "/v1/chat/completions", stream=True, n=3)
    choices = [one for one in text.split("\n\n") if '"content":"a"' in one]
    assert [int(one.partition('"index":')[2][0]) for one in choices] == [0, 1, 2]
    assert text.count('"role":"assistant"') == 3


async def test_a_duration_is_never_zero_because_clients_divide_by_it() -> None:
    usage = Usage(prompt_tokens=1, completion_tokens=1, prompt_seconds=0, completion_seconds=0)
    body = json.loads(await ask([last(usage=usage)], "/api/chat", stream=False))
    assert body["prompt_eval_duration"] == body["eval_duration"] == 1


async def test_the_fingerprint_stays_until_something_changes_the_answers() -> None:
    async def fingerprint(name: str) -> str:
        response = await client(ScriptedEngine([last()]), (name,)).post(
            "/v1/completions", json=PROMPT
        )
        return str((await response.get_json())["system_fingerprint"])

    assert await fingerprint("tiny") == await fingerprint("tiny") != await fingerprint("other")
