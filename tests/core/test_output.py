"""From token bytes to text and reasoning, against oracles that read the whole text at once."""

from collections.abc import Sequence
from itertools import pairwise
from typing import AnyStr

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstream_cli.core.output import OutputStream, StopMatcher
from llmstream_cli.core.reasoning import (
    KNOWN_TAGS,
    MARKERS,
    Delta,
    HarmonySplitter,
    Phase,
    ReasoningSplitter,
    ReasoningTags,
    Splitter,
    suffix_that_begins,
)

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
ALPHABET = "aéè€😀😁"  # characters of one to four bytes, several of which begin with the same bytes

# With so few letters, stop strings overlap themselves and one another all the time.
stop_lists = st.lists(st.text("ab", min_size=1, max_size=5), max_size=4)
texts = st.text("ab", max_size=25) | st.text("abc", max_size=40)


def cut(data: st.DataObject, whole: AnyStr) -> list[AnyStr]:
    """The same text or bytes in pieces, some of them empty."""
    borders: list[int] = data.draw(st.lists(st.integers(0, len(whole)), max_size=len(whole) + 2))
    return [whole[start:end] for start, end in pairwise([0, *sorted(borders), len(whole)])]


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
    whole = b"".join(pieces).decode("utf-8", "replace")
    assert output.stopped == (output.stop_string in stops)
    assert whole.startswith(answer + output.stop_string)
    return answer, output.stopped


def joined(deltas: list[Delta]) -> Delta:
    return Delta("".join(d.text for d in deltas), "".join(d.reasoning for d in deltas))


# ---- characters and stop strings --------------------------------------------------------------


@given(st.data(), st.binary(max_size=40) | st.text().map(str.encode))
def test_any_bytes_decode_as_python_decodes_them_at_once(data: st.DataObject, raw: bytes) -> None:
    assert run([], cut(data, raw)) == (raw.decode("utf-8", "replace"), False)


@given(st.data(), st.text(ALPHABET))
def test_a_character_comes_out_with_its_last_byte_and_not_before(
    data: st.DataObject, text: str
) -> None:
    output, pushed, emitted = OutputStream([]), b"", ""
    for piece in cut(data, text.encode()):
        emitted += output.push(piece).text
        pushed += piece
        assert emitted == pushed.decode(errors="ignore")


@given(
    st.data(),
    st.lists(st.text(f"{ALPHABET}{REPLACEMENT}", min_size=1, max_size=3), max_size=3) | stop_lists,
    st.text(ALPHABET, max_size=20).map(str.encode)
    | texts.map(str.encode)
    | st.lists(st.sampled_from("é€😀".encode()), max_size=12).map(bytes),  # broken characters
)
def test_the_answer_does_not_depend_on_the_borders_of_tokens(
    data: st.DataObject, stops: list[str], raw: bytes
) -> None:
    assert run(stops, cut(data, raw)) == oracle(stops, raw.decode("utf-8", "replace"))


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
            assert matcher.stop_string == ""
            held = text[len(out) : index]
            assert held == "" or any(
                len(stop) > len(held) and stop.startswith(held) for stop in stops
            )


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


# ---- reasoning between tags -------------------------------------------------------------------

TAGS = ReasoningTags("<t>", "</t>")
WHITE_SPACE = " \t\r\n"

# Full of tags and of what almost is one.
tagged = st.lists(
    st.sampled_from(["<t>", "</t>", "<", "/", "t", ">", "</t", "\n", " ", "a", "."]), max_size=14
).map("".join)


def split(text: str, *, begins_inside: bool) -> Delta:
    """The whole text split at once."""
    bare = "<t>" + text if begins_inside else text.lstrip(WHITE_SPACE)
    if not bare.startswith("<t>"):
        return Delta(text)
    reasoning, _, answer = bare.removeprefix("<t>").partition("</t>")
    return Delta(answer.lstrip(WHITE_SPACE), reasoning.strip(WHITE_SPACE))


@given(st.data(), tagged, st.booleans())
def test_reasoning_is_told_apart_however_the_text_is_cut_and_stop_strings_mean_nothing_in_it(
    data: st.DataObject, text: str, begins_inside: bool
) -> None:
    splitter = ReasoningSplitter(TAGS, begins_inside=begins_inside)
    output = OutputStream(["."], splitter)
    deltas = [*map(output.push, cut(data, text.encode())), output.flush()]
    whole = split(text, begins_inside=begins_inside)
    answer, stopped = oracle(["."], whole.text)
    assert joined(deltas) == Delta(answer, whole.reasoning)
    assert output.stopped == stopped
    assert splitter.opened == (begins_inside or text.lstrip(WHITE_SPACE).startswith("<t>"))


@given(tagged, st.booleans())
def test_only_what_could_become_a_tag_waits(text: str, begins_inside: bool) -> None:
    """After each character, all is out but white space and the beginning of a tag."""
    splitter = ReasoningSplitter(TAGS, begins_inside=begins_inside)
    seen, phases = Delta(), [splitter.phase]
    for end, character in enumerate(text, 1):
        delta = splitter.push(character)
        assert not (seen.text and delta.reasoning)
        seen = joined([seen, delta])
        phases.append(splitter.phase)
        whole = split(text[:end], begins_inside=begins_inside)
        missing = whole.text[len(seen.text) :] + whole.reasoning[len(seen.reasoning) :]
        tag = TAGS.opening if splitter.phase is Phase.OPENING else TAGS.closing
        waiting = missing.lstrip(WHITE_SPACE)
        assert len(waiting) == suffix_that_begins(tag, waiting)
        if splitter.phase is Phase.ANSWER:
            assert not missing
    assert phases == sorted(phases)


