"""The process of a command: when it began, how Ctrl-C ends it, how it leaves."""

import contextlib
import os
import signal
import sys
import time
from typing import NoReturn

STARTED = time.perf_counter()  # imported first of all: the statistics count from here

INTERRUPTED = 130


def leave_on_interrupt() -> None:
    """Let Ctrl-C end the process at once, wherever it is.

    Each piece of an answer is flushed as it is printed, and a command that only prints has nothing
    else to save. An exception would have to find its way out of a blocked write, a running event
    loop, or a thread inside llama.cpp; leaving does not.
    """
    signal.signal(signal.SIGINT, lambda *_: _interrupted())


def _interrupted() -> NoReturn:
    with contextlib.suppress(OSError):
        if os.isatty(1):
            os.write(1, b"\n")  # the terminal has shown ^C
    os._exit(INTERRUPTED)


def leave(code: int) -> NoReturn:
    """End the process without the interpreter's own clean-up, which could only wait for threads."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, AttributeError):  # it may be closed, or None
            stream.flush()
    os._exit(code)
