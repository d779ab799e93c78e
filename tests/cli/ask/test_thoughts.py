"""Reasoning on standard error."""

import pytest

from llmstream_cli.cli.ask.thoughts import ThoughtWriter
from tests.cli.test_terminal import Stream


def written(monkeypatch: pytest.MonkeyPatch, *pieces: str, tty: bool) -> str:
    stream = Stream(tty=tty)
    monkeypatch.setattr("sys.stderr", stream)
    writer = ThoughtWriter(stream)
    for piece in pieces:
        writer.write(piece)
    writer.end()
    writer.end()
    stream.flush()
    return stream.bytes.getvalue().decode()


def test_a_terminal_gets_it_dimmed_and_harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    shown = written(monkeypatch, "hm\x1b[2J", "\x1b", " so", tty=True)
    assert shown == "\x1b[2mhm[2J\x1b[m\x1b[2m so\x1b[m\n\n"


def test_a_dumb_terminal_gets_it_plain_and_harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert written(monkeypatch, "hm\x1b[2J", tty=True) == "hm[2J\n\n"


def test_a_file_gets_it_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert written(monkeypatch, "hm", " so\x1b", tty=False) == "hm so\x1b\n\n"


def test_without_thoughts_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    assert written(monkeypatch, "", tty=True) == ""
