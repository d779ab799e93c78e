"""OpenAI's API as servers speak it: requests, events however they are cut, answers, models."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstream_cli.api import Chunk, FinishReason, GenerationRequest, SamplingParams, Usage
from llmstream_cli.engines.openai_format import (
    EventStream,
    RemoteAnswer,
    RemoteModel,
    only_model,
    parse_models,
    request_body,
)
from llmstream_cli.errors import InvalidValueError, UpstreamError
from llmstream_cli.prompts.messages import Message, Tool, ToolCall, ToolCallDelta, ToolChoice

# ---- requests -------------------------------------------------------------------------------

HELLO = (Message("system", "Be brief."), Message("user", "Hello?"))
ALL = tuple(SamplingParams.__dataclass_fields__)


def sampled(owner: str, *, messages: tuple[Message, ...] = HELLO, **said: Any) -> dict[str, Any]:
    """What a request adds to its body for the parameters that a user set."""
    unset = tuple(name for name in ALL if name not in said)
    prompt = None if messages else "Once"
    request = GenerationRequest(messages, SamplingParams(**said), prompt, unset=unset)
    body = request_body(request, "tiny", owner)
    for name in ("model", "stream", "stream_options", "messages", "prompt"):
        body.pop(name, None)
    return body


def test_a_conversation_and_a_raw_prompt() -> None:
    request = GenerationRequest(HELLO, unset=ALL)
    common = {"model": "tiny", "stream": True, "stream_options": {"include_usage": True}}
    assert request_body(request, "tiny", "vllm") == {
        **common,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hello?"},
        ],
    }
    for prompt in ("Once", (1, 2)):  # of whose thinking nothing is said
        request = GenerationRequest(prompt=prompt, unset=ALL, thinking=False)
        assert request_body(request, "tiny", "vllm") == {**common, "prompt": prompt}


WEATHER = Tool("weather", "Tell it.", '{"type":"object","properties":{"city":{}}}')
HISTORY = (
    Message("user", "And in Bern?"),
    Message("assistant", "", "Hm.", (ToolCall("weather", '{"city":"Bern"}', "a1"),)),
    Message("tool", "rain", tool_call_id="a1", tool_name="weather"),
)


def test_tools_calls_and_results() -> None:
    tools = (WEATHER, Tool("clock"))
    choice = ToolChoice("required", ("weather",), parallel=False)
    request = GenerationRequest(HISTORY, unset=ALL, tools=tools, tool_choice=choice)
    body = request_body(request, "tiny", "vllm")
    definition = {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Tell it.",
            "parameters": {"type": "object", "properties": {"city": {}}},
        },
    }
    assert body["tools"] == [definition]
    assert (body["tool_choice"], body["parallel_tool_calls"]) == ("required", False)
    _, asked, result = body["messages"]
    assert asked == {
        "role": "assistant",
        "content": "",
        "reasoning_content": "Hm.",
        "tool_calls": [
            {
                "id": "a1",
                "type": "function",
                "function": {"name": "weather", "arguments": '{"city":"Bern"}'},
            }
        ],
    }
    assert result == {"role": "tool", "content": "rain", "tool_call_id": "a1"}
    # OpenAI's own servers refuse what they do not know.
    assert "reasoning_content" not in request_body(request, "tiny", "openai")["messages"][1]


def test_all_tools_are_sent_where_none_is_chosen() -> None:
    request = GenerationRequest(HELLO, unset=ALL, tools=(WEATHER, Tool("clock")))
    body = request_body(request, "tiny", "")
    assert [one["function"]["name"] for one in body["tools"]] == ["weather", "clock"]
    assert (body["tool_choice"], body["parallel_tool_calls"]) == ("auto", True)


OWNERS = ["llmstream", "llamacpp", "vllm", "sglang", "openai", ""]
LLAMA_CPP, OTHERS = OWNERS[:2], OWNERS[2:]
SCHEMA = {"json_schema": '{"type":"object"}'}
FORMAT = {"name": "answer", "schema": {"type": "object"}}


@pytest.mark.parametrize(
    ("owners", "said", "sent"),
    [
        (OWNERS, {}, {}),
        (OWNERS, {"temperature": 0.0, "top_p": 0.5, "seed": 0, "max_tokens": 7}, None),
        (OWNERS, {"presence_penalty": 0.25, "frequency_penalty": -1.0, "stop": ("a", "b")}, None),
        (OWNERS, {"logit_bias": ((7, -9.0), (8, 1.0))}, {"logit_bias": {"7": -9.0, "8": 1.0}}),
        (LLAMA_CPP, {"top_k": 0, "repeat_penalty": 1.5, "repeat_last_n": -1}, None),
        (OWNERS[:4], {"top_k": 5, "min_p": 0.1, "ignore_eos": True}, None),
        (["vllm", "sglang"], {"top_k": 0}, {"top_k": -1}),
        (["vllm", "sglang"], {"repeat_penalty": 1.5}, {"repetition_penalty": 1.5}),
        (LLAMA_CPP, {"grammar": "G"}, None),
        (["llmstream", "sglang"], {"regex": "a+"}, None),
        (["vllm"], {"regex": "a+"}, {"structured_outputs": {"regex": "a+"}}),
        (["vllm"], {"grammar": "G"}, {"structured_outputs": {"grammar": "G"}}),
        (["sglang"], {"grammar": "G"}, {"ebnf": "G"}),
        (LLAMA_CPP, SCHEMA, {"json_schema": {"type": "object"}}),
        (OTHERS, SCHEMA, {"response_format": {"type": "json_schema", "json_schema": FORMAT}}),
    ],
)
def test_what_is_asked_for_is_sent_by_the_servers_names(
    owners: list[str], said: dict[str, Any], sent: dict[str, Any] | None
) -> None:
    for owner in owners:
        assert sampled(owner, **said) == (said if sent is None else sent)
        if owner in LLAMA_CPP:  # raw prompts go the same way
            assert sampled(owner, messages=(), **said) == (said if sent is None else sent)


@pytest.mark.parametrize(
    ("owner", "said", "complaint"),
    [
        ("vllm", {"repeat_last_n": 5}, "repeat_last_n cannot be asked of .* is vllm's$"),
        ("", {"top_k": 5}, "top_k cannot be asked of .* is OpenAI's$"),
        ("library", {"min_p": 0.1}, "min_p cannot be asked of .* is OpenAI's$"),
        ("openai", {"grammar": "G"}, "grammar cannot be asked of .* is OpenAI's$"),
        ("llamacpp", {"regex": "a+"}, "regex cannot be asked of .* is llamacpp's$"),
        ("llmstream", {"logprobs": 1}, "logprobs cannot be asked of .* is llmstream's$"),
        ("", {"json_schema": "{"}, "json_schema is no JSON"),
        ("", {"json_schema": "[" * 60_000}, "json_schema is no JSON"),
    ],
)
def test_what_would_be_lost_is_refused(owner: str, said: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidValueError, match=f"^{complaint}"):
        sampled(owner, **said)


def test_all_is_meant_unless_it_is_said_to_be_unset() -> None:
    body = request_body(GenerationRequest(HELLO), "tiny", "llmstream")
    assert (body["temperature"], body["repeat_penalty"], body["top_k"]) == (0.2, 1.1, 40)
    assert not {"seed", "max_tokens", "stop", "grammar", "ignore_eos", "logprobs"} & body.keys()


def test_thinking_is_told_to_the_template_and_openais_models_can_only_be_told_not_to() -> None:
    def body(owner: str, thinking: bool) -> dict[str, Any]:
        return request_body(GenerationRequest(HELLO, unset=ALL, thinking=thinking), "m", owner)

    for owner in OWNERS[:4]:
        for thinking in (True, False):
            assert body(owner, thinking)["chat_template_kwargs"] == {"enable_thinking": thinking}
    assert body("openai", False)["reasoning_effort"] == "none"
    with pytest.raises(InvalidValueError, match=r"^thinking cannot be asked of this server"):
        body("openai", True)


# ---- events ---------------------------------------------------------------------------------

ends = st.sampled_from([b"\n", b"\r\n", b"\r"])
values = st.binary(max_size=12).filter(lambda value: not {10, 13} & set(value))
ignored = st.sampled_from(
    [b": ping", b":", b"event: x", b"id", b"retry: 3", b"dataset: 1", b"\xff"]
)


def fed(*chunks: bytes) -> list[bytes]:
    stream = EventStream()
    return [event for chunk in chunks for event in stream.feed(chunk)]


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    """A stream's bytes, and the data of its events."""
    stream = draw(st.sampled_from([b"", b"\xef\xbb\xbf"]))
    events = draw(st.lists(st.lists(values, max_size=3), max_size=5))
    for lines in events:
        for line in lines:
            space = b" " if line.startswith(b" ") else draw(st.sampled_from([b"", b" "]))
            stream += draw(st.just(b"") | st.builds(bytes.__add__, ignored, ends))
            stream += b"data:" + space + line + draw(ends)
        # A CR here may only be followed by what is no LF: the two would be one end.
        stream += draw(ignored) + b"\n" + draw(ends)
    return stream, [b"\n".join(lines) for lines in events if lines]


