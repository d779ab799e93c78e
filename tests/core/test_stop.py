"""Stop strings, against an oracle that reads the whole text a character at a time."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstream_cli.core.stop import StopMatcher

# With so few letters, stop strings overlap themselves and one another all the time.
stop_lists = st.lists(st.text("ab", min_size=1, max_size=5), max_size=4)
texts = st.text("ab", max_size=25) | st.text("abc", max_size=40)


@st.composite
def cut(draw: st.DrawFn, text: str) -> list[str]:
    """The same text in pieces, some of them empty."""
    borders = draw(st.lists(st.integers(0, len(text)), max_size=len(text) + 2))
    return [text[start:end] for start, end in pairwise([0, *sorted(borders), len(text)])]


def oracle(stops: Sequence[str], text: str) -> tuple[str, bool]:
    """The answer in `text`, and whether a stop string ended it."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            return text[: end - max(map(len, complete))], True
    return text, False


def run(stops: Sequence[str], pieces: Sequence[str]) -> tuple[str, bool]:
    matcher = StopMatcher(stops)
    answer = "".join([*map(matcher.push, pieces), matcher.flush()])
    return answer, matcher.stopped


@given(st.data(), stop_lists, texts)
def test_the_answer_is_the_oracles_however_the_text_is_cut(
    data: st.DataObject, stops: list[str], text: str
) -> None:
    assert run(stops, data.draw(cut(text))) == oracle(stops, text)


@given(stop_lists, texts)
def test_one_character_at_a_time_is_the_same_as_all_at_once(stops: list[str], text: str) -> None:
    assert run(stops, text) == run(stops, [text]) == oracle(stops, text)


@given(stop_lists, texts)
def test_nothing_that_comes_out_is_ever_taken_back(stops: list[str], text: str) -> None:
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


@given(stop_lists, texts)
def test_what_is_held_back_is_shorter_than_the_longest_stop(stops: list[str], text: str) -> None:
    matcher = StopMatcher(stops)
    out = ""
    for index, character in enumerate(text, 1):
        out += matcher.push(character)
        if not matcher.stopped:
            assert index - len(out) <= max(map(len, stops), default=1) - 1


@given(stop_lists, texts)
def test_only_what_could_begin_a_stop_string_is_held_back(stops: list[str], text: str) -> None:
    matcher = StopMatcher(stops)
    out = ""
    for index, character in enumerate(text, 1):
        out += matcher.push(character)
        if not matcher.stopped:
            held = text[len(out) : index]
            assert held == "" or any(stop.startswith(held) for stop in stops)


@given(st.lists(st.text("xyz", max_size=5), max_size=10))
def test_text_without_the_start_of_a_stop_passes_at_once(pieces: list[str]) -> None:
    matcher = StopMatcher(["axyz", "bxyz"])
    assert [matcher.push(piece) for piece in pieces] == pieces


def test_without_stop_strings_everything_passes_at_once() -> None:
    matcher = StopMatcher([])
    assert [matcher.push(piece) for piece in ("a", "", "bc")] == ["a", "", "bc"]
    assert matcher.flush() == ""
    assert not matcher.stopped


def test_a_stop_string_is_found_across_every_border() -> None:
    stop, text = "<stop>", "before <stop> after"
    for border in range(len(text) + 1):
        assert run([stop], [text[:border], text[border:]]) == ("before ", True)


def test_a_stop_string_in_single_characters_lets_nothing_of_it_out() -> None:
    matcher = StopMatcher(["<stop>"])
    assert [matcher.push(character) for character in "a<stop>b"] == ["a", *[""] * 7]
    assert matcher.stopped
    assert matcher.flush() == ""


@pytest.mark.parametrize(
    ("stops", "text", "answer"),
    [
        (["abcd", "bc"], "xabcd", "xa"),
        (["bc", "abcd"], "xabcd", "xa"),
        (["c", "abc"], "xabc", "x"),
        (["abc", "c"], "xabc", "x"),
        (["aab"], "aaab", "a"),
        (["abab"], "aabab", "a"),
        (["a", "a"], "xa", "x"),
    ],
    ids=[
        "complete first wins",
        "whatever the order",
        "longest of those that end together",
        "whatever their order",
        "overlaps itself",
        "starts again inside itself",
        "given twice",
    ],
)
def test_overlapping_stop_strings(stops: list[str], text: str, answer: str) -> None:
    assert run(stops, [text]) == (answer, True)
    assert run(stops, text) == (answer, True)


def test_a_stop_at_the_very_end_is_found() -> None:
    assert run(["end"], ["the ", "en", "d"]) == ("the ", True)


def test_a_stop_at_the_very_beginning_leaves_an_empty_answer() -> None:
    assert run(["end"], ["end", "less"]) == ("", True)


def test_the_start_of_a_stop_at_the_end_is_flushed() -> None:
    matcher = StopMatcher(["stop!"])
    assert matcher.push("please stop") == "please "
    assert matcher.flush() == "stop"
    assert not matcher.stopped


def test_held_text_comes_out_as_soon_as_it_cannot_become_a_stop() -> None:
    matcher = StopMatcher(["abc"])
    assert [matcher.push(piece) for piece in ("a", "b", "x")] == ["", "", "abx"]


def test_text_after_a_stop_is_dropped() -> None:
    matcher = StopMatcher(["."])
    assert matcher.push("One. Two") == "One"
    assert matcher.push(" Three. Four") == ""
    assert matcher.flush() == ""
    assert matcher.stopped
