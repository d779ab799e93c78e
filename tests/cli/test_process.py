"""Ctrl-C: what is done before it leaves, once and to its end."""

import subprocess
import sys

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
                "with process.at_end(lambda: say('kept')), process.on_interrupt(lambda: say('cut')):"
                " interrupt()"
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
