"""`llmstream models …` in this process, or on a terminal."""

import contextlib
import io
import os
import sys
from typing import NamedTuple

import pexpect

from llmstream_cli.cli.app import run

TIMEOUT = 300  # seconds; the machines that run this are slow at times


class Done(NamedTuple):
    """A command that has ended."""

    returncode: int
    stdout: str
    stderr: str


def models(*arguments: str) -> Done:
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        code = run(["models", *arguments])
    return Done(code, stdout.getvalue(), stderr.getvalue())


def on_a_terminal(*arguments: str, width: int = 80) -> "pexpect.spawn[str]":
    return pexpect.spawn(
        sys.executable,
        ["-m", "llmstream_cli", *arguments],
        env={**os.environ, "TERM": "xterm-256color"},  # an unknown one has no width
        dimensions=(50, width),
        timeout=TIMEOUT,
        encoding="utf-8",
    )


def complaint(done: Done) -> str:
    """Return the one line that a command failed with."""
    assert done.stdout == ""
    assert done.stderr.startswith("llmstream: ")
    assert done.stderr.count("\n") == 1
    return done.stderr
