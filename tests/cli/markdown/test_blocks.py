"""What each line is."""

import pytest
from hypothesis import given

from llmstream_cli.cli.markdown.blocks import (
    BlockState,
    Fence,
    Item,
    Kind,
    Leaf,
    Line,
    Quote,
    is_settled,
    read_line,
)
from tests.cli.markdown.texts import documents


def read(text: str) -> list[Line]:
    state, lines = BlockState(), []
    for source in text.split("\n"):
        state, line = read_line(state, source)
        lines.append(line)
    return lines


def outline(text: str) -> list[tuple[str, str, str]]:
    """Of each line its containers, its kind, and its text."""
    return [
        (
            "".join(">" if isinstance(one, Quote) else one.marker for one in line.containers),
            line.kind.name.lower(),
            line.text,
        )
        for line in read(text)
    ]


@pytest.mark.parametrize(
    ("source", "kind", "text"),
    [
        ("", Kind.BLANK, ""),
        ("   ", Kind.BLANK, ""),
        ("word", Kind.TEXT, "word"),
        ("# One", Kind.HEADING, "One"),
        ("## Two ##", Kind.HEADING, "Two"),
        ("# C#", Kind.HEADING, "C#"),
        ("#tag", Kind.TEXT, "#tag"),
        ("####### seven", Kind.TEXT, "####### seven"),
        ("---", Kind.RULE, ""),
        ("* * *", Kind.RULE, ""),
        ("--", Kind.TEXT, "--"),
        ("```", Kind.FENCE, "```"),
        ("~~~ sql", Kind.FENCE, "~~~ sql"),
        ("```x``` y", Kind.TEXT, "```x``` y"),
        ("    x = 1", Kind.CODE, "x = 1"),
        ("\tx = 1", Kind.CODE, "x = 1"),
        ("| a | b |", Kind.TABLE, "| a | b |"),
        ("a | b", Kind.TEXT, "a | b"),
        ("1990. Then", Kind.TEXT, "Then"),
        ("1234567890. x", Kind.TEXT, "1234567890. x"),
        ("\N{ARABIC-INDIC DIGIT ONE}. x", Kind.TEXT, "\N{ARABIC-INDIC DIGIT ONE}. x"),
    ],
)
def test_a_line_on_its_own(source: str, kind: Kind, text: str) -> None:
    (line,) = read(source)
    assert (line.kind, line.text) == (kind, text)


def test_the_level_of_a_heading() -> None:
    assert [line.level for line in read("# a\n### b\n###### c\nd")] == [1, 3, 6, 0]


def test_items_and_what_is_in_them() -> None:
    assert outline("- a\n  b\n\n  c\n- d\n\ne") == [
        ("-", "text", "a"),
        ("-", "text", "b"),
        ("-", "blank", ""),
        ("-", "text", "c"),
        ("-", "text", "d"),
        ("-", "blank", ""),
        ("", "text", "e"),
    ]


def test_items_in_items() -> None:
    assert outline("1. a\n   - b\n     - c\n2. d") == [
        ("1.", "text", "a"),
        ("1.-", "text", "b"),
        ("1.--", "text", "c"),
        ("2.", "text", "d"),
    ]


def test_an_item_that_is_indented_too_little_is_in_the_one_above() -> None:
    assert outline("1. a\n  - b\n  - c\n2. d") == [
        ("1.", "text", "a"),
        ("1.-", "text", "b"),
        ("1.-", "text", "c"),
        ("2.", "text", "d"),
    ]


def test_several_items_may_begin_on_a_line() -> None:
    (line,) = read("- 1. a")
    assert line.containers == (Item("-", 0, 2), Item("1.", 0, 3))
    assert line.num_new == 2


def test_a_quotation() -> None:
    assert outline("> a\n> - b\nc\n\nd") == [
        (">", "text", "a"),
        (">-", "text", "b"),
        (">-", "text", "c"),  # a lazy continuation
        ("", "blank", ""),
        ("", "text", "d"),
    ]


def test_a_paragraph_is_not_interrupted_by_what_only_looks_like_an_item() -> None:
    assert outline("in the year\n1990. Then\n-\n1. a") == [
        ("", "text", "in the year"),
        ("", "text", "1990. Then"),
        ("", "text", "-"),
        ("1.", "text", "a"),
    ]


def test_code_is_as_it_is_until_its_fence() -> None:
    lines = read("````md\n# a\n```\n\n  b\n````\n# c")
    assert [(line.kind, line.text) for line in lines] == [
        (Kind.FENCE, "````md"),
        (Kind.CODE, "# a"),
        (Kind.CODE, "```"),
        (Kind.CODE, ""),
        (Kind.CODE, "  b"),
        (Kind.FENCE, "````"),
        (Kind.HEADING, "c"),
    ]


def test_code_in_an_item_loses_the_items_indentation_if_it_has_it() -> None:
    lines = outline("- ```py\n  x\n    y\nz\n  ```\n- a")
    assert lines == [
        ("-", "fence", "```py"),
        ("-", "code", "x"),
        ("-", "code", "  y"),
        ("-", "code", "z"),
        ("-", "fence", "```"),
        ("-", "text", "a"),
    ]


def test_code_ends_with_its_quotation() -> None:
    assert outline("> ```\n> x\ny")[-2:] == [(">", "code", "x"), ("", "text", "y")]


def test_the_language_is_the_first_word_behind_the_fence() -> None:
    state, _ = read_line(BlockState(), "```Python title=x")
    assert state.leaf == Fence("```", 0, "Python")
    state, _ = read_line(BlockState(), "```")
    assert state.leaf == Fence("```", 0, "")


def test_nesting_is_bounded() -> None:
    (line,) = read("> " * 1000 + "a")
    assert len(line.containers) == 16
    assert line.text.endswith("a")


@given(documents)
def test_a_settled_line_stays_what_it_is(text: str) -> None:
    state = BlockState()
    for source in text.split("\n"):
        after, whole = read_line(state, source)
        for end in range(1, len(source)):
            so_far = source[:end]
            state_so_far, line = read_line(state, so_far)
            has_word = line.text != "" and so_far[-1] in " \t"
            if is_settled(line, has_word=has_word):
                assert state_so_far == after
                assert whole.kind is Kind.TEXT
                assert whole.text.startswith(line.text)
                assert (whole.containers, whole.num_new) == (line.containers, line.num_new)
        state = after


def test_a_paragraph_is_open_and_a_heading_is_not() -> None:
    assert read_line(BlockState(), "a")[0].leaf is Leaf.PARAGRAPH
    assert read_line(BlockState(), "# a")[0].leaf is Leaf.NONE
