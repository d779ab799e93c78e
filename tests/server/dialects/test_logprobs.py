"""Log probabilities come out with their text, whatever holds it back."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from llmstream_cli.api import DrawnLogprob
from llmstream_cli.core.output import OutputStream
from llmstream_cli.server.dialects.logprobs import AlignedLogprobs, LocatedLogprob
from tests.server.scripted import logprob

texts = st.text("abé€\U0001f642", max_size=12)
stop_lists = st.lists(st.text("abé", min_size=1, max_size=3), max_size=2)


@st.composite
def cut(draw: st.DrawFn, text: str) -> list[bytes]:
    """The bytes of a text in pieces, some of them empty, some parts of a character."""
    data = text.encode()
    borders = draw(st.lists(st.integers(0, len(data)), max_size=len(data) + 2))
    return [data[start:end] for start, end in pairwise([0, *sorted(borders), len(data)])]


def answer(pieces: list[bytes], stops: list[str]) -> list[tuple[str, list[DrawnLogprob]]]:
    """What an engine's chunks would bring, one for each token."""
    output = OutputStream(stops)
    chunks = []
    for piece in pieces:
        chunks.append((output.push(piece).text, [logprob(piece)]))
        if output.stopped:
            return chunks
    return [*chunks, (output.flush().text, [])]


def whole(chunks: list[tuple[str, list[DrawnLogprob]]]) -> tuple[str, list[LocatedLogprob]]:
    text = "".join(text for text, _ in chunks)
    return text, AlignedLogprobs().push(text, [one for _, some in chunks for one in some])


@given(st.data(), texts, stop_lists)
def test_a_stream_lets_out_the_tokens_that_cover_its_text_and_none_before(
    data: st.DataObject, text: str, stops: list[str]
) -> None:
    pieces = data.draw(cut(text))
    chunks = answer(pieces, stops)
    aligned, out, streamed = AlignedLogprobs(), "", list[LocatedLogprob]()
    for new, logprobs in chunks:
        out += new
        found = aligned.push(new, logprobs)
        assert all(one.text_offset < len(out) or not one.logprob.drawn.piece for one in found)
        streamed += found
    assert (out, streamed) == whole(chunks)
    assert [one.logprob.drawn.piece for one in streamed] == pieces[: len(streamed)]
    assert b"".join(pieces[: len(streamed)]).startswith(out.encode())


@given(st.data(), texts)
def test_an_offset_is_that_of_the_tokens_first_character(data: st.DataObject, text: str) -> None:
    before = b""
    for one in whole(answer(data.draw(cut(text)), []))[1]:
        assert one.text_offset == len(before.decode(errors="ignore"))
        before += one.logprob.drawn.piece


def test_the_tokens_of_a_stop_string_never_come() -> None:
    text, located = whole(answer([b"one", b" <", b"stop", b">"], [" <stop>"]))
    assert (text, [one.logprob.drawn.piece for one in located]) == ("one", [b"one"])


def test_an_unfinished_character_at_the_end_comes_with_its_replacement() -> None:
    text, located = whole(answer([b"a", b"\xe2\x82"], []))
    assert text == "a\N{REPLACEMENT CHARACTER}"
    assert [one.text_offset for one in located] == [0, 1]


def test_offsets_count_from_the_text_where_white_space_before_it_was_dropped() -> None:
    aligned = AlignedLogprobs()
    assert aligned.push("", [logprob(b"\n\n")]) == []
    tokens = aligned.push("Yes.", [logprob(b"Yes"), logprob(b".")])
    tokens += aligned.push(" No", [logprob(b" No")])
    assert [one.text_offset for one in tokens] == [0, 0, 3, 4]
