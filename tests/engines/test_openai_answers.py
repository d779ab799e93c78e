"""Another server's events as chunks, with the liberties that servers take."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstream_cli.api import Chunk, FinishReason, Usage
from llmstream_cli.engines.openai_format import RemoteAnswer, reported_tokens
from llmstream_cli.errors import UpstreamError

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
        {"usage": None},
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
        (usage(3, 2), (3, 2, None)),
        (usage(3, 2, prompt_tokens_details=None), (3, 2, None)),
        (usage(3, 2, prompt_tokens_details={"cached_tokens": None}), (3, 2, None)),
        (usage(3, 2, prompt_tokens_details={"cached_tokens": 1}), (3, 2, 1)),
        (usage(3, 2, prompt_tokens_details={"cached_tokens": -1}), None),
        (usage(None, 2), None),
        (usage("40", 2), None),
        (usage(3, -1), None),
        (usage(3, 10**400), None),
        ({"usage": {"total_tokens": 5}}, None),
        ({"usage": [40, 10]}, None),
        ({}, None),
    ],
)
def test_tokens_are_taken_if_they_make_sense(
    event: dict[str, Any], tokens: tuple[int, int, int | None] | None
) -> None:
    assert reported_tokens(event) == tokens
