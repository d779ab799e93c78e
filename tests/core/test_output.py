"""Token bytes to the text of an answer."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstream_cli.core.detokenizer import REPLACEMENT
from llmstream_cli.core.output import OutputStream
from llmstream_cli.core.reasoning import Delta, Phase, ReasoningSplitter, ReasoningTags
from tests.core.test_detokenizer import cut
from tests.core.test_stop import oracle

# Characters of one to four bytes, several of which begin with the same bytes.
ALPHABET = "aéè€😀😁"


def run(stops: Sequence[str], pieces: Sequence[bytes]) -> tuple[str, bool]:
    output = OutputStream(stops)
    answer = "".join(delta.text for delta in [*map(output.push, pieces), output.flush()])
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
    assert [output.push(piece).text for piece in pieces] == ["a", *[""] * 7]
    assert output.stopped


def test_flush_returns_the_text_that_was_held_for_a_stop_string() -> None:
    output = OutputStream(["é😀"])
    assert output.push("aé".encode()).text == "a"
    assert output.flush().text == "é"
    assert not output.stopped


def test_flush_returns_held_text_before_an_incomplete_character() -> None:
    output = OutputStream(["é😀"])
    assert output.push("é".encode() + "😀".encode()[:3]).text == ""
    assert output.flush().text == f"é{REPLACEMENT}"


def test_a_stop_string_may_be_completed_by_the_flush() -> None:
    output = OutputStream([f"é{REPLACEMENT}"])
    assert output.push("aé".encode() + b"\xe2\x82").text == "a"
    assert output.flush().text == ""
    assert output.stopped


def test_nothing_comes_out_after_a_stop_string() -> None:
    output = OutputStream(["."])
    assert output.push(b"One. Two").text == "One"
    assert output.push(b" Three").text == ""
    assert output.push("€".encode()[:1]).text == ""
    assert output.flush().text == ""
    assert output.stopped


def test_without_stop_strings_only_incomplete_characters_wait() -> None:
    output = OutputStream([])
    assert output.push(b"a\xe2").text == "a"
    assert output.push(b"\x82").text == ""
    assert output.push(b"\xacb").text == "€b"
    assert output.flush().text == ""


TAGS = ReasoningTags("<think>", "</think>")


@given(st.data(), st.sampled_from(["é.", "é. €", "a"]), st.sampled_from(["a. b", "€é. ", ""]))
def test_a_stop_string_means_nothing_in_the_reasoning(
    data: st.DataObject, reasoning: str, answer: str
) -> None:
    output = OutputStream(["."], ReasoningSplitter(TAGS))
    pieces = data.draw(cut(f"<think>{reasoning}</think>{answer}".encode()))
    deltas = [*map(output.push, pieces), output.flush()]
    assert "".join(delta.reasoning for delta in deltas) == reasoning
    assert ("".join(delta.text for delta in deltas), output.stopped) == oracle(["."], answer)


def test_the_tokens_up_to_the_closing_tag_are_those_of_the_reasoning() -> None:
    output = OutputStream([], ReasoningSplitter(TAGS))
    phases = []
    for piece in [b"<th", b"ink>", b"\n", b"hm", b"</think", b">", b"\n\n", b"Yes", b"."]:
        output.push(piece)
        phases.append((output.phase, output.num_reasoning_tokens))
    assert phases == [
        (Phase.OPENING, 0),
        *((Phase.REASONING, count) for count in (2, 3, 4, 5)),
        (Phase.GAP, 6),
        (Phase.GAP, 6),
        (Phase.ANSWER, 6),
        (Phase.ANSWER, 6),
    ]


def test_a_block_in_a_single_token_is_reasoning() -> None:
    output = OutputStream([], ReasoningSplitter(TAGS))
    assert output.push(b"<think></think>") == Delta()
    assert output.num_reasoning_tokens == 1


def test_an_answer_without_a_block_has_no_reasoning_tokens() -> None:
    output = OutputStream([], ReasoningSplitter(TAGS))
    assert [output.push(piece).text for piece in [b" <", b"b>"]] == ["", " <b>"]
    assert output.num_reasoning_tokens == 0


def test_a_broken_character_at_the_end_of_the_reasoning_belongs_to_it() -> None:
    output = OutputStream([], ReasoningSplitter(TAGS, begins_inside=True))
    assert output.push(b"a\xe2\x82") == Delta(reasoning="a")
    assert output.flush() == Delta(reasoning=REPLACEMENT)
