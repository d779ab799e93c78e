"""What is waited for, in one line on standard error that goes before the answer comes.

Only a terminal sees it, and only where it takes longer than half a second.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TextIO

from llmstream_cli.api import Progress
from llmstream_cli.cli.terminal import shows_sequences

_PATIENCE_SECONDS = 0.5
_TICK_SECONDS = 0.1
_MIN_RATED_SECONDS = 1.0  # before, how fast a prompt is read is a guess
_ERASE_LINE = "\r\x1b[K"  # ECMA-48: CR, EL
DIM, PLAIN = "\x1b[2m", "\x1b[m"  # ECMA-48: SGR
_DEFAULT_COLUMNS = 80


@dataclass(slots=True)
class Wait:
    """What is waited for, in a few words such as `loading the model`, and since when."""

    what: str
    since: float
    progress: Progress | None = None
    _first: tuple[float, int] | None = field(default=None, init=False)  # when the prompt was begun

    def follow(self, progress: Progress, now: float) -> None:
        self.progress = progress
        if progress.queue_position is None and self._first is None:
            self._first = now, progress.num_computed_tokens

    def line(self, now: float) -> str:
        progress = self.progress
        if progress is None:
            return f"{self.what}… {now - self.since:.1f} s"
        if progress.queue_position is not None:
            before = f"{progress.queue_position} before you" if progress.queue_position else "next"
            return f"waiting in the queue: {before}"
        assert self._first is not None
        began, computed_before = self._first
        computed = progress.num_computed_tokens - computed_before
        left = ""
        if now - began >= _MIN_RATED_SECONDS and computed:
            num_left = progress.num_prompt_tokens - progress.num_computed_tokens
            left = f" (about {num_left * (now - began) / computed:.0f} s left)"
        percent = 100 * progress.num_computed_tokens // progress.num_prompt_tokens
        return f"reading the prompt {percent} %{left}"


class WaitingLine:
    """Shows a wait; a thread of its own keeps the line moving.

    Nothing is shown any more once `end` has returned. What is written to the same terminal must
    wait for that.

    Args:
        stream: standard error; nothing is shown where it is no terminal.
        clock: seconds that only grow.
    """

    def __init__(self, stream: TextIO | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream if shows_sequences(stream) else None
        self._clock = clock
        self._lock = threading.Lock()  # around all below, and around writing
        self._wait: Wait | None = None
        self._shown = False
        self._ended = threading.Event()

    def begin(self, what: str) -> None:
        """Wait for something, instead of what was waited for until now."""
        if self._stream is None:
            return
        with self._lock:
            is_running = self._wait is not None
            self._wait = Wait(what, self._clock())
            if is_running:
                return
            self._ended = threading.Event()
            threading.Thread(
                target=self._run, args=(self._ended,), name="waiting", daemon=True
            ).start()

    def follow(self, progress: Progress) -> None:
        """Show what an engine tells of its progress."""
        with self._lock:
            if self._wait is not None:
                self._wait.follow(progress, self._clock())

    def end(self) -> None:
        """Stop waiting, and erase the line; idempotent."""
        with self._lock:
            self._wait = None
            self._ended.set()
            if self._shown:
                self._write(_ERASE_LINE)
                self._shown = False

    def _run(self, ended: threading.Event) -> None:
        pause = _PATIENCE_SECONDS
        while not ended.wait(pause):
            pause = _TICK_SECONDS
            with self._lock:
                if not ended.is_set() and self._wait is not None:
                    line = self._wait.line(self._clock())[: self._columns() - 1]
                    self._shown = True
                    self._write(f"{_ERASE_LINE}{DIM}{line}{PLAIN}")

    def _write(self, text: str) -> None:
        assert self._stream is not None
        with contextlib.suppress(OSError, ValueError):  # nobody listens: the answer matters more
            self._stream.write(text)
            self._stream.flush()

    def _columns(self) -> int:
        assert self._stream is not None
        with contextlib.suppress(OSError):
            return os.get_terminal_size(self._stream.fileno()).columns or _DEFAULT_COLUMNS
        return _DEFAULT_COLUMNS
