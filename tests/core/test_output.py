"""From token bytes to the text of an answer, against oracles that read the whole text at once."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstream_cli.core.output import (
    Delta,
    OutputStream,
    Phase,
    ReasoningSplitter,
    ReasoningTags,
    StopMatcher,
)

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

SAMPLES = {
    "one to three bytes": "Zoë: 東京は日本の首都です。",
    "zwj sequences": "👩\u200d👩\u200d👧\u200d👦 🏳\ufe0f\u200d🌈",
    "flags and skin tones": "🇫🇷🇯🇵 👍🏽👋🏿",
    "combining marks": "e\u0301 o\u0302\u0323 ก\u0e33",
    "right to left": "\u202bשלם\u202c",
    "ends of the UTF-8 lengths": "\0\x7f\x80\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0010ffff",
    "replacement character": f"a{REPLACEMENT}b",
}
# Characters of one to four bytes, several of which begin with the same bytes.
ALPHABET = "aéè€😀😁"

# With so few letters, stop strings overlap themselves and one another all the time.
stop_lists = st.lists(st.text("ab", min_size=1, max_size=5), max_size=4)
texts = st.text("ab", max_size=25) | st.text("abc", max_size=40)


@st.composite
def cut(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """The same bytes in pieces, some of them empty."""
    borders = draw(st.lists(st.integers(0, len(data)), max_size=len(data) + 2))
    return [data[start:end] for start, end in pairwise([0, *sorted(borders), len(data)])]


def oracle(stops: Sequence[str], text: str) -> tuple[str, bool]:
    """The answer in `text`, and whether a stop string ended it."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            return text[: end - max(map(len, complete))], True
    return text, False


def run(stops: Sequence[str], pieces: Sequence[bytes]) -> tuple[str, bool]:
    output = OutputStream(stops)
    answer = "".join(delta.text for delta in [*map(output.push, pieces), output.flush()])
    return answer, output.stopped


# ---- characters -------------------------------------------------------------------------------


@pytest.mark.parametrize("text", SAMPLES.values(), ids=SAMPLES)
def test_every_cut_in_two_gives_the_text_back(text: str) -> None:
    data = text.encode()
    for border in range(len(data) + 1):
        assert run([], [data[:border], data[border:]]) == (text, False)


@given(st.data(), st.binary(max_size=40) | st.text().map(str.encode))
def test_any_bytes_decode_as_python_decodes_them_at_once(data: st.DataObject, raw: bytes) -> None:
    assert run([], data.draw(cut(raw))) == (raw.decode("utf-8", "replace"), False)


@given(st.data(), st.text(ALPHABET))
def test_a_character_comes_out_with_its_last_byte_and_not_before(
    data: st.DataObject, text: str
) -> None:
    output, pushed, emitted = OutputStream([]), b"", ""
    for piece in data.draw(cut(text.encode())):
        emitted += output.push(piece).text
        pushed += piece
        assert emitted == pushed.decode(errors="ignore")


# ---- stop strings -----------------------------------------------------------------------------


@given(
    st.data(),
    st.lists(st.text(ALPHABET, min_size=1, max_size=3), max_size=3) | stop_lists,
    st.text(ALPHABET, max_size=20) | texts,
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


@given(stop_lists, texts)
def test_only_what_could_begin_a_stop_string_is_held_back(stops: list[str], text: str) -> None:
    """What is out at any time is the beginning of every answer that the text can still become."""
    answer, _ = oracle(stops, text)
    matcher = StopMatcher(stops)
    out = ""
    for index, character in enumerate(text, 1):
        out += matcher.push(character)
        assert answer.startswith(out)
        for stop in stops:  # whichever stop string the text goes on to complete
            for length in range(1, len(stop)):
                assert oracle(stops, text[:index] + stop[length:])[0].startswith(out)
        if not matcher.stopped:
            held = text[len(out) : index]
            assert held == "" or any(
                len(stop) > len(held) and stop.startswith(held) for stop in stops
            )


@pytest.mark.parametrize(
    ("stops", "text", "answer"),
    [
        (["abcd", "bc"], "xabcd", "xa"),
        (["c", "abc"], "xabc", "x"),
        (["abc", "c"], "xabc", "x"),
        (["aab"], "aaab", "a"),
        (["a", "a"], "xa", "x"),
        (["end"], "endless", ""),
        (["é😀"], "aé😀b", "a"),
    ],
    ids=[
        "complete first wins",
        "longest of those that end together",
        "whatever their order",
        "overlaps itself",
        "given twice",
        "at the very beginning",
        "of several bytes",
    ],
)
def test_stop_strings(stops: list[str], text: str, answer: str) -> None:
    data = text.encode()
    assert run(stops, [data]) == (answer, True)
    assert run(stops, [bytes([byte]) for byte in data]) == (answer, True)


@pytest.mark.parametrize(
    ("stop", "pieces", "texts", "stopped"),
    [
        (".", [b"One. Two", b" Three.", b"\xe2"], ["One", "", "", ""], True),
        ("abc", [b"a", b"b", b"x"], ["", "", "abx", ""], False),
        ("stop!", [b"please stop"], ["please ", "stop"], False),
        ("é😀", ["é".encode() + b"\xf0\x9f\x98"], ["", f"é{REPLACEMENT}"], False),
        (f"é{REPLACEMENT}", ["aé".encode() + b"\xe2\x82"], ["a", ""], True),
    ],
    ids=[
        "nothing after it",
        "cannot become one",
        "flushed",
        "flushed before a broken character",
        "completed by the flush",
    ],
)
def test_what_is_held_back(stop: str, pieces: list[bytes], texts: list[str], stopped: bool) -> None:
    output = OutputStream([stop])
    assert [delta.text for delta in [*map(output.push, pieces), output.flush()]] == texts
    assert output.stopped == stopped


# ---- reasoning --------------------------------------------------------------------------------

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
