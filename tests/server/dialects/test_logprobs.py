"""Log probabilities come out with their text, whatever holds it back."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from llmstream_cli.api import DrawnLogprob
from llmstream_cli.core.output import OutputStream
from llmstream_cli.server.dialects.logprobs import AlignedLogprobs, LocatedLogprob, finite_logprob
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
def test_a_stream_lets_out_the_same_as_the_whole_answer(
    data: st.DataObject, text: str, stops: list[str]
) -> None:
    chunks = answer(data.draw(cut(text)), stops)
    aligned = AlignedLogprobs()
    assert [one for chunk in chunks for one in aligned.push(*chunk)] == whole(chunks)[1]


@given(st.data(), texts, stop_lists)
def test_the_tokens_let_out_cover_the_text_and_begin_in_it(
    data: st.DataObject, text: str, stops: list[str]
) -> None:
    pieces = data.draw(cut(text))
    out, located = whole(answer(pieces, stops))
    covered = b"".join(one.logprob.drawn.piece for one in located)
    assert covered.startswith(out.encode())
    assert [one.logprob.drawn.piece for one in located] == pieces[: len(located)]
    assert all(one.text_offset < len(out) or not one.logprob.drawn.piece for one in located)


@given(st.data(), texts)
def test_an_offset_is_that_of_the_tokens_first_character(data: st.DataObject, text: str) -> None:
    pieces = data.draw(cut(text))
    before = b""
    for one in whole(answer(pieces, []))[1]:
        assert one.text_offset == len(before.decode(errors="ignore"))
        before += one.logprob.drawn.piece


@given(st.data(), texts, stop_lists)
def test_nothing_comes_before_its_text(data: st.DataObject, text: str, stops: list[str]) -> None:
    aligned, out = AlignedLogprobs(), ""
    for new, logprobs in answer(data.draw(cut(text)), stops):
        out += new
        for one in aligned.push(new, logprobs):
            assert one.text_offset < len(out) or not one.logprob.drawn.piece


def test_the_tokens_of_a_stop_string_never_come() -> None:
    chunks = answer([b"one", b" <", b"stop", b">"], [" <stop>"])
    text, located = whole(chunks)
    assert text == "one"
    assert [one.logprob.drawn.piece for one in located] == [b"one"]


def test_an_unfinished_character_at_the_end_comes_with_its_replacement() -> None:
    text, located = whole(answer([b"a", b"\xe2\x82"], []))
    assert text == "a\N{REPLACEMENT CHARACTER}"
    assert [one.text_offset for one in located] == [0, 1]


def test_an_impossible_token_has_the_least_logprob_that_json_can_hold() -> None:
    assert finite_logprob(float("-inf")) == -9999.0
    assert finite_logprob(-1.5) == -1.5
