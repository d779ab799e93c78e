"""Words in rows."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstream_cli.cli.markdown.flow import Pen, Word, cells, chop, may_break, words
from llmstream_cli.cli.markdown.style import Run

SEQUENCES = re.compile(r"\x1b\[[0-9;]*m")
texts = st.text("ab  é日本。😀\t", max_size=40)
widths = st.integers(2, 20)


def flowed(text: str, width: int, *, first: str = "", rest: str = "") -> list[str]:
    """The rows of a text."""
    pen = Pen(width)
    pen.begin([Run(first)], [Run(rest)])
    pen.put_words(words([Run(text)])[0])
    return SEQUENCES.sub("", pen.text).split("\r\n")


@pytest.mark.parametrize(
    ("text", "width"),
    [("abc", 3), ("é", 1), ("e\N{COMBINING ACUTE ACCENT}", 1), ("日本", 4), ("😀", 2), ("", 0)],
)
def test_cells(text: str, width: int) -> None:
    assert cells(text) == width


@given(texts, widths)
def test_no_row_is_too_wide_and_no_character_is_lost(text: str, width: int) -> None:
    rows = flowed(text, width)
    assert all(cells(row) <= width for row in rows)
    assert "".join(rows).replace(" ", "") == "".join(text.split())


@given(texts, widths)
def test_a_row_is_as_full_as_can_be(text: str, width: int) -> None:
    rows = flowed(text, width)
    for row, following in pairwise(rows):
        first_word = words([Run(following)])[0][0]
        assert cells(row) + first_word.width + 1 > width


@given(texts, st.integers(12, 20))
def test_further_rows_begin_with_the_prefix(text: str, width: int) -> None:
    first, *others = flowed(f"x{text}", width, first="- ", rest="  ")
    assert first.startswith("- x")
    assert all(row.startswith("  ") and row.strip() for row in others)


@given(st.data(), texts)
def test_words_do_not_depend_on_how_the_text_is_split_into_runs(
    data: st.DataObject, text: str
) -> None:
    border = data.draw(st.integers(0, len(text)))
    together, space = words([Run(text)])
    apart, other_space = words([Run(text[:border]), Run(text[border:])])

    def plain(found: list[Word]) -> list[tuple[str, int, bool]]:
        return [("".join(run.text for run in w.runs), w.width, w.spaced) for w in found]

    assert plain(together) == plain(apart)
    assert space == other_space


@pytest.mark.parametrize("width", [0, 1])
def test_an_accent_stays_with_its_letter_however_narrow_a_row_is(width: int) -> None:
    accent = "\N{COMBINING ACUTE ACCENT}"
    assert list(chop(f"e{accent}{accent}a", width, width)) == [f"e{accent}{accent}", "a"]


@given(st.text("a日é。", max_size=20), st.integers(2, 9), st.integers(2, 9))
def test_parts_are_as_long_as_they_may_be(text: str, width: int, first_width: int) -> None:
    parts = list(chop(text, width, first_width))
    assert "".join(parts) == text
    limits = [first_width, *[width] * len(parts)]
    for part, following, limit in zip(parts, [*parts[1:], ""], limits, strict=False):
        assert cells(part) <= limit
        assert not following or cells(part + following[0]) > limit


@pytest.mark.parametrize(
    ("text", "breaks"), [("a b", [2]), ("日本", [1]), ("日。本", [2]), ("a日b", []), ("ab", [])]
)
def test_where_a_row_may_be_broken(text: str, breaks: list[int]) -> None:
    assert [place for place in range(1, len(text)) if may_break(text, place)] == breaks


def test_a_style_ends_with_its_text() -> None:
    pen = Pen(20)
    pen.put_words(words([Run("a b", "1"), Run("c")])[0])
    assert pen.text == "\x1b[1ma\x1b[m \x1b[1mb\x1b[mc"
    assert pen.column == 4


def test_a_fork_goes_on_where_the_pen_is_and_leaves_it_there() -> None:
    pen = Pen(10)
    pen.put_words(words([Run("one two")])[0])
    fork = pen.fork()
    fork.put_words(words([Run("three")], spaced=True)[0])
    assert (fork.text, fork.num_breaks, fork.column) == ("\r\nthree", 1, 5)
    assert (pen.text, pen.column) == ("one two", 7)
