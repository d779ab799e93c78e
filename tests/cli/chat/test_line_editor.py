"""The line editor, by its keys; how it looks is a matter of `test_chat_terminal`."""

import os
import pty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from prompt_toolkit.application import create_app_session, get_app_session
from prompt_toolkit.input import PipeInput, create_pipe_input

from llmstream_cli.cli.chat.line_editor import LineEditor


@contextmanager
def typing(keys: str, recent: Sequence[str] = ()) -> Iterator[LineEditor]:
    """An editor on a terminal that nobody looks at, in which somebody types."""
    master, slave = pty.openpty()
    with (
        os.fdopen(slave, "w") as screen,
        create_pipe_input() as keyboard,
        create_app_session(input=keyboard),
    ):
        keyboard.send_text(keys)
        yield LineEditor(screen, recent)
    os.close(master)


ENTER, ALT_ENTER, CTRL_C, CTRL_D, CTRL_R = "\r", "\x1b\r", "\x03", "\x04", "\x12"
UP, HOME = "\x1b[A", "\x01"


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("Where is Paris?" + ENTER, "Where is Paris?"),
        ("is Paris?" + HOME + "Where " + ENTER, "Where is Paris?"),
        ("one" + ALT_ENTER + "two" + ENTER, "one\ntwo"),
        ('"""one' + ENTER + "  two" + ENTER + 'three"""' + ENTER, '"""one\n  two\nthree"""'),
        ("\x1b[200~one\n\ntwo\x1b[201~" + ENTER, "one\n\ntwo"),
        ("forget" + CTRL_C + "this" + ENTER, "this"),
        (CTRL_C + "stay" + ENTER, "stay"),
        (UP + UP + ENTER, "first"),
        (UP + " again" + ENTER, "second again"),
        (CTRL_R + "fir" + ENTER + ENTER, "first"),
        ("/h\t" + ENTER, "/help"),
        ("/se\tte\t1" + ENTER, "/set temperature 1"),
        ("/set t\t_k 1" + ENTER, "/set t_k 1"),
        ("a /h\t" + ENTER, "a /h"),
        ("Grüße 🙂" + ENTER, "Grüße 🙂"),
    ],
)
def test_keys_make_a_line(keys: str, expected: str) -> None:
    with typing(keys, ["first", "second"]) as editor:
        assert editor.read() == expected


@pytest.mark.parametrize("keys", [CTRL_D, CTRL_C + CTRL_C, "text" + CTRL_C + CTRL_D])
def test_keys_that_leave(keys: str, capsys: pytest.CaptureFixture[str]) -> None:
    with typing(keys) as editor, pytest.raises(EOFError):
        editor.read()
    assert ("Ctrl-C once more leaves" in capsys.readouterr().err) is (CTRL_C * 2 in keys)


def test_what_was_typed_is_found_again() -> None:
    with typing("one" + ENTER) as editor:
        assert editor.read() == "one"
        keyboard = get_app_session().input
        assert isinstance(keyboard, PipeInput)
        keyboard.send_text(UP + " more" + ENTER)
        assert editor.read() == "one more"


def test_an_interrupt_long_ago_is_forgotten(capsys: pytest.CaptureFixture[str]) -> None:
    with typing(CTRL_C + "one" + ENTER + CTRL_C + "two" + ENTER) as editor:
        assert [editor.read(), editor.read()] == ["one", "two"]
    assert capsys.readouterr().err.count("\n") == 2
