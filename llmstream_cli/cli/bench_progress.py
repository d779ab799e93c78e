"""How far a benchmark is, how long it will still take, and what its time is enough for."""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from llmstream_cli.cli.terminal import complain

_BAR_CELLS = 24
_REDRAW_SECONDS = 0.5


@dataclass(slots=True)
class Plan:
    """The runs to come, and the time for them.

    A run is taken to last as long as the last one did, for each of its streams: batching makes it
    shorter than that where there are more of them.

    Attributes:
        pending: how many streams each run has that has not ended, warm-ups included.
        seconds: that all runs may take; None is no limit.
    """

    pending: list[int]
    seconds: float | None
    _started: float = 0.0
    _run_started: float = 0.0
    _seconds_per_stream: float | None = None

    def __post_init__(self) -> None:
        self._started = time.perf_counter()

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self._started

    @property
    def left(self) -> float | None:
        """How many seconds it may still take; None before the first run has ended."""
        if self._seconds_per_stream is None:
            return None
        running = time.perf_counter() - self._run_started
        total = max(0.0, sum(self.pending) * self._seconds_per_stream - running)
        return total if self.seconds is None else min(total, max(0.0, self.seconds - self.elapsed))

    def allows(self, streams: int, runs: int = 1) -> bool:
        """Tell whether runs of so many streams would end in time."""
        if self.seconds is None:
            return True
        needed = runs * streams * (self._seconds_per_stream or 0.0)
        return self.elapsed + needed < self.seconds

    @contextlib.asynccontextmanager
    async def run(self, streams: int) -> AsyncIterator[None]:
        """Time a run, and end it with the time.

        Raises:
            TimeoutError: there is no more time.
        """
        self._run_started = time.perf_counter()
        rest = None if self.seconds is None else self.seconds - self.elapsed
        async with asyncio.timeout(rest):
            yield
        self.pending.remove(streams)
        ended = time.perf_counter()
        self._seconds_per_stream, self._run_started = (ended - self._run_started) / streams, ended


class Progress:
    """A line on standard error that is drawn anew as time goes; none unless it is a terminal."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._terminal = sys.stderr is not None and sys.stderr.isatty()
        self._text = ""

    def show(self, text: str) -> None:
        """Say what is being done."""
        self._text = text
        self._draw()

    def clear(self) -> None:
        """Leave an empty line, with the cursor at its beginning."""
        self._write("\r\x1b[K")

    @contextlib.asynccontextmanager
    async def drawn(self) -> AsyncIterator[None]:
        """Draw as long as the block runs."""

        async def redraw() -> None:
            while True:
                await asyncio.sleep(_REDRAW_SECONDS)
                self._draw()

        task = asyncio.create_task(redraw()) if self._terminal else None
        try:
            yield
        finally:
            if task is not None:
                task.cancel()

    def _draw(self) -> None:
        left, elapsed = self._plan.left, self._plan.elapsed
        bar = "" if left is None else f"{_bar(elapsed / (elapsed + left))} {left:.0f} s left, "
        self._write(f"\r\x1b[K{bar}{self._text}")

    def _write(self, text: str) -> None:
        if self._terminal:
            complain(text)


def _bar(fraction: float) -> str:
    return "[" + ("#" * round(fraction * _BAR_CELLS)).ljust(_BAR_CELLS, "-") + "]"
