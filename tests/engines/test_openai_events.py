"""Server-sent events, however a stream is cut."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstream_cli.engines import openai_format
from llmstream_cli.engines.openai_format import EventStream
from llmstream_cli.errors import UpstreamError

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


@given(streams())
def test_a_stream_that_comes_byte_by_byte(stream: tuple[bytes, list[bytes]]) -> None:
    data, events = stream
    assert fed(*(bytes([byte]) for byte in data)) == events


@given(st.binary(), st.lists(st.integers(0)))
def test_any_bytes_give_the_same_events_however_they_are_cut(data: bytes, cuts: list[int]) -> None:
    assert fed(*cut(data, cuts)) == fed(data)


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: 1\n\ndata: 2\n\n", [b"1", b"2"]),
        (b"data:1\r\n\r\ndata:  2\r\r", [b"1", b" 2"]),
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b"data\n\n", [b""]),
        (b"event: done\n\n", []),
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
def test_an_event_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch, part: bytes) -> None:
    monkeypatch.setattr(openai_format, "MAX_EVENT_BYTES", 1 << 20)
    with pytest.raises(UpstreamError, match="an event over 1 MiB"):
        fed(*[part] * (1 << 21))


def test_events_of_any_number_go_through() -> None:
    stream = EventStream()
    event = b"data: " + b"x" * 1000 + b"\n\n"
    assert sum(len(stream.feed(event)) for _ in range(3000)) == 3000