@pytest.mark.parametrize("tags", KNOWN_TAGS)
def test_a_block_as_models_write_it(tags: ReasoningTags) -> None:
    splitter = ReasoningSplitter(tags)
    text = f"{tags.opening}\nFrance, I think.\n{tags.closing}\n\nIn {tags.opening} France."
    deltas = [splitter.push(text), splitter.flush()]
    assert joined(deltas) == Delta(f"In {tags.opening} France.", "France, I think.")


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (
            ["<", "t>", "\n", "hm", "</t", ">", "\n\n", "Yes", "."],
            [
                (Phase.OPENING, 0),
                *((Phase.REASONING, count) for count in (2, 3, 4, 5)),
                *((Phase.GAP, 6),) * 2,
                *((Phase.ANSWER, 6),) * 2,
            ],
        ),
        (["<t></t>"], [(Phase.GAP, 1)]),
        ([" <", "b>"], [(Phase.OPENING, 0), (Phase.ANSWER, 0)]),
    ],
    ids=["block", "block in one token", "no block"],
)
def test_the_tokens_up_to_the_closing_tag_are_those_of_the_reasoning(
    pieces: list[str], expected: list[tuple[Phase, int]]
) -> None:
    output, found = OutputStream([], ReasoningSplitter(TAGS)), []
    for piece in pieces:
        output.push(piece.encode())
        found.append((output.phase, output.num_reasoning_tokens))
    assert found == expected


def test_a_broken_character_at_the_end_of_the_reasoning_belongs_to_it() -> None:
    output = OutputStream([], ReasoningSplitter(TAGS, begins_inside=True))
    assert output.push(b"a\xe2\x82") == Delta(reasoning="a")
    assert output.flush() == Delta(reasoning=REPLACEMENT)


# ---- gpt-oss's channels -----------------------------------------------------------------------

TURN = "<|start|>assistant"
ANSWER = f"<|channel|>analysis<|message|>Hm: é<|end|>{TURN}<|channel|>final<|message|>Yes."
COMMENTED = (
    f"<|channel|>analysis<|message|>a<|end|>{TURN}<|channel|>commentary<|message|>b<|end|>"
    f"{TURN}<|channel|>final<|message|>c"
)


def mark(text: str) -> str:
    for token, character in MARKERS.items():
        text = text.replace(token, character)
    return text


def channels(pieces: list[str], prompt: str = TURN) -> Delta:
    splitter = HarmonySplitter({})
    splitter.skip(mark(prompt))
    return joined([*map(splitter.push, pieces), splitter.flush()])


@pytest.mark.parametrize(
    ("prompt", "text", "expected"),
    [
        (TURN, ANSWER, Delta("Yes.", "Hm: é")),
        (TURN, ANSWER + "<|return|>", Delta("Yes.", "Hm: é")),
        (TURN, "<|channel|>final<|message|>Yes.", Delta("Yes.")),
        (TURN, "<|channel|>commentary<|message|>I look.<|call|>", Delta("I look.")),
        (TURN + "<|channel|>analysis<|message|>", "Hm<|end|>", Delta("", "Hm")),
        (TURN + "<|channel|>final<|message|>It is", " so.", Delta(" so.")),
        (TURN, "Yes.", Delta("Yes.")),
        ("", "Yes.", Delta("Yes.")),
        (TURN, COMMENTED, Delta("b\n\nc", "a")),
        (
            TURN,
            " to=functions.f<|channel|>commentary<|constrain|>json<|message|>{}<|call|>",
            Delta("{}"),
        ),
    ],
)
def test_channels_are_told_apart(prompt: str, text: str, expected: Delta) -> None:
    assert channels(list(mark(text)), prompt) == channels([mark(text)], prompt) == expected


def test_a_marker_that_is_spelled_is_text() -> None:
    assert channels([mark("<|channel|>final<|message|>"), "<|end|>"]) == Delta("<|end|>")


PARTS = st.lists(st.sampled_from([*MARKERS, "analysis", "final", "assistant", "to=", "a", " "]))


@given(st.data(), PARTS.map("".join))
def test_channels_do_not_depend_on_how_the_text_is_cut(data: st.DataObject, text: str) -> None:
    text = mark(text)
    assert channels(cut(data, text)) == channels([text])


def test_the_phase_tells_where_the_answer_is() -> None:
    splitter: Splitter = HarmonySplitter({})
    splitter.push(mark(TURN))
    phases = [(splitter.push(c), splitter.phase)[1] for c in mark(ANSWER)]
    assert phases == sorted(phases)
    assert set(phases) == set(Phase)


def test_no_text_passes_for_a_mark() -> None:
    output = OutputStream([], marks={7: "\ufdd8".encode()})
    assert output.push("a\ufdd8b".encode(), 1).text == "a\N{REPLACEMENT CHARACTER}b"
    assert output.push(b"", 7).text == "\ufdd8"
