"""Files that are put before a question, and texts that are written out or in a file."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstream_cli.cli.ask import question
from llmstream_cli.cli.ask.question import attach, read_grammar, read_schema
from llmstream_cli.errors import InvalidValueError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name: str, data: bytes | str) -> str:
    Path(name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return name


def test_files_come_before_the_question() -> None:
    write("notes.txt", "apples\npears\n")
    write("main.py", "print()")
    assert attach("Which fruit?", ["notes.txt", "main.py"]) == (
        "notes.txt:\n\n```txt\napples\npears\n```\n\n"
        "main.py:\n\n```py\nprint()\n```\n\n"
        "Which fruit?"
    )


def test_files_alone_and_a_question_alone() -> None:
    write("a", "x")
    assert attach("", ["a"]) == "a:\n\n```\nx\n```"
    assert attach("Hi?", []) == "Hi?"
    assert attach("Hi?", [write("a.txt", "")]) == "a.txt:\n\n```txt\n```\n\nHi?"


@given(st.text("`ab\n", max_size=40))
def test_no_file_can_end_its_own_fence(text: str) -> None:
    block = attach("", [write("a", text)])
    fence, *lines = block.removeprefix("a:\n\n").split("\n")
    assert re.fullmatch("`{3,}", fence)
    assert lines.index(fence) == len(lines) - 1  # its only end is the last line
    assert not any(line.startswith(fence) for line in lines[:-1])
    inside = "\n".join(lines[:-1])
    assert inside == text.removesuffix("\n")


@pytest.mark.parametrize(
    ("file", "complaint"),
    [
        ("-", "standard input needs no --attach"),
        (".", "--attach: . is a directory"),
        ("no/such", "--attach: there is no file no/such"),
        ("/dev/zero", "--attach: /dev/zero is longer than 4 MiB"),
    ],
)
def test_what_cannot_be_read_is_named(file: str, complaint: str) -> None:
    with pytest.raises(InvalidValueError) as raised:
        attach("Hi?", [file])
    assert complaint in str(raised.value)


def test_a_name_is_shown_in_a_line() -> None:
    assert attach("", [write("a\n```\x1b.txt", "x")]).startswith("a ```.txt:\n\n```txt\n")


def test_all_of_them_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(question, "MAX_ALL_BYTES", 1 << 20)
    write("a", b"x" * (1 << 18))
    assert attach("", ["a"] * 4)
    with pytest.raises(InvalidValueError, match="longer than 1 MiB together"):
        attach("", ["a"] * 5)
    with pytest.raises(InvalidValueError, match="at most 64 files can be attached, not 65"):
        attach("", ["a"] * 65)


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (read_schema, '\n {"type": "string"}'),
        (read_schema, "{"),
        (read_grammar, 'root ::= "yes" | "no"'),
    ],
)
def test_a_schema_or_a_grammar_may_be_written_out(read: Callable[[str], str], text: str) -> None:
    assert read(text) == text


@pytest.mark.parametrize(
    ("name", "reason"),
    [("no/such", "there is no file no/such"), ("\0", "cannot read"), ("x" * 5000, "cannot read")],
)
def test_no_file_is_said_so(name: str, reason: str) -> None:
    with pytest.raises(InvalidValueError, match=f"--grammar: {reason}"):
        read_grammar(name)