def cut(stream: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(place % (len(stream) + 1) for place in cuts), len(stream)]
    return [stream[start:end] for start, end in pairwise(places)]


@given(streams(), st.lists(st.integers(0)))
def test_any_cut_of_a_stream_gives_its_events(
    stream: tuple[bytes, list[bytes]], cuts: list[int]
) -> None:
    data, events = stream
    assert fed(*cut(data, cuts)) == events


@given(st.binary(), st.lists(st.integers(0)))
def test_any_bytes_give_the_same_events_however_they_are_cut(data: bytes, cuts: list[int]) -> None:
    assert fed(*cut(data, cuts)) == fed(data)


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data:1\r\n\r\ndata:  2\r\r", [b"1", b" 2"]),
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b"data\n\n", [b""]),
        (b"\n\n\n", []),
        (b"data: half", []),
        (b"data: no empty line\n", []),
        (b"\xef\xbb\xbfdata: 1\n\n", [b"1"]),
        (b"data: 1\n\n\xef\xbb\xbfdata: 2\n\n", [b"1"]),
        ("data: U+2028 is\u2028no end\n\n".encode(), ["U+2028 is\u2028no end".encode()]),
    ],
)
def test_examples(stream: bytes, events: list[bytes]) -> None:
    assert fed(stream) == events


