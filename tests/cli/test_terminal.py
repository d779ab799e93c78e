"""What a terminal may see, and what a pipe gets."""

import io
import os
import threading
import time
from typing import TextIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstream_cli import files
from llmstream_cli.cli import terminal
from llmstream_cli.cli.terminal import (
    AnswerWriter,
    check_text,
    read_piped_input,
    shows_sequences,
    write_stderr,
)
from llmstream_cli.errors import InvalidValueError, OutputError


class Stream(io.TextIOWrapper):
    """Standard output, connected to a terminal or not."""

    def __init__(self, *, tty: bool, encoding: str = "utf-8") -> None:
        self.bytes = io.BytesIO()
        self._tty = tty
        super().__init__(self.bytes, encoding=encoding)

    def isatty(self) -> bool:
        return self._tty


def written(*pieces: str, tty: bool, encoding: str = "utf-8") -> bytes:
    stream = Stream(tty=tty, encoding=encoding)
    writer = AnswerWriter(stream)
    for piece in pieces:
        writer.write(piece)
    writer.end()
    return stream.bytes.getvalue()


@given(st.lists(st.text()))
def test_a_pipe_gets_the_text_as_it_is(pieces: list[str]) -> None:
    assert written(*pieces, tty=False) == "".join(pieces).encode("utf-8", "replace")


@given(st.lists(st.text()))
def test_a_terminal_never_gets_a_control_character(pieces: list[str]) -> None:
    shown = written(*pieces, tty=True).decode()
    assert not {c for c in shown if c not in "\n\t" and (ord(c) < 32 or 127 <= ord(c) < 160)}


def test_a_pipe_is_in_utf_8_whatever_the_locale() -> None:
    assert written("Österreich 🇦🇹", tty=False, encoding="ascii") == "Österreich 🇦🇹".encode()


def test_a_terminal_shows_what_its_encoding_can() -> None:
    assert written("Österreich\n", tty=True, encoding="latin-1") == b"\xd6sterreich\n"
    assert written("日本\n", tty=True, encoding="latin-1") == b"??\n"


@pytest.mark.parametrize(
    ("pieces", "shown"),
    [
        (("yes",), b"yes\n"),
        (("yes\n",), b"yes\n"),
        (("yes\n", "\x1b"), b"yes\n"),
        (("a\x1b]0;title\x07b\x9b2Jc\rd",), b"a]0;titleb2Jcd\n"),
        ((), b""),
    ],
)
def test_a_terminals_last_line_is_ended(pieces: tuple[str, ...], shown: bytes) -> None:
    assert written(*pieces, tty=True) == shown


def test_a_closed_output_is_refused() -> None:
    with pytest.raises(OutputError, match="closed"):
        AnswerWriter(None)


def piped(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    stdin: TextIO = io.TextIOWrapper(io.BytesIO(data))
    monkeypatch.setattr("sys.stdin", stdin)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", ""),
        (b"a\n\nb\n", "a\n\nb"),
        ("\N{BYTE ORDER MARK}größe".encode(), "größe"),
        (b"a\r\nb", "a\r\nb"),
        ("größe".encode("utf-16"), "größe"),
    ],
)
def test_piped_input(monkeypatch: pytest.MonkeyPatch, data: bytes, text: str) -> None:
    piped(monkeypatch, data)
    assert read_piped_input() == text


def test_input_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "MAX_INPUT_BYTES", 4 << 20)
    piped(monkeypatch, bytes(5 << 20))
    with pytest.raises(InvalidValueError, match="longer than 4 MiB"):
        read_piped_input()


def test_input_that_cannot_be_read_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under nohup, which opens it for writing."""

    class WriteOnly(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, _: object) -> int:
            raise OSError(9, "Bad file descriptor")

    for stdin in (None, Stream(tty=True), io.TextIOWrapper(io.BufferedReader(WriteOnly()))):
        monkeypatch.setattr("sys.stdin", stdin)
        assert read_piped_input() == ""


@pytest.mark.parametrize("stream", [None, Stream(tty=False)])
def test_a_complaint_that_nobody_hears_is_dropped(
    monkeypatch: pytest.MonkeyPatch, stream: Stream | None
) -> None:
    if stream is not None:
        stream.close()
    monkeypatch.setattr("sys.stderr", stream)
    write_stderr("anything")


def test_bytes_that_are_no_text_are_told_of() -> None:
    assert check_text("größe 🇦🇹", "the question") == "größe 🇦🇹"
    with pytest.raises(InvalidValueError, match="the question is not UTF-8 text: character 3"):
        check_text("gr\udcf6\udcdfe", "the question")


def test_an_input_without_end_is_told_of_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(files, "WAIT_SECONDS", 0.01)
    reader, writer = os.pipe()
    told = ""

    def write() -> None:
        nonlocal told
        while "waiting" not in told:
            time.sleep(0.01)
            told += capsys.readouterr().err
        os.write(writer, b"text")
        os.close(writer)

    thread = threading.Thread(target=write)
    with os.fdopen(reader) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        thread.start()
        assert read_piped_input() == "text"
        thread.join()
    told += capsys.readouterr().err
    assert told == terminal._WAITING


@pytest.mark.parametrize(
    ("system", "variables", "expected"),
    [
        ("posix", {"TERM": "xterm-256color"}, True),
        ("posix", {"TERM": "dumb"}, False),
        ("posix", {"TERM": "unknown"}, False),
        ("posix", {}, False),
        ("nt", {}, False),
        ("nt", {"WT_SESSION": "1"}, True),
        ("nt", {"TERM_PROGRAM": "vscode"}, True),
    ],
)
def test_a_terminal_obeys_sequences_unless_it_cannot(
    monkeypatch: pytest.MonkeyPatch, system: str, variables: dict[str, str], expected: bool
) -> None:
    for name in ("TERM", "WT_SESSION", "TERM_PROGRAM", "ConEmuANSI"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("os.name", system)
    assert shows_sequences(Stream(tty=True)) == expected
    assert not shows_sequences(Stream(tty=False))
    assert not shows_sequences(None)
