"""Token bytes to the text of an answer."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstream_cli.core.detokenizer import REPLACEMENT
from llmstream_cli.core.output import OutputStream
from tests.core.test_detokenizer import cut
from tests.core.test_stop import oracle

# Characters of one to four bytes, several of which begin with the same bytes.
ALPHABET = "aéè€😀😁"


def run(stops: Sequence[str], pieces: Sequence[bytes]) -> tuple[str, bool]:
    output = OutputStream(stops)
    answer = "".join([*map(output.push, pieces), output.flush()])
    return answer, output.stopped


@given(
    st.data(),
    st.lists(st.text(ALPHABET, min_size=1, max_size=3), max_size=3),
    st.text(ALPHABET, max_size=20),
)
def test_the_answer_does_not_depend_on_the_borders_of_tokens(
    data: st.DataObject, stops: list[str], text: str
) -> None:
    assert run(stops, data.draw(cut(text.encode()))) == oracle(stops, text)


@given(
    st.data(),
    st.lists(st.text(f"é€{REPLACEMENT}", min_size=1, max_size=3), max_size=3),
    st.lists(st.sampled_from("é€😀".encode()), max_size=12).map(bytes),
)
def test_broken_bytes_neither_raise_nor_change_what_a_stop_string_is(
    data: st.DataObject, stops: list[str], raw: bytes
) -> None:
    text = raw.decode("utf-8", "replace")
    assert run(stops, data.draw(cut(raw))) == oracle(stops, text)


@pytest.mark.parametrize("stop", ["€", "😀", "é😀", "\n用户:"])
def test_a_multibyte_stop_string_is_found_at_every_byte_border(stop: str) -> None:
    data = f"x{stop}y".encode()
    for border in range(len(data) + 1):
        assert run([stop], [data[:border], data[border:]]) == ("x", True)


def test_bytes_of_a_stop_string_never_come_out() -> None:
    output = OutputStream(["é😀"])
    pieces = [bytes([byte]) for byte in "aé😀b".encode()]
    assert [output.push(piece) for piece in pieces] == ["a", *[""] * 7]
    assert output.stopped


def test_flush_returns_the_text_that_was_held_for_a_stop_string() -> None:
    output = OutputStream(["é😀"])
    assert output.push("aé".encode()) == "a"
    assert output.flush() == "é"
    assert not output.stopped


def test_flush_returns_held_text_before_an_incomplete_character() -> None:
    output = OutputStream(["é😀"])
    assert output.push("é".encode() + "😀".encode()[:3]) == ""
    assert output.flush() == f"é{REPLACEMENT}"


def test_a_stop_string_may_be_completed_by_the_flush() -> None:
    output = OutputStream([f"é{REPLACEMENT}"])
    assert output.push("aé".encode() + b"\xe2\x82") == "a"
    assert output.flush() == ""
    assert output.stopped


def test_nothing_comes_out_after_a_stop_string() -> None:
    output = OutputStream(["."])
    assert output.push(b"One. Two") == "One"
    assert output.push(b" Three") == ""
    assert output.push("€".encode()[:1]) == ""
    assert output.flush() == ""
    assert output.stopped


def test_without_stop_strings_only_incomplete_characters_wait() -> None:
    output = OutputStream([])
    assert output.push(b"a\xe2") == "a"
    assert output.push(b"\x82") == ""
    assert output.push(b"\xacb") == "€b"
    assert output.flush() == ""
