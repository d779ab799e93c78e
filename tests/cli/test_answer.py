"""What comes where of one answer."""

from collections.abc import Sequence

import pytest

from llmstream_cli.cli import process
from llmstream_cli.cli import waiting as waiting_module
from llmstream_cli.cli.answer import AnswerView
from llmstream_cli.cli.terminal import AnswerWriter
from llmstream_cli.cli.waiting import WaitingLine
from llmstream_cli.core.api import Chunk, FinishReason, Progress
from tests.cli.test_terminal import Stream

CHUNKS = [
    Chunk("", progress=Progress(0, 0, 9)),
    Chunk("", progress=Progress(None, 5, 9)),
    Chunk("", (1,)),
    Chunk("", (2,), reasoning="hm"),
    Chunk("Yes", (3,), reasoning="!"),
    Chunk(".", (4,), FinishReason.STOP),
]


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(process, "_last_words", {})
    monkeypatch.setattr(waiting_module, "_PATIENCE_SECONDS", 600)


def shown(
    monkeypatch: pytest.MonkeyPatch, chunks: Sequence[Chunk], *, tty: bool, thoughts: bool
) -> tuple[str, str]:
    """What standard output and standard error got."""
    out, err = Stream(tty=tty), Stream(tty=tty)
    monkeypatch.setattr("sys.stderr", err)
    waiting = WaitingLine(err)
    waiting.begin("loading the model")
    view = AnswerView(AnswerWriter(out), waiting, shows_thoughts=thoughts)
    for chunk in chunks:
        view.show(chunk)
    view.end()
    return out.bytes.getvalue().decode(), err.bytes.getvalue().decode()


def test_the_text_alone_goes_to_standard_output(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, CHUNKS, tty=False, thoughts=True) == ("Yes.", "hm!\n\n")


def test_a_terminal_shows_thoughts_dimmed_and_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = shown(monkeypatch, CHUNKS, tty=True, thoughts=True)
    assert out == "Yes.\n"
    assert err == "\x1b[2mhm\x1b[m\x1b[2m!\x1b[m\n\n"


def test_thoughts_can_be_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, CHUNKS, tty=True, thoughts=False) == ("Yes.\n", "")
    assert shown(monkeypatch, CHUNKS, tty=False, thoughts=False) == ("Yes.", "")


def test_an_answer_that_ends_in_its_reasoning_leaves_the_cursor_below(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert shown(monkeypatch, CHUNKS[:4], tty=True, thoughts=True) == ("", "\x1b[2mhm\x1b[m\n\n")


def test_hidden_thoughts_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    began: list[str] = []
    monkeypatch.setattr(WaitingLine, "begin", lambda _, what: began.append(what))
    shown(monkeypatch, [*CHUNKS[:4], *CHUNKS[3:]], tty=True, thoughts=False)
    assert began == ["loading the model", "thinking"]


def test_an_interrupt_is_left_to_the_writers(monkeypatch: pytest.MonkeyPatch) -> None:
    shown(monkeypatch, CHUNKS, tty=True, thoughts=True)
    assert {at: words() for at, words in process._last_words.items()} == {1: b"\n", 2: b""}