@pytest.mark.parametrize("part", [b"data: xxxxxxx", b"data:\n", b"data: xx\n", b": ping"])
def test_an_event_without_end_is_given_up(part: bytes) -> None:
    with pytest.raises(UpstreamError, match="an event over 1 MiB"):
        fed(*[part * 256] * (1 << 12))


def test_events_of_any_number_go_through() -> None:
    stream = EventStream()
    event = b"data: " + b"x" * 1000 + b"\n\n"
    assert sum(len(stream.feed(event)) for _ in range(3000)) == 3000


# ---- answers --------------------------------------------------------------------------------

STOP = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}


def delta(finish_reason: str | None = None, **fields: object) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish_reason}]}


def usage(prompt: object, completion: object, **details: object) -> dict[str, Any]:
    counts = {"prompt_tokens": prompt, "completion_tokens": completion, **details}
    return {"choices": [], "usage": counts}


def chunks_of(*events: dict[str, Any]) -> list[Chunk]:
    """Chunks of events that come a second apart."""
    answer = RemoteAnswer()
    pushed = [answer.push(event, float(second)) for second, event in enumerate(events, start=1)]
    return [*(chunk for chunk in pushed if chunk is not None), answer.end()]


def text_of(*events: dict[str, Any]) -> str:
    return "".join(chunk.text for chunk in chunks_of(*events))


def test_an_answer() -> None:
    assert chunks_of(
        delta(role="assistant", content=""),
        delta(content="Once"),
        delta(content=""),
        delta(content=" upon"),
        STOP,
        usage(40, 10, prompt_tokens_details={"cached_tokens": 16}),
    ) == [
        Chunk("Once"),
        Chunk(" upon"),
        Chunk("", finish_reason=FinishReason.STOP, usage=Usage(40, 10, 2.0, 2.0, 16)),
    ]


def test_the_reason_may_come_with_the_last_text() -> None:
    assert chunks_of(delta("length", content="Once")) == [
        Chunk("Once"),
        Chunk("", finish_reason=FinishReason.LENGTH),
    ]


def test_a_completion() -> None:
    events = [{"choices": [{"text": "Once"}]}, {"choices": [{"text": "", "finish_reason": "stop"}]}]
    assert text_of(*events) == "Once"


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_thoughts_are_not_the_answer(name: str) -> None:
    first, second, last = chunks_of(
        delta(**{name: "Hm", "content": None}), delta(content="Yes."), STOP
    )
    assert (first.text, first.reasoning) == ("", "Hm")
    assert (second.text, second.reasoning) == ("Yes.", "")
    assert last.finish_reason is FinishReason.STOP


