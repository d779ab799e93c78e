"""The wire formats, each with how a test reads it, and a value for each sampling parameter."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """A wire format, and how a test reads it."""

    route: str  # that generates
    body: dict[str, Any]  # the least that it takes
    content_type: str  # of a stream
    parts: Callable[[bytes], list[Any]]  # of a stream, one for each event but for its end
    text: Callable[[Any], str]  # of a part, or of a whole answer
    error: Callable[[Any], str]  # the message of an error
    reasoning: Callable[[Any], str] = lambda _: ""
    logprobs: Callable[[Any], list[str]] = lambda _: []  # the texts of their tokens
    usage: Callable[[Any], tuple[int, int]] = lambda _: (0, 0)  # tokens of prompt and answer
    streams: dict[str, Any] = field(default_factory=dict)  # the fields that ask for a stream
    whole: dict[str, Any] | None = None  # those that ask for a whole answer
    no_thinking: dict[str, Any] | None = None  # those that ask for none
    asks_logprobs: dict[str, Any] | None = None
    options: str = ""  # where sampling fields stand
    names: dict[str, str] = field(default_factory=dict)  # of parameters that are called otherwise
    lacks: frozenset[str] = frozenset()  # parameters
    lenient: bool = True  # takes values by which other programs say "no bound", "any"
    tells: bool = True  # an error after the first token; else the response is cut
    any_type: bool = False  # the body is JSON whatever the request calls it
    reasons: bool = True  # reasoning is sent
    cut: str = '"length"'  # in an answer that came to its bound
    ping: bytes = b": ping\n\n"  # in the silences of a stream of events
    tool_turns: bool = False  # messages have `tool_calls`, and a role `tool`
    names_field: bool = True  # an error has the field that is wrong beside its message

    def with_options(self, **options: Any) -> dict[str, Any]:
        named = {self.names.get(name, name): value for name, value in options.items()}
        return {**self.body, **({self.options: named} if self.options else named)}

    def field(self, name: str) -> str:
        """What an error calls a sampling parameter."""
        return ".".join(filter(None, (self.options, self.names.get(name, name))))


def events(data: bytes) -> list[Any]:
    found = [one.removeprefix("data: ") for one in data.decode().split("\n\n")[:-1]]
    assert all(one.splitlines() == [one] for one in found)
    return [json.loads(one) for one in found if one not in {"[DONE]", ": ping"}]


def typed_events(data: bytes) -> list[Any]:
    """The same where each event bears its type."""
    found = [one.splitlines() for one in data.decode().split("\n\n")[:-1] if one != ": ping"]
    bodies = [json.loads(one.removeprefix("data: ")) for _, one in found]
    assert [one for one, _ in found] == [f"event: {body['type']}" for body in bodies]
    return bodies


def block_text(kind: str) -> Callable[[Any], str]:
    """Return what reads the text of one kind of blocks, of an event or of a whole message."""

    def read(part: Any) -> str:
        found = part.get("content", [part.get("delta", {})])
        return "".join(one.get(kind, "") for one in found)

    return read


def lines(data: bytes) -> list[Any]:
    return [json.loads(line) for line in data.decode().splitlines()]


def choices(body: Any) -> Iterator[Any]:
    for choice in body.get("choices", ()):
        yield {**choice, **(choice.get("delta") or choice.get("message") or {})}


def openai(route: str, body: dict[str, Any], text: str, **given_: Any) -> Row:
    return Row(
        route,
        body,
        "text/event-stream; charset=utf-8",
        parts=events,
        text=lambda part: "".join(one.get(text) or "" for one in choices(part)),
        error=lambda body: str(body["error"]["message"]),
        usage=lambda body: (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]),
        streams={"stream": True},
        whole={},
        **given_,
    )


def chat_tokens(part: Any) -> list[str]:
    found = [(one.get("logprobs") or {}).get("content") or [] for one in choices(part)]
    return [token["token"] for tokens in found for token in tokens]


def completion_tokens(part: Any) -> list[str]:
    return [
        token for one in choices(part) for token in (one.get("logprobs") or {}).get("tokens", [])
    ]


def ollama(route: str, body: dict[str, Any]) -> Row:
    def inner(part: Any) -> Any:
        return part.get("message", part)

    return Row(
        route,
        body,
        "application/x-ndjson",
        parts=lines,
        text=lambda part: str(inner(part).get("content", inner(part).get("response", ""))),
        reasoning=lambda part: str(inner(part).get("thinking", "")),
        logprobs=lambda part: [token["token"] for token in part.get("logprobs", ())],
        usage=lambda body: (body["prompt_eval_count"], body["eval_count"]),
        error=lambda body: str(body["error"]),
        whole={"stream": False},
        options="options",
        tool_turns=route == "/api/chat",
        names={"max_tokens": "num_predict"},
        lacks=frozenset({"logit_bias", "ignore_eos", "grammar", "regex", "json_schema"}),
        asks_logprobs={"logprobs": True, "top_logprobs": 1},
        any_type=True,
        no_thinking={"think": False},
    )


def delta(*types: str) -> Callable[[Any], Any]:
    """What reads the deltas of a stream of responses, and in a whole response what they make."""

    def read(part: Any) -> str:
        if part.get("object") != "response":
            return str(part["delta"]) if part["type"].removeprefix("response.") in types else ""
        texts = [one for item in part["output"] for one in item.get("content") or item["summary"]]
        return "".join(one["text"] for one in texts if f"{one['type']}.delta" in "".join(types))

    return read


def response_tokens(part: Any) -> list[str]:
    if part.get("object") == "response":
        contents = [one for item in part["output"] for one in item.get("content", ())]
        return [token["token"] for one in contents for token in one["logprobs"]]
    if part["type"] != "response.output_text.delta":
        return []
    return [token["token"] for token in part["logprobs"]]


HELLO = {"messages": [{"role": "user", "content": "Hello"}]}
ROWS = [
    Row(
        "/token_stream",
        {"query": "Hello"},
        "text/plain; charset=utf-8",
        parts=lambda data: [data.decode()],
        text=str,
        error=lambda body: str(body["error"]["message"]),
        no_thinking={"thinking": False},
        lenient=False,
        tells=False,
        reasons=False,
    ),
    openai(
        "/v1/chat/completions",
        HELLO,
        "content",
        tool_turns=True,
        reasoning=lambda part: "".join(one.get("reasoning_content", "") for one in choices(part)),
        no_thinking={"reasoning_effort": "none"},
        logprobs=chat_tokens,
        asks_logprobs={"logprobs": True, "top_logprobs": 1},
    ),
    openai(
        "/v1/completions",
        {"prompt": "Hello"},
        "text",
        logprobs=completion_tokens,
        asks_logprobs={"logprobs": 1},
        reasons=False,
    ),
    Row(
        "/v1/responses",
        {"input": "Hello"},
        "text/event-stream; charset=utf-8",
        parts=typed_events,
        text=delta("output_text.delta"),
        reasoning=delta("reasoning_summary_text.delta"),
        logprobs=response_tokens,
        error=lambda body: str((body.get("response") or body)["error"]["message"]),
        usage=lambda body: (body["usage"]["input_tokens"], body["usage"]["output_tokens"]),
        streams={"stream": True},
        whole={},
        no_thinking={"reasoning": {"effort": "none"}},
        asks_logprobs={"include": ["message.output_text.logprobs"], "top_logprobs": 1},
        names={"max_tokens": "max_output_tokens"},
        cut='"reason":"max_output_tokens"',
    ),
    Row(
        "/v1/messages",
        HELLO,
        "text/event-stream; charset=utf-8",
        parts=typed_events,
        text=block_text("text"),
        reasoning=block_text("thinking"),
        error=lambda body: str(body["error"]["message"]),
        usage=lambda body: (
            body["usage"]["input_tokens"] + body["usage"]["cache_read_input_tokens"],
            body["usage"]["output_tokens"],
        ),
        streams={"stream": True},
        whole={},
        no_thinking={"thinking": {"type": "disabled"}},
        names={"stop": "stop_sequences"},
        cut='"stop_reason":"max_tokens"',
        ping=b'event: ping\ndata: {"type":"ping"}\n\n',
        names_field=False,
    ),
    ollama("/api/chat", HELLO),
    ollama("/api/generate", {"prompt": "Hello"}),
]

# Values in JSON and in `SamplingParams`, none of them a default.
SCHEMA = {"type": "null"}
SAMPLING: dict[str, tuple[Any, Any]] = {
    "temperature": (1.5, 1.5),
    "top_k": (3, 3),
    "top_p": (0.5, 0.5),
    "min_p": (0.1, 0.1),
    "repeat_penalty": (1.3, 1.3),
    "repeat_last_n": (-1, -1),
    "presence_penalty": (-1.0, -1.0),
    "frequency_penalty": (0.25, 0.25),
    "seed": (7, 7),
    "max_tokens": (9, 9),
    "stop": (["a", "b"], ("a", "b")),
    "logit_bias": ({"5": -2.5}, ((5, -2.5),)),
    "ignore_eos": (True, True),
    "grammar": ('root ::= "a"', 'root ::= "a"'),
    "json_schema": (SCHEMA, '{"type":"null"}'),
    "regex": ("a+", "a+"),
}
