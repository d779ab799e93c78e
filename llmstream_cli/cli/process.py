"""The process of a command: when it began, how Ctrl-C ends it, how it leaves."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
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


def write_at_interrupt(descriptor: int, last_words: Callable[[], bytes]) -> None:
    """Let Ctrl-C write something before it ends the process, instead of ending the line.

    Args:
        descriptor: 1 or 2, where it goes.
        last_words: returns it; it is called wherever the process is, and must not wait for a lock.
    """
    _last_words[descriptor] = last_words


def _end_line() -> bytes:
    return b"\n" if os.isatty(1) else b""  # the terminal has shown ^C


_last_words: dict[int, Callable[[], bytes]] = {1: _end_line}


def _interrupted() -> NoReturn:
    for descriptor, last_words in sorted(_last_words.items(), reverse=True):  # the answer last
        with contextlib.suppress(OSError):
            os.write(descriptor, last_words())
    os._exit(INTERRUPTED)


def leave(code: int) -> NoReturn:
    """End the process without the interpreter's own clean-up, which could only wait for threads."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, AttributeError):  # it may be closed, or None
            stream.flush()
    os._exit(code)
