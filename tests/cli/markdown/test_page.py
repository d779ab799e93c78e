"""A text that grows: what it looks like, and that this is the same however it comes."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstream_cli.cli.markdown import page as page_module
from llmstream_cli.cli.markdown.flow import Pen
from llmstream_cli.cli.markdown.page import Page
from llmstream_cli.cli.markdown.style import Palette
from tests.cli.markdown.texts import cut, documents

SEQUENCES = re.compile(r"\x1b\[[0-9;]*m")

ANSWER = """\
# Three cities

Here are **three cities** in France, with what they are *known* for. See `cities.py` and \
[the guide](https://example.org/guide) for more.

1. **Paris**: the capital, on the river Seine, with more museums than anybody can see.
2. Lyon
   - food
   - silk

> The heart of a city is not its centre
> but its people.

| City | People |
|------|-------:|
| Paris | 2,100,000 |
| Lyon | 520,000 |

```python
def area(radius: float) -> float:
    return 3.14159 * radius**2  # in the unit of the radius
```
---
Done: 5 * 3 = 15, snake_case and a_b_c stay.
"""

AT_80 = """\
Three cities

Here are three cities in France, with what they are known for. See cities.py
and the guide (https://example.org/guide) for more.

1. Paris: the capital, on the river Seine, with more museums than anybody can
   see.
2. Lyon
   • food
   • silk

│ The heart of a city is not its centre
│ but its people.

City      People
─────  ─────────
Paris  2,100,000
Lyon     520,000

```python
def area(radius: float) -> float:
    return 3.14159 * radius**2  # in the unit of the radius
```
────────────────────────────────────────
Done: 5 * 3 = 15, snake_case and a_b_c stay.
"""

AT_40 = """\
Three cities

Here are three cities in France, with
what they are known for. See cities.py
and the guide
(https://example.org/guide) for more.

1. Paris: the capital, on the river
   Seine, with more museums than
   anybody can see.
2. Lyon
   • food
   • silk

│ The heart of a city is not its centre
│ but its people.

City      People
─────  ─────────
Paris  2,100,000
Lyon     520,000

```python
def area(radius: float) -> float:
    return 3.14159 * radius**2  # in the unit of the radius
```
───────────────────────────────────────
Done: 5 * 3 = 15, snake_case and a_b_c
stay.
"""


def styled(pieces: list[str], columns: int, palette: Palette | None = None) -> str:
    """All that is written, with its styles, of a text in pieces."""
    page = Page(palette or Palette(), Pen(columns - 1))
    for piece in pieces:
        page.write(piece)
        page.fork().end()  # as it is done to show what is not certain
    page.end()
    return page.pen.text


def shown(text: str, columns: int) -> str:
    return SEQUENCES.sub("", styled([text], columns)).replace("\r\n", "\n")


@pytest.mark.parametrize(("columns", "expected"), [(80, AT_80), (40, AT_40)])
def test_a_typical_answer(columns: int, expected: str) -> None:
    assert shown(ANSWER, columns) == expected


@given(st.data(), documents, st.sampled_from([6, 12, 40, 80, 200]))
def test_what_is_written_does_not_depend_on_how_the_text_came(
    data: st.DataObject, text: str, columns: int
) -> None:
    assert styled(data.draw(cut(text)), columns) == styled([text], columns)


@given(st.data(), st.lists(st.sampled_from([*ANSWER.split(" "), ANSWER])).map(" ".join))
def test_nor_does_it_where_all_limits_are_passed(data: st.DataObject, text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page_module, "_SEGMENT_CHARS", 20)
        patch.setattr(page_module, "_SEGMENT_END_CHARS", 6)
        patch.setattr(page_module, "_LONG_WORD", re.compile(r"[!-~]{12}"))
        patch.setattr(page_module, "_MAX_CODE_CHARS", 10)
        patch.setattr(page_module, "_MAX_TABLE_CHARS", 30)
        assert styled(data.draw(cut(text)), 40) == styled([text], 40)


@given(documents, st.integers(0, 40))
def test_a_draft_leaves_the_page_as_it_is(text: str, border: int) -> None:
    page, other = (Page(Palette(), Pen(39)) for _ in range(2))
    for one in (page, other):
        one.write(text[:border])
    draft = page.fork()
    draft.write("`` * | - **\n| a |\n|---|\n")
    draft.end()
    for one in (page, other):
        one.write(text[border:])
        one.end()
    assert page.pen.text == other.pen.text


def test_blank_lines_are_one_empty_row_between_blocks() -> None:
    assert shown("\n\na\n\n\n\nb\nc\n\n", 40) == "a\n\nb\nc\n"


def test_a_line_ends_where_it_was_ended() -> None:
    assert shown("roses are red\nviolets are blue", 40) == "roses are red\nviolets are blue\n"


def test_text_behind_bars_is_a_table_only_with_a_line_below() -> None:
    assert shown("| a | **b** |\n\ntext", 40) == "| a | b |\n\ntext\n"
    assert shown("| a |\n| b |\n|---|\n| c |", 40) == "| a |\nb\n─\nc\n"


def test_a_table_in_a_list() -> None:
    assert shown("- | a |\n  |---|\n  | b |\n- c", 40) == "• a\n  ─\n  b\n• c\n"


def test_a_long_table_keeps_the_columns_it_began_with() -> None:
    rows = [f"| {number} | row |" for number in range(200)]
    page = Page(Palette(), Pen(39))
    page.write("\n".join(["| # | name |", "|--:|---|", *rows, "| 200 | longer than all rows |\n"]))
    page.end()
    *_, last, end = SEQUENCES.sub("", page.pen.text).split("\r\n")
    assert (last.strip(), end) == ("rows", "")
    assert page.pen.text.count("row") == 201


def test_a_line_of_code_is_broken_by_the_terminal_alone() -> None:
    assert shown("```\n" + "x" * 100 + "\n```", 40) == "```\n" + "x" * 100 + "\n```\n"
    assert shown("    " + "x" * 1000, 40) == "x" * 1000 + "\n"


def test_a_word_without_end_is_written_before_it_ends() -> None:
    page = Page(Palette(), Pen(39))
    page.write("x" * 10_000)
    assert page.pen.text.replace("\r\n", "").count("x") >= 9000


def test_markup_that_never_ends_is_written_before_it_ends() -> None:
    page = Page(Palette(), Pen(39))
    page.write("**one " * 2000)
    assert page.pen.text.count("one") >= 1500


def test_margins_leave_room_for_text() -> None:
    text = "> " * 10 + "- one two"
    assert all(len(row) <= 19 for row in shown(text, 20).split("\n"))
    assert "• one" in shown(text, 20)


def test_without_colour_and_unicode_there_is_neither() -> None:
    text = styled([ANSWER], 80, Palette(color=False, unicode=False))
    assert text.isascii()
    assert set(re.findall(r"\x1b\[([0-9;]*)m", text)) <= {"", "1", "1;4", "1;2", "2", "3", "4"}
    assert "`cities.py`" in text
