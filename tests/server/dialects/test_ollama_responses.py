"""The lines and bodies of Ollama's routes, also through the types of Ollama's own client."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import ollama
import pytest

from llmstream_cli.api import Chunk, FinishReason, Usage
from llmstream_cli.server.dialects.common import json_text
from llmstream_cli.server.dialects.ollama_lines import (
    LineEncoder,
    LineFormat,
    Route,
    ollama_logprob,
)
from llmstream_cli.server.dialects.ollama_models import rfc3339
from llmstream_cli.server.respond import Answer
from tests.server.scripted import last, logprob

NOW = datetime(2026, 5, 4, 3, 2, 1, 6789, tzinfo=UTC)
HEAD = '{"model":"tiny","created_at":"2026-05-04T03:02:01.006789Z",'
STATISTICS: dict[str, Any] = {
    "total_duration": 1_500_000_000,
    "load_duration": 0,
    "prompt_eval_count": 12,
    "prompt_eval_duration": 250_000_000,
    "eval_count": 3,
    "eval_duration": 500_000_000,
}


def line_format(route: Route = "chat", *, with_logprobs: bool = False) -> LineFormat:
    return LineFormat(
        route=route,
        model="tiny",
        with_logprobs=with_logprobs,
        clock=lambda: 101.5,
        now=lambda: NOW,
        started=100.0,
    )


def test_the_lines_of_a_chat() -> None:
    encoder = LineEncoder(line_format())
    assert encoder.begin() == b""
    assert encoder.encode(0, Chunk("Hé", (1,))) == (
        f'{HEAD}"message":{{"role":"assistant","content":"H\\u00e9"}},"done":false}}\n'.encode()
    )
    assert encoder.encode(0, Chunk("", (2,))) == b""
    text, end = encoder.encode(0, last("!", FinishReason.LENGTH)).splitlines()
    assert json.loads(text)["message"]["content"] == "!"
    assert json.loads(end) == {
        "model": "tiny",
        "created_at": "2026-05-04T03:02:01.006789Z",
        "message": {"role": "assistant", "content": ""},
        "done": True,
        "done_reason": "length",
        **STATISTICS,
    }
    assert encoder.end() == b""


def test_the_lines_of_generate() -> None:
    encoder = LineEncoder(line_format("generate"))
    line = encoder.encode(0, Chunk("Hé", (1,)))
    assert line == f'{HEAD}"response":"H\\u00e9","done":false}}\n'.encode()
    assert json.loads(encoder.encode(0, last())) == {
        "model": "tiny",
        "created_at": "2026-05-04T03:02:01.006789Z",
        "response": "",
        "done": True,
        "done_reason": "stop",
        **STATISTICS,
    }


@pytest.mark.parametrize(
    ("route", "thinking", "answer"),
    [
        (
            "chat",
            '"message":{"role":"assistant","content":"","thinking":"hm"}',
            '"message":{"role":"assistant","content":"Yes"}',
        ),
        ("generate", '"response":"","thinking":"hm"', '"response":"Yes"'),
    ],
)
def test_thinking_has_lines_of_its_own(route: Route, thinking: str, answer: str) -> None:
    line = LineEncoder(line_format(route)).encode(0, Chunk("Yes", (1,), reasoning="hm"))
    assert line == f'{HEAD}{thinking},"done":false}}\n{HEAD}{answer},"done":false}}\n'.encode()


def test_a_duration_is_never_zero_because_clients_divide_by_it() -> None:
    usage = Usage(prompt_tokens=1, completion_tokens=1, prompt_seconds=0, completion_seconds=0)
    line = line_format().last("stop", usage)
    assert line["prompt_eval_duration"] == line["eval_duration"] == 1


EURO = "€".encode()
CHUNKS = [
    Chunk("a", (1,), logprobs=(logprob(b"a", -0.25, top=(b"b",)),)),
    Chunk("", (2,), logprobs=(logprob(EURO[:2]),)),
    Chunk("€", (3,), logprobs=(logprob(EURO[2:], float("-inf")),)),
    Chunk("", (4,), logprobs=(logprob(b" st"),)),
    last(),  # the last token had begun a stop string
]
LOGPROBS = [
    {
        "token": "a",
        "logprob": -0.25,
        "bytes": [97],
        "top_logprobs": [{"token": "b", "logprob": -0.5, "bytes": [98]}],
    },
    {"token": "\N{REPLACEMENT CHARACTER}", "logprob": -0.5, "bytes": [0xE2, 0x82]},
    {"token": "\N{REPLACEMENT CHARACTER}", "logprob": -9999.0, "bytes": [0xAC]},
]


def answer(*, with_logprobs: bool = False) -> Answer:
    whole = Answer()
    for chunk in CHUNKS:
        whole.add(chunk, ollama_logprob if with_logprobs else None)
    return whole


def test_the_body_of_a_chat() -> None:
    whole = answer(with_logprobs=True)
    body = json.loads(json_text(line_format(with_logprobs=True).whole(whole)))
    assert body == {
        "model": "tiny",
        "created_at": "2026-05-04T03:02:01.006789Z",
        "message": {"role": "assistant", "content": "a€"},
        "done": True,
        "done_reason": "stop",
        **STATISTICS,
        "logprobs": LOGPROBS,
    }
    ollama.ChatResponse.model_validate(body)


def test_the_body_of_generate() -> None:
    body = line_format("generate").whole(answer())
    assert body == {
        "model": "tiny",
        "created_at": "2026-05-04T03:02:01.006789Z",
        "response": "a€",
        "done": True,
        "done_reason": "stop",
        **STATISTICS,
    }
    ollama.GenerateResponse.model_validate(body)


def test_a_stream_has_the_log_probabilities_of_its_body() -> None:
    encoder = LineEncoder(line_format(with_logprobs=True))
    lines = [line for chunk in CHUNKS for line in encoder.encode(0, chunk).splitlines()]
    bodies = [json.loads(line) for line in lines]
    assert [one for body in bodies for one in body.get("logprobs", [])] == LOGPROBS
    for body in bodies:
        ollama.ChatResponse.model_validate(body)


def test_a_request_without_a_prompt_is_told_that_the_model_is_loaded() -> None:
    body = line_format("generate").without_prompt("load")
    assert (body["response"], body["done"], body["done_reason"]) == ("", True, "load")
    assert line_format("chat").without_prompt("load")["message"] == {
        "role": "assistant",
        "content": "",
    }


def test_times_are_in_utc_whatever_the_zone() -> None:
    there = NOW.astimezone(timezone(timedelta(hours=9, minutes=30)))
    assert rfc3339(there) == rfc3339(NOW) == "2026-05-04T03:02:01.006789Z"
    assert rfc3339(NOW.replace(microsecond=0)) == "2026-05-04T03:02:01.000000Z"
