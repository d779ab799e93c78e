"""Standard error of a server, for which nothing waits."""

import contextlib
import io
import os
import queue
import select
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TextIO, cast

_END_SECONDS = 0.5  # for the last lines of a server that stops


class BackgroundWriter(io.TextIOBase):
    """A stream whose `write` never waits: a thread writes, and what does not fit is dropped.

    Args:
        stream: where to.
        tell: called in the thread with how many writes were dropped, once it has caught up.
    """

    _MAX_WAITING = 4096  # writes, each a line or a traceback

    def __init__(self, stream: TextIO, tell: Callable[[int], object]) -> None:
        self._fd = stream.fileno()
        self._encoding = stream.encoding
        self._tell = tell
        self._waiting: queue.Queue[str | None] = queue.Queue(self._MAX_WAITING)
        self._num_dropped = 0
        self._lock = threading.Lock()  # of the number
        self._thread = threading.Thread(target=self._run, name="stderr", daemon=True)
        self._thread.start()

    def write(self, text: str) -> int:
        """Write soon, or drop the text."""
        try:
            self._waiting.put_nowait(text)
        except queue.Full:
            with self._lock:
                self._num_dropped += 1
        return len(text)

    def end(self, seconds: float) -> None:
        """Write what waits, but for no longer than this."""
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(None)
            self._thread.join(seconds)

    def _run(self) -> None:
        while (text := self._waiting.get()) is not None:
            self._put(text.encode(self._encoding, "backslashreplace"))
            if self._num_dropped and self._waiting.empty():
                with self._lock:
                    num_dropped, self._num_dropped = self._num_dropped, 0
                self._tell(num_dropped)

    def _put(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # nobody listens
            while data:
                try:
                    data = data[os.write(self._fd, data) :]
                except BlockingIOError:  # another process made it so
                    select.select([], [self._fd], [])


@contextlib.contextmanager
def stderr_in_background(tell: Callable[[int], object]) -> Iterator[None]:
    """Let nothing that is written to standard error wait for its reader.

    Args:
        tell: called, in another thread, with how many writes were dropped.
    """
    stream = sys.stderr
    try:
        writer = BackgroundWriter(stream, tell)
    except (AttributeError, OSError):  # it is closed, or no file
        yield
        return
    sys.stderr = cast("TextIO", writer)
    try:
        yield
    finally:
        sys.stderr = stream
        writer.end(_END_SECONDS)
