"""What a download shows of itself, on a terminal and elsewhere."""

import os
import subprocess
import sys

import pexpect
import pytest

from llmstream_cli.cli.progress import LineProgress

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


def lines_of(
    capsys: pytest.CaptureFixture[str], total_bytes: int, *steps: int, done_bytes: int = 0
) -> list[str]:
    progress = LineProgress()
    progress.begin("m.gguf", total_bytes, done_bytes)
    for step in steps:
        progress.advance(step)
    progress.end()
    output, errors = capsys.readouterr()
    assert output == ""
    return errors.splitlines()


# ---- plain lines ----------------------------------------------------------------------------


def test_lines_tell_beginning_tenths_and_end(capsys: pytest.CaptureFixture[str]) -> None:
    first, *tenths, last = lines_of(capsys, 1000, *[1] * 1000)
    assert first == "m.gguf: 1 kB"
    assert [line.split()[1] for line in tenths] == [str(tenth) for tenth in range(10, 100, 10)]
    assert last.startswith("m.gguf: done, ")
    told = lines_of(capsys, 1000, 556, 3, 441)  # large steps are not told one by one
    assert [line.split()[1] for line in told] == ["1", "50", "done,"]
    assert lines_of(capsys, 0)[-1].startswith("m.gguf: done")


def test_what_was_there_before_is_told_and_not_counted_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    first, half, last = lines_of(capsys, 1000, 30, 30, done_bytes=450)
    assert first == "m.gguf: 1 kB, 450 B of them are here"
    assert half.startswith("m.gguf: 50 %, ")
    assert last == "m.gguf: stopped at 51 %"


def test_a_line_is_a_line_and_moves_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    LineProgress().note("a\x1b[2Jb\nc")
    assert capsys.readouterr().err == "a[2Jb c\n"


@pytest.mark.slow
def test_a_pipe_gets_lines_and_a_closed_standard_error_stops_no_work() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, timeout=TIMEOUT, check=True
    )
    assert done.stdout == b""
    assert not {b"\x1b", b"\r"} & {done.stderr[i : i + 1] for i in range(len(done.stderr))}
    assert done.stderr.startswith(b"the disk has room\ndownloading [31mred[/bold].gguf: 2.0 MB\n")
    assert done.stderr.endswith(b"repacking: stopped at 50 %\n")
    command = ["sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-c", SCRIPT]
    subprocess.run(command, timeout=TIMEOUT, check=True)


# ---- a terminal -----------------------------------------------------------------------------


def on_a_terminal(columns: int = 100, **environment: str) -> str:
    child = pexpect.spawn(
        sys.executable,
        ["-c", SCRIPT],
        env={**os.environ, "TERM": "xterm-256color", **environment},
        dimensions=(24, columns),
        timeout=TIMEOUT,
        encoding="utf-8",
    )
    shown = child.read()
    child.close()
    assert child.exitstatus == 0
    return str(shown)


@pytest.mark.slow
def test_a_terminal_gets_a_bar() -> None:
    shown = on_a_terminal()
    for part in ("━━━", "2.0/2.0 MB", "half of it is here\r\n", "0.5/1.0 kB"):
        assert part in shown
    assert "[31mred[/bold].gguf" in shown.replace("\x1b", "")
    assert "\x1b[31mred" not in shown  # a name cannot style the bar
    assert "\x1b[3" in shown.replace("[31mred", "")
    assert "\x1b[?25l" not in shown  # Ctrl-C leaves without a clean-up that shows the cursor again


@pytest.mark.slow
def test_a_narrow_terminal_without_colours_gets_whole_figures() -> None:
    shown = on_a_terminal(60, NO_COLOR="1")
    assert "downloading" in shown
    assert "2.0/2.0 MB" in shown
    assert "\x1b[3" not in shown.replace("[31mred", "")


@pytest.mark.slow
def test_a_dumb_terminal_gets_lines() -> None:
    shown = on_a_terminal(TERM="dumb")
    assert not {"\x1b", "━"} & set(shown)
    assert "repacking: stopped at 50 %\r\n" in shown
