"""Ctrl-C: what is done before it leaves, once and to its end; what a terminal shows then."""

import io
import os
import subprocess
import sys
import textwrap

import pexpect
import pyte
import pytest

TIMEOUT = 120  # seconds; the machines that run this are slow at times


def run(body: str) -> tuple[int, str]:
    """Run a program in which `interrupt()` is Ctrl-C; return its exit code and what it printed."""
    program = f"""
import os, signal
from llmstream_cli.cli import process
def say(text): os.write(1, text.encode() + b" ")
def interrupt(): signal.raise_signal(signal.SIGINT)
process.leave_on_interrupt()
{body}
say("on")
process.leave(0)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        encoding="utf-8",
        timeout=TIMEOUT,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_without_anything_to_do_it_leaves() -> None:
    assert run("interrupt()") == (130, "")


@pytest.mark.parametrize(
    ("body", "code", "printed"),
    [
        ("with process.at_end(lambda: say('kept')): say('answer')", 0, "answer kept on "),
        ("with process.at_end(lambda: say('kept')): interrupt()", 130, "kept "),
        ("with process.at_end(lambda: (interrupt(), say('kept'))): pass", 130, "kept "),
        ("with process.at_end(lambda: (say('kept'), interrupt())): interrupt()", 130, "kept "),
        (
            (
                "with process.at_end(lambda: say('kept')): \n"
                "  with process.on_interrupt(lambda: say('cut')): interrupt()"
            ),
            130,
            "cut kept ",
        ),
        ("with process.on_interrupt(lambda: say('cut')): say('answer')", 0, "answer on "),
        (
            (
                "with process.at_end(lambda: say('kept')), process.on_interrupt(lambda: 1 / 0):"
                " interrupt()"
            ),
            130,
            "kept ",
        ),
    ],
)
def test_what_is_to_be_done_is_done_once(body: str, code: int, printed: str) -> None:
    assert run(body) == (code, printed)


def test_it_waits_for_what_must_not_be_cut() -> None:
    assert run("with process.uninterrupted(): interrupt(); say('whole')") == (130, "whole ")


def test_a_second_one_does_not_wait_for_what_the_first_does() -> None:
    body = "with process.on_interrupt(lambda: (interrupt(), say('never'))): interrupt()"
    assert run(body) == (130, "")


# ---- in a real terminal, at the moments when it hurts ---------------------------------------


def interrupted(script: str, *, after: str, columns: int = 40) -> tuple[list[str], int, int | None]:
    """The screen, the cursor's column and the exit code of a script that gets a Ctrl-C."""
    screen = pyte.Screen(columns, 12)
    stream = pyte.ByteStream(screen)
    prelude = (
        "import os, sys, time\n"
        "from llmstream_cli.cli.process import leave_on_interrupt, on_interrupt, write_last\n"
        "leave_on_interrupt()\n"
    )
    child = pexpect.spawn(
        sys.executable,
        ["-c", prelude + textwrap.dedent(script)],
        env={**os.environ, "TERM": "xterm"},
        dimensions=(12, columns),
        timeout=TIMEOUT,
    )
    child.logfile_read = received = io.BytesIO()
    child.expect_exact(after)
    child.sendintr()
    child.expect(pexpect.EOF)
    child.close()
    stream.feed(received.getvalue())
    rows = [row.rstrip() for row in screen.display]
    assert not screen.cursor.hidden
    return "\n".join(rows).rstrip().split("\n"), screen.cursor.x, child.exitstatus


def test_a_rendered_answer_stays_whole() -> None:
    rows, column, code = interrupted(
        """
        from llmstream_cli.cli.terminal import answer_writer
        writer = answer_writer(sys.stdout)
        with on_interrupt(lambda: write_last(writer.last_words())):
            writer.write("Paris is the **capital of France, which lies on the river")
            time.sleep(600)
        """,
        after="river",
    )
    assert rows == ["Paris is the **capital of France, which", "lies on the river"]
    assert (column, code) == (0, 130)


def test_a_wait_leaves_no_trace() -> None:
    rows, column, code = interrupted(
        """
        from llmstream_cli.cli.waiting import WaitingLine
        waiting = WaitingLine(sys.stderr)
        with on_interrupt(lambda: write_last(waiting.last_words(), descriptor=2)):
            print("before", flush=True)
            waiting.begin("loading the model")
            time.sleep(600)
        """,
        after="loading the model",
    )
    assert rows == ["before"]
    assert (column, code) == (0, 130)


def test_plain_output_ends_its_line() -> None:
    rows, column, code = interrupted(
        """
        sys.stdout.write("half a line")
        sys.stdout.flush()
        time.sleep(600)
        """,
        after="half a line",
    )
    assert rows[0].startswith("half a line")
    assert (len(rows), column, code) == (1, 0, 130)
