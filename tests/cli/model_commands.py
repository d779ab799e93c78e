"""`llmstream models …` as a user runs it, in a pipe or on a terminal."""

import os
import subprocess
import sys

import pexpect

TIMEOUT = 300  # seconds; the machines that run this are slow at times


def models(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "llmstream_cli", "models", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TIMEOUT,
        check=False,
        encoding="utf-8",
    )


def on_a_terminal(
    *arguments: str, width: int = 80, term: str = "xterm-256color"
) -> "pexpect.spawn[str]":
    return pexpect.spawn(
        sys.executable,
        ["-m", "llmstream_cli", *arguments],
        env={**os.environ, "TERM": term},  # an unknown one has no width
        dimensions=(50, width),
        timeout=TIMEOUT,
        encoding="utf-8",
    )


def complaint(done: "subprocess.CompletedProcess[str]") -> str:
    """Return the one line that a command failed with."""
    assert done.stdout == ""
    assert done.stderr.startswith("llmstream: ")
    assert done.stderr.count("\n") == 1
    return done.stderr
