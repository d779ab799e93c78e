"""The bytes and bodies of OpenAI's routes, also through the types of OpenAI's own client."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from llmstream_cli.api import Chunk, FinishReason
from llmstream_cli.server.dialects.common import json_text
from llmstream_cli.server.dialects.openai_chat import ChatEncoder, chat_completion, chat_logprob
from llmstream_cli.server.dialects.openai_common import Shape
from llmstream_cli.server.dialects.openai_completions import (
    CompletionEncoder,
    completion,
    completion_logprob,
)
from llmstream_cli.server.respond import Answer, LogprobFields
from tests.server.scripted import USAGE, last, logprob

SHAPE = Shape(id="cmpl-1", created=1700000000, model="tiny", system_fingerprint="fp_1")
USAGE_BODY = {
    "prompt_tokens": 12,
    "completion_tokens": 3,
    "total_tokens": 15,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 0},
}


def chat_encoder(**given: Any) -> ChatEncoder:
    return ChatEncoder(replace(SHAPE, **given))


def completion_encoder(**given: Any) -> CompletionEncoder:
    return CompletionEncoder(replace(SHAPE, **given))


def event(kind: str, choices: str, rest: str = "") -> bytes:
    return (
        f'data: {{"id":"cmpl-1","object":"{kind}","created":1700000000,"model":"tiny",'
        f'"system_fingerprint":"fp_1","choices":[{choices}]{rest}}}\n\n'
    ).encode()


def choice(delta: str, finish_reason: str = "null", index: int = 0) -> str:
    head = f'{{"index":{index},"delta":{delta},"logprobs":null'
    return f'{head},"finish_reason":{finish_reason}}}'


def data_of(events: bytes) -> list[Any]:
    """The JSON of every event but `[DONE]`."""
    lines = events.decode().split("\n\n")
    return [json.loads(line.removeprefix("data: ")) for line in lines if line[-1:] == "}"]


def run(encoder: ChatEncoder | CompletionEncoder, chunks: Sequence[Chunk]) -> bytes:
    encoded = b"".join(encoder.encode(0, chunk) for chunk in chunks)
    return encoder.begin() + encoded + encoder.end()


CHAT = "chat.completion.chunk"


def test_a_chat_is_a_role_the_content_and_a_reason() -> None:
    encoder = chat_encoder()
    assert encoder.begin() == event(CHAT, choice('{"role":"assistant","content":""}'))
    assert encoder.encode(0, Chunk("Hé", (1,))) == event(CHAT, choice('{"content":"H\\u00e9"}'))
    assert encoder.encode(0, Chunk("", (2,))) == b""
    assert encoder.encode(0, last("!", FinishReason.LENGTH)) == (
        event(CHAT, choice('{"content":"!"}')) + event(CHAT, choice("{}", '"length"'))
    )
    assert encoder.end() == b"data: [DONE]\n\n"


def test_reasoning_is_a_field_of_its_own() -> None:
    encoder = chat_encoder()
    assert encoder.encode(0, Chunk("", (1,), reasoning="hm")) == event(
        CHAT, choice('{"reasoning_content":"hm"}')
    )
    both = encoder.encode(0, Chunk("Yes", (2,), reasoning="!"))
    assert both == event(CHAT, choice('{"reasoning_content":"!"}')) + event(
        CHAT, choice('{"content":"Yes"}')
    )


def test_the_body_of_a_chat_with_reasoning() -> None:
    usage = replace(USAGE, reasoning_tokens=2)
    body = chat_completion(SHAPE, [Answer(text="Yes", reasoning="hm", usage=usage)])
    assert body["choices"][0]["message"] == {
        "role": "assistant",
        "content": "Yes",
        "refusal": None,
        "reasoning_content": "hm",
    }
    assert body["usage"]["completion_tokens_details"] == {"reasoning_tokens": 2}
    ChatCompletion.model_validate(body)


def test_a_chat_with_usage_has_the_field_in_every_event() -> None:
    encoder = chat_encoder(with_usage=True)
    null = ',"usage":null'
    assert encoder.begin() == event(CHAT, choice('{"role":"assistant","content":""}'), null)
    assert encoder.encode(0, last()) == event(CHAT, choice("{}", '"stop"'), null)
    usage = json.dumps(USAGE_BODY, separators=(",", ":"))
    assert encoder.end() == event(CHAT, "", f',"usage":{usage}') + b"data: [DONE]\n\n"


def test_a_completion_is_text_and_a_reason() -> None:
    encoder = completion_encoder()
    assert encoder.begin() == b""
    head = '{"text":"one","index":0,"logprobs":null,"finish_reason":'
    assert encoder.encode(0, Chunk("one", (1,))) == event("text_completion", f"{head}null}}")
    assert encoder.encode(0, Chunk("", (2,))) == b""
    assert encoder.encode(0, last("one")) == event("text_completion", f'{head}"stop"}}')
    assert encoder.end() == b"data: [DONE]\n\n"


def test_choices_are_told_apart_and_their_common_prompt_counts_once() -> None:
    encoder = chat_encoder(num_answers=4, num_choices=2, with_usage=True)
    assert [one["choices"][0]["index"] for one in data_of(encoder.begin())] == [0, 1, 2, 3]
    for index in (3, 0, 2, 1):
        (content, end) = data_of(encoder.encode(index, last("a")))
        assert content["choices"][0]["index"] == end["choices"][0]["index"] == index
    (usage,) = data_of(encoder.end())
    assert usage["choices"] == []
    assert usage["usage"] == {
        "prompt_tokens": 24,
        "completion_tokens": 12,
        "total_tokens": 36,
        "prompt_tokens_details": {"cached_tokens": 8},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


EURO = "€".encode()
CHUNKS = [
    Chunk("a", (1,), logprobs=(logprob(b"a", -0.25, top=(b"a", b"b")),)),
    Chunk("", (2,), logprobs=(logprob(EURO[:2], top=(EURO[:2], b"c")),)),
    Chunk("€", (3,), logprobs=(logprob(EURO[2:], float("-inf"), top=(b"d", b"d")),)),
    Chunk("", (4,), logprobs=(logprob(b" st"),)),
    last(),  # the last token had begun a stop string
]


def answer(logprob: LogprobFields) -> Answer:
    whole = Answer()
    for chunk in CHUNKS:
        whole.add(chunk, logprob)
    return whole


CHAT_LOGPROBS = [
    {
        "token": "a",
        "logprob": -0.25,
        "bytes": [97],
        "top_logprobs": [
            {"token": "a", "logprob": -0.5, "bytes": [97]},
            {"token": "b", "logprob": -1.5, "bytes": [98]},
        ],
    },
    {
        "token": "\N{REPLACEMENT CHARACTER}",
        "logprob": -0.5,
        "bytes": [0xE2, 0x82],
        "top_logprobs": [
            {"token": "\N{REPLACEMENT CHARACTER}", "logprob": -0.5, "bytes": [0xE2, 0x82]},
            {"token": "c", "logprob": -1.5, "bytes": [99]},
        ],
    },
    {
        "token": "\N{REPLACEMENT CHARACTER}",
        "logprob": -9999.0,
        "bytes": [0xAC],
        "top_logprobs": [
            {"token": "d", "logprob": -0.5, "bytes": [100]},
            {"token": "d", "logprob": -1.5, "bytes": [100]},
        ],
    },
]
COMPLETION_LOGPROBS = {
    "tokens": ["a", r"bytes:\xe2\x82", r"bytes:\xac"],
    "token_logprobs": [-0.25, -0.5, -9999.0],
    "top_logprobs": [
        {"a": -0.5, "b": -1.5},
        {r"bytes:\xe2\x82": -0.5, "c": -1.5},
        {"d": -0.5, r"bytes:\xac": -9999.0},
    ],
    "text_offset": [0, 1, 1],
}


def test_the_body_of_a_chat() -> None:
    shape = replace(SHAPE, with_logprobs=True)
    body = json.loads(json_text(chat_completion(shape, [answer(chat_logprob)])))
    assert body == {
        "id": "cmpl-1",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "tiny",
        "system_fingerprint": "fp_1",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "a€", "refusal": None},
                "logprobs": {"content": CHAT_LOGPROBS, "refusal": None},
                "finish_reason": "stop",
            }
        ],
        "usage": USAGE_BODY,
    }
    ChatCompletion.model_validate(body)


def test_the_body_of_a_completion() -> None:
    shape = replace(SHAPE, with_logprobs=True)
    body = json.loads(json_text(completion(shape, [answer(completion_logprob)])))
    assert body == {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": 1700000000,
        "model": "tiny",
        "system_fingerprint": "fp_1",
        "choices": [
            {
                "text": "a€",
                "index": 0,
                "logprobs": COMPLETION_LOGPROBS,
                "finish_reason": "stop",
            }
        ],
        "usage": USAGE_BODY,
    }
    Completion.model_validate(body)


def test_a_chat_streams_the_log_probabilities_of_its_body() -> None:
    events = data_of(run(chat_encoder(with_logprobs=True), CHUNKS))
    streamed: list[object] = []
    for one in events:
        ChatCompletionChunk.model_validate(one)
        streamed += (one["choices"][0]["logprobs"] or {"content": []})["content"]
    assert streamed == CHAT_LOGPROBS


def test_a_completion_streams_the_log_probabilities_of_its_body() -> None:
    events = data_of(run(completion_encoder(with_logprobs=True), CHUNKS))
    streamed: dict[str, list[object]] = {name: [] for name in COMPLETION_LOGPROBS}
    for one in events:
        for name, values in one["choices"][0]["logprobs"].items():
            streamed[name] += values
    assert streamed == COMPLETION_LOGPROBS
