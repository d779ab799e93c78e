"""Lines from a pipe, and text between triple quotes."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstream_cli.cli.chat import lines
from llmstream_cli.cli.chat.lines import PipedLines, is_open, without_quotes
from llmstream_cli.errors import InvalidValueError


def read_all(data: bytes) -> list[str]:
    source, found = PipedLines(io.BytesIO(data)), list[str]()
    while True:
        try:
            found.append(source.read())
        except EOFError:
            return found


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"one\ntwo", ["one", "two"]),
        (b"one\r\n\n  two \n", ["one", "", "  two "]),
        (b"\xef\xbb\xbfone\n", ["one"]),
        (b'"""a\n\nb"""\nc\n', ['"""a\n\nb"""', "c"]),
        (b'"""one line"""\nc\n', ['"""one line"""', "c"]),
        (b'"""\na\n"""\n', ['"""\na\n"""']),
        (b'"""never\nclosed\n', ['"""never\nclosed']),
        (b'a """ inside\nb\n', ['a """ inside', "b"]),
    ],
)
def test_lines_of_a_pipe(data: bytes, expected: list[str]) -> None:
    assert read_all(data) == expected


def test_a_line_that_is_no_text_is_refused_and_the_next_is_read() -> None:
    source = PipedLines(io.BytesIO(b"\xff\nnext\n"))
    with pytest.raises(InvalidValueError, match="not UTF-8"):
        source.read()
    assert source.read() == "next"


def test_a_line_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 10)
    assert read_all(b"123456789\n") == ["123456789"]
    with pytest.raises(InvalidValueError, match="a line is longer than"):
        PipedLines(io.BytesIO(b"12345678901")).read()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hi", "hi"),
        ("  hi ", "hi"),
        ('"""a\nb"""', "a\nb"),
        ('"""\n  a\n"""', "  a"),
        (' """a""" ', "a"),
        ('"""never closed', "never closed"),
        ('say """hi"""', 'say """hi"""'),
    ],
)
def test_quotes_are_taken_off(text: str, expected: str) -> None:
    assert without_quotes(text) == expected


@given(st.text(alphabet='a"\n '))
def test_quotes_that_are_open_can_be_closed(text: str) -> None:
    if is_open(text):
        assert text.strip().startswith('"""')
        assert not is_open(text + '\n"""')