def test_a_server_may_report_nothing() -> None:
    assert chunks_of(STOP)[-1].usage is None
    assert chunks_of(STOP, usage(3, 2))[-1].usage == Usage(3, 2, 0.0, 0.0)


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"choices": None},
        {"choices": "none"},
        {"choices": [None]},
        {"choices": [{}]},
        {"choices": [{"delta": None}]},
        {"choices": [{"delta": {"content": None}}]},
    ],
)
def test_events_without_text_are_passed_over(event: dict[str, Any]) -> None:
    assert text_of(event, delta(content="Once"), STOP) == "Once"


@pytest.mark.parametrize("events", [[], [delta(content="Once")], [usage(1, 2)]])
def test_an_answer_without_a_reason_to_finish_is_cut(events: list[dict[str, Any]]) -> None:
    with pytest.raises(UpstreamError, match="without a reason to finish"):
        chunks_of(*events)


@pytest.mark.parametrize("reason", ["content_filter", "abort", "", 7, ["stop"], {"x": 1}])
def test_other_reasons_are_no_good_end(reason: Any) -> None:
    with pytest.raises(UpstreamError, match="the server broke the answer off"):
        chunks_of(delta(reason, content="Once"))


# ---- calls ----------------------------------------------------------------------------------


def call(name: object = None, arguments: object = None, **more: object) -> dict[str, Any]:
    return {"function": {"name": name, "arguments": arguments}, **more}


CALLED = delta("tool_calls")
FIRST, SECOND = ToolCallDelta(0, "f", '{"a": 1}'), ToolCallDelta(1, "f", "{}")


@pytest.mark.parametrize(
    "events",
    [
        [[call("f", "", index=0, id="1"), call("f", "", index=1, id="2")],
         [call(arguments='{"a": 1}', index=0)], [call(arguments="{}", index=1)]],
        [[call("f", '{"a"', index=0, id="1")], [call("f", ": 1}", index=0, id="1")],
         [call("f", "{}", index=1, id="2")]],
        [[call("f", {"a": 1}, id="1"), call("f", {}, id="2")]],
        [[call("f", {"a": 1})], [call("f", {})]],
        [[call("f", '{"a": 1}', index=0, id="1")], [call("f", "{}", index=0, id="2")]],
        [[call("f", "", id="1")], [call(arguments='{"a": 1}')], [call("f", id="2")],
         [call(arguments="{}", id="2")]],
        [[call("f", '{"a": 1}', index=7)], [{"index": 7, "type": "function"}],
         [call("f", "{}", index=9)]],
    ],
)  # fmt: skip
@pytest.mark.parametrize("reason", ["tool_calls", "function_call", "stop", "length"])
def test_calls_in_the_ways_of_servers(events: list[list[Any]], reason: str) -> None:
    chunks = chunks_of(
        delta(content="Wait."), *(delta(tool_calls=calls) for calls in events), delta(reason)
    )
    deltas = [one for chunk in chunks for one in chunk.tool_calls]
    for place, whole in enumerate((FIRST, SECOND)):
        first, *others = [one for one in deltas if one.index == place]
        assert (first.name, {one.name for one in others} - {""}) == ("f", set())
        assert "".join(one.arguments for one in (first, *others)) == whole.arguments
    expected = FinishReason.LENGTH if reason == "length" else FinishReason.TOOL_CALLS
    assert (chunks[0].text, chunks[-1].finish_reason) == ("Wait.", expected)


def test_a_name_of_its_own_begins_a_call() -> None:
    parts = [call("f", "{}", index=0), call("g", "{}", index=0)]
    (chunk, _) = chunks_of(delta(tool_calls=parts), CALLED)
    assert chunk.tool_calls == (ToolCallDelta(0, "f", "{}"), ToolCallDelta(1, "g", "{}"))


def test_the_call_of_a_function_as_it_was_before_tools() -> None:
    chunks = chunks_of(
        delta(function_call={"name": "f", "arguments": ""}),
        delta(function_call={"arguments": "{}"}),
        delta("function_call"),
    )
    deltas = [one for chunk in chunks for one in chunk.tool_calls]
    assert deltas == [ToolCallDelta(0, "f"), ToolCallDelta(0, arguments="{}")]
    assert chunks[-1].finish_reason is FinishReason.TOOL_CALLS


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (delta(tool_calls=[call(arguments="{}", index=0)]), "a call without a name"),
        (delta(tool_calls=[{}]), "a call without a name"),
        (delta(tool_calls=[5]), "a call that is none"),
        (delta(tool_calls=[]), "sent no call"),
    ],
)
def test_calls_that_are_none(event: dict[str, Any], message: str) -> None:
    with pytest.raises(UpstreamError, match=message):
        chunks_of(event, CALLED)


