"""The process of a command: when it began, how Ctrl-C ends it, how it leaves."""

import contextlib
import io
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

if TYPE_CHECKING:
    import asyncio

STARTED = time.perf_counter()  # imported first of all: the statistics count from here

INTERRUPTED = 130


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

    An exception would have to find its way out of imports, or of a thread inside llama.cpp; leaving
    does not. While an answer comes, `run_interruptible` ends it first.
    """

    def leave_now(*_: object) -> None:
        if os.isatty(1):
            with contextlib.suppress(OSError):
                os.write(1, b"\n")  # the terminal has shown ^C
        leave_interrupted()

    signal.signal(signal.SIGINT, leave_now)


def run_interruptible(
    runner: "asyncio.Runner", answering: Coroutine[Any, Any, None], keep: Callable[[], object]
) -> None:
    """Run what shows an answer; Ctrl-C cancels it, and a second one does not wait for that.

    At the end, however it ends, `keep` is called; Ctrl-C waits for it.

    Raises:
        KeyboardInterrupt: it was cancelled.
    """
    from asyncio import CancelledError

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # the runner has its own then
    try:
        runner.run(answering)
    except CancelledError:  # of a write
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGINT, before)
        with uninterrupted():
            keep()


@contextlib.contextmanager
def cancelled_by_interrupt(output: TextIO | int) -> Iterator[None]:
    """Let Ctrl-C raise CancelledError in a write that is blocked, which no loop can cancel."""

    def cancel(number: int, frame: FrameType | None) -> None:
        from asyncio import CancelledError

        if not callable(before) or not select.select([], [output], [], 0)[1]:
            raise CancelledError
        before(number, frame)  # the write ends by itself, and what it says is noted

    before = signal.signal(signal.SIGINT, cancel)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


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
    """End the process as Ctrl-C does, without what is still buffered for a reader that waits."""
    os._exit(INTERRUPTED)


def leave(code: int) -> NoReturn:
    """End the process without the interpreter's own clean-up, which could only wait for threads."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, AttributeError):  # it may be closed, or None
            stream.flush()
    os._exit(code)
