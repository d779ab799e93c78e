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

_MAX_WAITING = 4096  # writes, each a line or a traceback
_END_SECONDS = 0.5  # for the last lines of a server that stops


class BackgroundWriter(io.TextIOBase):
    """A stream whose `write` never waits: a thread writes, and what does not fit is dropped."""

    def __init__(self, stream: TextIO, on_dropped: Callable[[int], object]) -> None:
        self._fd, self._encoding = stream.fileno(), stream.encoding
        self._on_dropped = on_dropped
        self._waiting: queue.Queue[str | None] = queue.Queue(_MAX_WAITING)
        self._num_dropped = 0
        self._lock = threading.Lock()  # of the number
        self._thread = threading.Thread(target=self._run, name="stderr", daemon=True)
        self._thread.start()

    def write(self, text: str) -> int:
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
            self._write_all(text.encode(self._encoding, "backslashreplace"))
            if self._num_dropped and self._waiting.empty():
                with self._lock:
                    num_dropped, self._num_dropped = self._num_dropped, 0
                self._on_dropped(num_dropped)

    def _write_all(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # nobody listens
            while data:
                try:
                    data = data[os.write(self._fd, data) :]
                except BlockingIOError:  # another process made it so
                    select.select([], [self._fd], [])


@contextlib.contextmanager
def stderr_in_background(on_dropped: Callable[[int], object]) -> Iterator[None]:
    """Let nothing that is written to standard error wait for its reader.

    Args:
        on_dropped: called, in another thread, with how many writes were dropped.
    """
    stream = sys.stderr
    try:
        writer = BackgroundWriter(stream, on_dropped)
    except (AttributeError, OSError):  # it is closed, or no file
        yield
        return
    sys.stderr = cast("TextIO", writer)
    try:
        yield
    finally:
        sys.stderr = stream
        writer.end(_END_SECONDS)
