"""Token bytes to text: where the bytes are cut never matters."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstream_cli.core.detokenizer import REPLACEMENT, Detokenizer

SAMPLES = {
    "ascii": "Paris is the capital.",
    "accents": "Zoë, naïveté, Übergröße",
    "cjk": "東京は日本の首都です。",
    "emoji": "😀🎉",
    "zwj sequences": "👩\u200d👩\u200d👧\u200d👦 🏳\ufe0f\u200d🌈",
    "flags": "🇫🇷🇯🇵",
    "skin tones": "👍🏽👋🏿",
    "combining marks": "e\u0301 o\u0302\u0323 ก\u0e33",
    "right to left": "\u202bשלם\u202c",
    "ends of the UTF-8 lengths": "\0\x7f\x80\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0010ffff",
    "replacement character": f"a{REPLACEMENT}b",
}

text_samples = st.one_of(st.text(), st.sampled_from(sorted(SAMPLES.values())))


@st.composite
def cut(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """The same bytes in pieces, some of them empty."""
    borders = draw(st.lists(st.integers(0, len(data)), max_size=len(data) + 2))
    return [data[start:end] for start, end in pairwise([0, *sorted(borders), len(data)])]


def push_all(pieces: list[bytes]) -> str:
    detokenizer = Detokenizer()
    return "".join([*map(detokenizer.push, pieces), detokenizer.flush()])


def complete_characters(text: str, num_bytes: int) -> str:
    """The characters of `text` that its first bytes hold in full."""
    complete = ""
    for character in text:
        num_bytes -= len(character.encode())
        if num_bytes < 0:
            break
        complete += character
    return complete


@pytest.mark.parametrize("text", SAMPLES.values(), ids=SAMPLES)
def test_every_cut_in_two_gives_the_text_back(text: str) -> None:
    data = text.encode()
    for border in range(len(data) + 1):
        assert push_all([data[:border], data[border:]]) == text


@pytest.mark.parametrize("text", SAMPLES.values(), ids=SAMPLES)
def test_byte_by_byte_gives_the_text_back(text: str) -> None:
    assert push_all([bytes([byte]) for byte in text.encode()]) == text


@given(st.data(), text_samples)
def test_every_cut_in_many_gives_the_text_back(data: st.DataObject, text: str) -> None:
    assert push_all(data.draw(cut(text.encode()))) == text


@given(st.data(), text_samples)
def test_a_character_comes_out_with_its_last_byte_and_not_before(
    data: st.DataObject, text: str
) -> None:
    detokenizer = Detokenizer()
    pushed, emitted = 0, ""
    for piece in data.draw(cut(text.encode())):
        emitted += detokenizer.push(piece)
        pushed += len(piece)
        assert emitted == complete_characters(text, pushed)


@pytest.mark.parametrize("character", ["é", "€", "𝄞"])
def test_a_truncated_character_flushes_to_one_replacement_character(character: str) -> None:
    data = character.encode()
    for length in range(1, len(data)):
        detokenizer = Detokenizer()
        assert detokenizer.push(b"a" + data[:length]) == "a"
        assert detokenizer.flush() == REPLACEMENT


def test_a_complete_text_flushes_to_nothing() -> None:
    detokenizer = Detokenizer()
    assert detokenizer.push("über".encode()) == "über"
    assert detokenizer.flush() == ""


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"a\xffb", f"a{REPLACEMENT}b"),
        (b"a\x80b", f"a{REPLACEMENT}b"),
        (b"a\xe2\x82b", f"a{REPLACEMENT}b"),
        (b"a\xc0\xafb", f"a{REPLACEMENT * 2}b"),
        (b"a\xed\xa0\x80b", f"a{REPLACEMENT * 3}b"),
    ],
    ids=["no UTF-8 byte", "lone continuation", "interrupted", "overlong", "surrogate"],
)
def test_invalid_bytes_become_replacement_characters(data: bytes, text: str) -> None:
    for border in range(len(data) + 1):
        assert push_all([data[:border], data[border:]]) == text


@given(st.data(), st.binary(max_size=40))
def test_any_bytes_decode_as_python_decodes_them_at_once(data: st.DataObject, raw: bytes) -> None:
    assert push_all(data.draw(cut(raw))) == raw.decode("utf-8", "replace")
