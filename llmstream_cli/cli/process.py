"""The process of a command: when it began, how Ctrl-C ends it, how it leaves."""

import contextlib
import io
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

STARTED = time.perf_counter()  # imported first of all: the statistics count from here

INTERRUPTED = 130

_last_acts: list[Callable[[], object]] = []  # what Ctrl-C does before it leaves


def use_utf8() -> None:
    """Have Python take arguments, variables and names of files for UTF-8, whatever the locale.

    Its UTF-8 mode can only be chosen at the start: where the locale has another encoding, the
    process starts anew. What standard output cannot show is replaced; answers go there as bytes.
    """
    if os.name == "posix" and sys.getfilesystemencoding() != "utf-8" and sys.executable:
        words = [sys.orig_argv[0], "-X", "utf8", *sys.orig_argv[1:]]
        with contextlib.suppress(OSError):
            os.execv(sys.executable, words)  # noqa: S606  (this program, with its own words)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def leave_on_interrupt() -> None:
    """Let Ctrl-C end the process at once, wherever it is.

    Each piece of an answer is flushed as it is printed; what else there is to save, `on_interrupt`
    saves. An exception would have to find its way out of a blocked write, a running event loop, or
    a thread inside llama.cpp; leaving does not.
    """
    signal.signal(signal.SIGINT, lambda *_: leave_interrupted())


@contextlib.contextmanager
def on_interrupt(act: Callable[[], object]) -> Iterator[None]:
    """Have Ctrl-C do something before it leaves, as long as the block runs.

    It is done wherever the main thread is, between any two of its instructions: it must not write
    to `sys.stdout`, but with `write_last`. A second Ctrl-C does not wait for it.
    """
    _last_acts.append(act)
    try:
        yield
    finally:
        if act in _last_acts:
            _last_acts.remove(act)


@contextlib.contextmanager
def at_end(act: Callable[[], object]) -> Iterator[None]:
    """Do something when the block ends, however it does, be it by Ctrl-C that ends the process.

    It is done once, and Ctrl-C waits for it.
    """
    done = False

    def once() -> None:
        nonlocal done
        with uninterrupted():
            if not done:
                done = True
                act()

    with on_interrupt(once):
        try:
            yield
        finally:
            once()


def write_last(data: bytes, *, descriptor: int = 1) -> None:
    """Write to standard output, or error, from a signal handler: past all that has a buffer."""
    with contextlib.suppress(OSError):
        while data:
            data = data[os.write(descriptor, data) :]


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Let Ctrl-C wait for the end of the block, which is short: it writes what must not be cut."""
    waiting: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: waiting.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if waiting:
            signal.raise_signal(signal.SIGINT)


def leave_interrupted() -> NoReturn:
    """End the process as Ctrl-C does."""
    if not _last_acts and os.isatty(1):
        write_last(b"\n")  # the terminal has shown ^C
    while _last_acts:
        with contextlib.suppress(Exception):
            _last_acts.pop()()
    os._exit(INTERRUPTED)


def leave(code: int) -> NoReturn:
    """End the process without the interpreter's own clean-up, which could only wait for threads."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, AttributeError):  # it may be closed, or None
            stream.flush()
    os._exit(code)
