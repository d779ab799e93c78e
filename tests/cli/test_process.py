"""Ctrl-C in a real terminal, at the moments when it hurts."""

import io
import os
import sys
import textwrap

import pexpect
import pyte

TIMEOUT = 60  # seconds; the machines that run this are slow at times


def interrupted(script: str, *, after: str, columns: int = 40) -> tuple[list[str], int, int | None]:
    """The screen, the cursor's column and the exit code of a script that gets a Ctrl-C."""
    screen = pyte.Screen(columns, 12)
    stream = pyte.ByteStream(screen)
    prelude = (
        "import os, sys, time\n"
        "from llmstream_cli.cli.process import leave_on_interrupt, write_at_interrupt\n"
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
        from llmstream_cli.cli.markdown import answer_writer
        writer = answer_writer(sys.stdout)
        write_at_interrupt(1, writer.last_words)
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
        write_at_interrupt(2, waiting.last_words)
        print("before")
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
