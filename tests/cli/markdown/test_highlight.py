"""Code in colours, a line at a time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstream_cli.cli.markdown.highlight import Highlighter
from llmstream_cli.cli.markdown.style import Palette, Run


def lines(language: str, *texts: str, palette: Palette | None = None) -> list[list[Run]]:
    highlighter = Highlighter(language, palette or Palette())
    return [highlighter.line(text, complete=True) for text in texts]


def test_keywords_strings_and_comments_have_colours() -> None:
    (runs,) = lines("python", "return 'a'  # b")
    styles = {run.text: run.style for run in runs}
    assert styles["return"] == "35"
    assert styles["'"] == "32"
    assert styles["# b"] == "2"


def test_what_is_open_at_the_end_of_a_line_goes_on_in_the_next() -> None:
    first, second, third = lines("python", 'x = """one', "return", '"""; return')
    assert first[-1] == Run("one", "32")
    assert second == [Run("return", "32")]
    assert third[-1] == Run("return", "35")


def test_an_unfinished_line_changes_nothing_for_the_next() -> None:
    highlighter = Highlighter("python", Palette())
    highlighter.line('x = """', complete=False)
    assert highlighter.line("return", complete=True) == [Run("return", "35")]


@pytest.mark.parametrize("language", ["", "no such language", "../x", "text"])
def test_a_language_that_is_unknown_or_has_no_rules_has_no_colours(language: str) -> None:
    (runs,) = lines(language, "return 'a'")
    assert "".join(run.text for run in runs) == "return 'a'"
    assert not any(run.style for run in runs)


def test_without_colours_there_are_none() -> None:
    assert lines("python", "return", palette=Palette(color=False)) == [[Run("return")]]


def test_a_line_that_is_too_long_has_no_colours() -> None:
    assert lines("python", "return " * 100) == [[Run("return " * 100)]]


LANGUAGES = ["python", "c", "rust", "bash", "json", "html", "yaml", "sql", "diff", "toml", "php"]
LANGUAGES += ["javascript", "markdown", "make", "console", "jinja", "ruby", "go", "css", "xml"]


@pytest.mark.parametrize("language", LANGUAGES)
@given(st.lists(st.text("a1 \t\"'`/*#<>{}()[]:=-+$%&\\é", max_size=20), max_size=4))
def test_no_character_is_lost(language: str, texts: list[str]) -> None:
    for text, runs in zip(texts, lines(language, *texts), strict=True):
        assert "".join(run.text for run in runs) == text
