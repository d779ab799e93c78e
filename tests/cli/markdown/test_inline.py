"""Markup inside a line, and where a line may be cut before it is complete."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmstream_cli.cli.markdown.inline import certain_chars, read_inline
from llmstream_cli.cli.markdown.style import Palette, Run
from tests.cli.markdown.texts import pieces

PLAIN = Palette(color=False)


def styled(text: str) -> list[tuple[str, str]]:
    """Each character with its style."""
    return [
        (character, run.style) for run in read_inline(text, Palette()) for character in run.text
    ]


@settings(max_examples=1000)
@given(pieces)
def test_what_is_certain_means_the_same_alone_and_with_all_that_can_follow(text: str) -> None:
    whole = styled(text)
    for end in range(len(text) + 1):
        count = certain_chars(text[:end])
        assert styled(text[:count]) + styled(text[count:]) == whole


@given(st.text("ab c日本。", max_size=20))
def test_in_plain_text_all_but_the_last_word_is_certain(text: str) -> None:
    rest = text[certain_chars(text) :]
    assert len(rest.split()) <= 1
    assert not rest.strip(" 日本。") or " " not in rest


@pytest.mark.parametrize(
    ("text", "certain"),
    [
        ("one two", "one "),
        ("one **two three", "one "),
        ("one **two three** four", "one **two three** "),
        ("one **two three** ", "one **two three** "),
        ("one `two three", "one "),
        ("see [the guide](http://a.b/c", "see "),
        ("see [the guide](http://a.b/c) ", "see [the guide](http://a.b/c) "),
        ("a list[0] of 2 * 3 things", "a list[0] of 2 * 3 "),
        ("snake_case_name and x", "snake_case_name and "),
        ("日本語", "日本"),
        ("日本語。", "日本"),
        ("日本**語", "日"),
    ],
)
def test_how_much_is_certain(text: str, certain: str) -> None:
    assert text[: certain_chars(text)] == certain


@pytest.mark.parametrize(
    ("text", "runs"),
    [
        ("plain", [Run("plain")]),
        ("**b** *i* ~~s~~", [Run("b", "1"), Run(" "), Run("i", "3"), Run(" "), Run("s", "9")]),
        ("**b *both***", [Run("b ", "1"), Run("both", "1;3")]),
        ("`x`", [Run("x", "36")]),
        ("**`x`**", [Run("x", "1;36")]),
        ("a <b> &amp; \\*", [Run("a <b> & *")]),
        ("[a](http://b)", [Run("a", "4"), Run(" ("), Run("http://b", "2"), Run(")")]),
        ("<http://b>", [Run("http://b", "4")]),
        ("<a@b.c>", [Run("a@b.c", "4")]),
        ("![alt](x.png)", [Run("alt", "3"), Run(" ("), Run("x.png", "2"), Run(")")]),
        ("[a](javascript:b)", [Run("[a](javascript:b)")]),
        ("[a]", [Run("[a]")]),
        ("2 * 3 * 4", [Run("2 * 3 * 4")]),
    ],
)
def test_markup_becomes_styles(text: str, runs: list[Run]) -> None:
    assert [run for run in read_inline(text, Palette()) if run.text] == runs


def test_without_colour_code_keeps_its_backticks() -> None:
    assert read_inline("`x`", PLAIN) == [Run("`x`")]
