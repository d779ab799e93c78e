"""How far a benchmark is, how long it will still take, and what its time is enough for."""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator

from llmstream_cli.cli.terminal import write_stderr

_BAR_CELLS = 24
_REDRAW_SECONDS = 0.2


class Plan:
    """The runs to come, and the time for them.

    A run is taken to last as long as the last one did, for each of its streams: batching makes it
    shorter than that where there are more of them.
    """

    def __init__(self, pending: list[int], seconds: float | None) -> None:
        self.pending = pending  # how many streams each run has that has not ended, also warm-ups
        self.seconds = seconds  # that all runs may take; None is no limit
        self.doing = ""  # for people
        self._started = self._run_started = time.perf_counter()
        self._seconds_per_stream: float | None = None  # None before the first run has ended

    @property
    def elapsed(self) -> float:
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
        needed = runs * streams * (self._seconds_per_stream or 0.0)
        return self.seconds is None or self.elapsed + needed < self.seconds

    def start_run(self, doing: str) -> None:
        self.doing, self._run_started = doing, time.perf_counter()

    def end_run(self, streams: int) -> None:
        self.pending.remove(streams)
        ended = time.perf_counter()
        self._seconds_per_stream, self._run_started = (ended - self._run_started) / streams, ended

    @property
    def line(self) -> str:
        """A bar, the time that is left, and what is being done."""
        left, elapsed = self.left, self.elapsed
        if left is None:
            return self.doing
        cells = round(_BAR_CELLS * elapsed / (elapsed + left)) if left else _BAR_CELLS
        return f"[{'#' * cells:-<{_BAR_CELLS}}] {left:.0f} s left, {self.doing}"


@contextlib.asynccontextmanager
async def shown(plan: Plan) -> AsyncIterator[None]:
    """Draw the plan's line on standard error as long as the block runs, if it is a terminal."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield
        return

    async def redraw() -> None:
        while True:
            write_stderr(f"\r\x1b[K{plan.line}")
            await asyncio.sleep(_REDRAW_SECONDS)

    task = asyncio.create_task(redraw())
    try:
        yield
    finally:
        task.cancel()
        write_stderr("\r\x1b[K")
