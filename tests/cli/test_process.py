"""Ctrl-C: an answer is ended and kept before it leaves; what a terminal shows then."""

import io
import os
import subprocess
import sys
import textwrap

import pexpect
import pyte
import pytest

pytestmark = pytest.mark.slow

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
    ("act", "code", "printed"),
    [
        ("say('answer')", 0, "answer kept on "),
        ("interrupt()", 130, "shown kept "),
        ("interrupt(); await asyncio.sleep(600)", 130, "shown kept "),
        ("signal.alarm(1); await asyncio.sleep(600)", 130, "shown kept "),  # in `select`
        ("interrupt(); interrupt()", 130, "kept "),
        ("1 / 0", 1, "kept failed "),
        # A write that nobody reads: no loop can cancel it.
        ("signal.alarm(1); write()", 130, "shown kept "),
    ],
)
def test_an_answer_is_ended_and_kept(act: str, code: int, printed: str) -> None:
    body = f"""
import asyncio, select
signal.signal(signal.SIGALRM, lambda *_: interrupt())
def write():
    end = os.pipe()[1]
    os.set_blocking(end, False)
    while os.write(end, bytes(4096)):
        if not select.select([], [end], [], 0)[1]:
            break
    os.set_blocking(end, True)
    with process.cancelled_by_interrupt(end):
        os.write(end, bytes(4096))
async def answer():
    try:
        {act}
        await asyncio.sleep(0)
    except asyncio.CancelledError:
        say("shown")
        raise
with asyncio.Runner() as runner:
    try:
        process.run_interruptible(runner, answer(), lambda: say("kept"))
    except KeyboardInterrupt:
        process.leave_interrupted()
    except ZeroDivisionError:
        say("failed")
        process.leave(1)
"""
    assert run(body) == (code, printed)


def test_it_waits_for_what_must_not_be_cut() -> None:
    assert run("with process.uninterrupted(): interrupt(); say('whole')") == (130, "whole ")


# ---- in a real terminal, at the moments when it hurts ---------------------------------------


def interrupted(script: str, *, after: str, columns: int = 40) -> tuple[list[str], int, int | None]:
    """The screen, the cursor's column and the exit code of a script that gets a Ctrl-C."""
    screen = pyte.Screen(columns, 12)
    stream = pyte.ByteStream(screen)
    prelude = (
        "import os, sys, time\n"
        "import asyncio\n"
        "from llmstream_cli.cli.process import *\n"
        "leave_on_interrupt()\n"
        "def run(answering):\n"
        "    try: run_interruptible(asyncio.Runner(), answering, lambda: None)\n"
        "    except KeyboardInterrupt: leave_interrupted()\n"
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
        from llmstream_cli.cli.ask.view import answer_writer
        writer = answer_writer(sys.stdout, markdown=True)
        async def answer():
            writer.write("Paris is the **capital of France, which lies on the river")
            try:
                await asyncio.sleep(600)
            finally:
                writer.end(cut=True)
        run(answer())
        """,
        after="river",
    )
    assert rows == ["Paris is the **capital of France, which", "lies on the river"]
    assert (column, code) == (0, 130)


def test_a_wait_leaves_no_trace() -> None:
    rows, column, code = interrupted(
        """
        from llmstream_cli.cli.ask.waiting import WaitingLine
        waiting = WaitingLine(sys.stderr)
        async def answer():
            print("before", flush=True)
            waiting.begin("loading the model")
            try:
                await asyncio.sleep(600)
            finally:
                waiting.end()
        run(answer())
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
