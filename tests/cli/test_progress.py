"""What a download shows of itself, on a terminal and elsewhere."""

import os
import subprocess
import sys

import pexpect
import pytest

from llmstream_cli.cli.progress import LineProgress, make_progress

TIMEOUT = 120

SCRIPT = """
from llmstream_cli.cli.progress import make_progress
progress = make_progress()
progress.note("the disk has room")
progress.begin("downloading \\x1b[31mred[/bold].gguf", 2_000_000)
for part in range(20):
    progress.advance(100_000)
    if part == 10:
        progress.note("half of it is here")
progress.end()
progress.begin("repacking", 1000, 400)
progress.advance(100)
progress.end()
"""


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    output, errors = capsys.readouterr()
    assert output == ""
    return errors.splitlines()


# ---- plain lines ----------------------------------------------------------------------------


def test_lines_tell_beginning_tenths_and_end(capsys: pytest.CaptureFixture[str]) -> None:
    progress = LineProgress()
    progress.begin("downloading m.gguf", 1000)
    for _ in range(1000):
        progress.advance(1)
    progress.end()
    first, *tenths, last = lines_of(capsys)
    assert first == "downloading m.gguf: 1 kB"
    assert [line.split()[2] for line in tenths] == [str(tenth) for tenth in range(10, 100, 10)]
    assert last.startswith("downloading m.gguf: done, ")


def test_large_steps_are_not_told_one_by_one(capsys: pytest.CaptureFixture[str]) -> None:
    progress = LineProgress()
    progress.begin("downloading m.gguf", 1000)
    progress.advance(556)
    progress.advance(3)
    progress.advance(441)
    progress.end()
    assert [line.split()[2] for line in lines_of(capsys)] == ["1", "50", "done,"]


def test_what_was_there_before_is_told_and_not_counted_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    progress = LineProgress()
    progress.begin("downloading m.gguf", 1000, 450)
    progress.advance(30)
    progress.advance(30)
    progress.end()
    first, half, last = lines_of(capsys)
    assert first == "downloading m.gguf: 1 kB, 450 B of them are here"
    assert half.startswith("downloading m.gguf: 50 %, ")
    assert last == "downloading m.gguf: stopped at 51 %"


def test_nothing_to_do_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    progress = LineProgress()
    progress.begin("downloading empty", 0)
    progress.end()
    assert lines_of(capsys)[-1].startswith("downloading empty: done")


def test_a_line_is_a_line_and_moves_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    LineProgress().note("a\x1b[2Jb\nc")
    assert capsys.readouterr().err == "a[2Jb c\n"


def test_a_pipe_gets_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(make_progress(), LineProgress)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, timeout=TIMEOUT, check=True
    )
    assert done.stdout == b""
    assert b"\x1b" not in done.stderr
    assert b"\r" not in done.stderr
    assert done.stderr.startswith(b"the disk has room\ndownloading [31mred[/bold].gguf: 2.0 MB\n")
    assert done.stderr.endswith(b"repacking: stopped at 50 %\n")


def test_a_closed_standard_error_stops_no_work() -> None:
    subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-c", SCRIPT],
        timeout=TIMEOUT,
        check=True,
    )


# ---- a terminal -----------------------------------------------------------------------------


def on_a_terminal(columns: int = 100, **environment: str) -> str:
    child = pexpect.spawn(
        sys.executable,
        ["-c", SCRIPT],
        env={**os.environ, **environment},
        dimensions=(24, columns),
        timeout=TIMEOUT,
        encoding="utf-8",
    )
    shown = child.read()
    child.close()
    assert child.exitstatus == 0
    return str(shown)


def test_a_terminal_gets_a_bar() -> None:
    shown = on_a_terminal(TERM="xterm-256color")
    assert "━━━" in shown
    assert "2.0/2.0 MB" in shown
    assert "half of it is here\r\n" in shown
    assert "0.5/1.0 kB" in shown  # a bar of its own for the second piece of work


def test_a_narrow_terminal_gets_whole_figures() -> None:
    shown = on_a_terminal(60, TERM="xterm-256color")
    assert "downloading" in shown
    assert "2.0/2.0 MB" in shown


def test_a_name_cannot_style_the_bar() -> None:
    shown = on_a_terminal(TERM="xterm-256color")
    assert "[31mred[/bold].gguf" in shown.replace("\x1b", "")
    assert "\x1b[31mred" not in shown


def test_the_cursor_is_never_hidden() -> None:
    """Ctrl-C leaves without a clean-up that would show it again."""
    assert "\x1b[?25l" not in on_a_terminal(TERM="xterm-256color")


def test_no_color_is_honoured() -> None:
    coloured = on_a_terminal(TERM="xterm-256color")
    plain = on_a_terminal(TERM="xterm-256color", NO_COLOR="1")
    assert "\x1b[3" in coloured.replace("[31mred", "")
    assert "\x1b[3" not in plain.replace("[31mred", "")
    assert "━━━" in plain


def test_a_dumb_terminal_gets_lines() -> None:
    shown = on_a_terminal(TERM="dumb")
    assert "\x1b" not in shown
    assert "━" not in shown
    assert "repacking: stopped at 50 %\r\n" in shown