@pytest.mark.parametrize("content", [7, ["Once"], {"type": "text"}])
def test_what_is_no_text_is_not_lost_in_silence(content: object) -> None:
    with pytest.raises(UpstreamError, match="a part that is no text"):
        chunks_of(delta(content=content), STOP)


@given(st.text(), st.data())
def test_halves_of_characters_find_each_other(text: str, data: st.DataObject) -> None:
    halves = text.encode("utf-16-le")
    units = [
        halves[at : at + 2].decode("utf-16-le", "surrogatepass") for at in range(0, len(halves), 2)
    ]
    deltas = []
    while units:
        size = data.draw(st.integers(1, 3))
        deltas.append(delta(content="".join(units[:size])))
        del units[:size]
    assert text_of(*deltas, STOP) == text


@given(st.lists(st.text(st.characters(exclude_categories=()))))
def test_a_lone_half_is_replaced(pieces: list[str]) -> None:
    text_of(*(delta(content=piece) for piece in pieces), STOP).encode()
    assert (
        text_of(delta(content="a\ud83d"), delta(content="b"), STOP) == "a\N{REPLACEMENT CHARACTER}b"
    )
    assert text_of(delta(content="a\ud83d"), STOP) == "a\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    ("event", "tokens"),
    [
        (usage(3, 2), (3, 2, 0)),
        (usage(3, 2, prompt_tokens_details=None), (3, 2, 0)),
        (usage(3, 2, prompt_tokens_details={"cached_tokens": None}), (3, 2, 0)),
        (usage(3, 2, prompt_tokens_details={"cached_tokens": 1}), (3, 2, 1)),
        (usage(3, 2, prompt_tokens_details={"cached_tokens": -1}), None),
        (usage(None, 2), None),
        (usage("40", 2), None),
        (usage(3, -1), None),
        (usage(3, 10**400), None),
        ({"usage": {"total_tokens": 5}}, None),
        ({"usage": [40, 10]}, None),
    ],
)
def test_tokens_are_taken_if_they_make_sense(
    event: dict[str, Any], tokens: tuple[int, int, int] | None
) -> None:
    cost = chunks_of(STOP, event)[-1].usage
    assert (cost and (cost.prompt_tokens, cost.completion_tokens, cost.cached_tokens)) == tokens


# ---- models ---------------------------------------------------------------------------------


def listed(*names: str, owner: str = "vllm") -> list[RemoteModel]:
    return parse_models({"data": [{"id": name, "owned_by": owner} for name in names]})


def test_what_servers_tell_of_a_model() -> None:
    meta = {"n_vocab": 49152, "n_ctx_train": 8192, "n_params": 134515008, "size": 98563584}
    vllm, llama = parse_models(
        {
            "data": [
                {"id": "a", "owned_by": "vllm", "max_model_len": 1024},
                {"id": "b", "owned_by": "llamacpp", "meta": meta},
            ]
        }
    )
    assert (vllm.name, vllm.owner, vllm.info.name, vllm.info.ctx_size) == ("a", "vllm", "a", 1024)
    assert "vllm" in vllm.info.description
    info = llama.info
    assert (info.vocab_size, info.ctx_train, info.num_parameters) == (49152, 8192, 134515008)
    assert (info.size_bytes, info.ctx_size) == (98563584, 0)


@pytest.mark.parametrize("count", [-1, True, "1024", 1.5, None, 10**400])
def test_what_can_be_no_count_is_none(count: object) -> None:
    entry = {"id": "x", "owned_by": 7, "max_model_len": count, "meta": [count]}
    (model,) = parse_models({"data": [entry]})
    assert (model.info.ctx_size, model.owner) == (0, "")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["id", "data", "x"]), inner),
    max_leaves=8,
)


@given(json_values)
def test_any_json_makes_a_list(body: object) -> None:
    assert all(model.name for model in parse_models(body))


@pytest.mark.parametrize("body", [{}, {"data": []}, {"data": [7]}, [], "models", None])
def test_no_model_is_an_error(body: object) -> None:
    with pytest.raises(UpstreamError, match="does not say what model it has"):
        only_model(parse_models(body))


def test_which_model_is_meant_where_none_is_named() -> None:
    assert only_model(listed("a")).name == "a"
    with pytest.raises(InvalidValueError, match=r"name one: m0, m1, m2, m3, m4, …$"):
        only_model(listed(*(f"m{number}" for number in range(9))))
    assert only_model(listed("b", "a", owner="llmstream")).name == "b"  # its default comes first
