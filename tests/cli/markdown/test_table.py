"""Columns that fit."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstream_cli.cli.markdown.flow import Pen, cells
from llmstream_cli.cli.markdown.style import Palette
from llmstream_cli.cli.markdown.table import Table, is_delimiter, put_row, put_rule, split_row

SEQUENCES = re.compile(r"\x1b\[[0-9;]*m")


def drawn(rows: list[str], width: int) -> list[str]:
    """The rows of a table in so many columns of a terminal."""
    header, delimiter, *sources = rows
    table = Table(header, delimiter, Palette())
    for source in sources:
        table.add(source)
    columns = table.columns(width)
    pen = Pen(width)
    for index, row in enumerate(table.rows):
        pen.begin([], [])
        put_row(pen, row, columns, Palette())
        if index == 0 and columns is not None:
            put_rule(pen, columns, Palette())
    return SEQUENCES.sub("", pen.text).split("\r\n")


CITIES = [
    "| City | People | Known for |",
    "|:--|--:|---|",
    "| Paris | 2,100,000 | the **tower** and its museums |",
    "| Lyon | 520,000 | food |",
]


def test_columns_as_wide_as_their_cells() -> None:
    assert drawn(CITIES, 80) == [
        "City      People  Known for",
        "─────  ─────────  ─────────────────────────",
        "Paris  2,100,000  the tower and its museums",
        "Lyon     520,000  food",
    ]


def test_the_widest_column_gives_way_first() -> None:
    assert drawn(CITIES, 30) == [
        "City      People  Known for",
        "─────  ─────────  ────────────",
        "Paris  2,100,000  the tower",
        "                  and its",
        "                  museums",
        "Lyon     520,000  food",
    ]


def test_without_room_for_columns_cells_follow_each_other() -> None:
    assert drawn(CITIES, 14) == [
        "City │ People",
        "│ Known for",
        "Paris │",
        "2,100,000 │",
        "the tower and",
        "its museums",
        "Lyon │ 520,000",
        "│ food",
    ]


def test_a_row_has_as_many_cells_as_the_header() -> None:
    assert drawn(["| a | b |", "|---|---|", "| c |", "| d | e | f |", "||"], 40) == [
        "a  b",
        "─  ─",
        "c",
        "d  e",
        "",
    ]


@given(
    st.lists(st.lists(st.text("ab 日", max_size=12), min_size=3, max_size=3), max_size=5),
    st.integers(16, 40),
)
def test_no_row_is_too_wide_and_no_word_is_lost(rows: list[list[str]], width: int) -> None:
    sources = ["|" + "|".join(row) + "|" for row in rows]
    found = drawn(["|x|y|z|", "|-|-|-|", *sources], width)
    assert all(cells(row) <= width for row in found)
    shown = sorted("".join(found).replace(" ", "").replace("─", ""))
    assert shown == sorted("xyz" + "".join("".join(row).replace(" ", "") for row in rows))


@pytest.mark.parametrize(
    ("source", "texts"),
    [
        ("| a | b |", ["a", "b"]),
        ("|a|b", ["a", "b"]),
        ("| a \\| b | c |", ["a | b", "c"]),
        ("| a | b \\|", ["a", "b |"]),
        ("|", [""]),
    ],
)
def test_cells_of_a_row(source: str, texts: list[str]) -> None:
    assert split_row(source) == texts


@pytest.mark.parametrize(
    ("delimiter", "expected"),
    [
        ("|---|:-:|", True),
        ("| - | -: |", True),
        ("|---|", False),
        ("|---|--- x|", False),
        ("|---||", False),
    ],
)
def test_what_makes_a_line_a_header(delimiter: str, expected: bool) -> None:
    assert is_delimiter(delimiter, "| a | b |") == expected
