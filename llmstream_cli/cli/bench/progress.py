"""How far a benchmark is, how long it will still take, and what its time is enough for."""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from llmstream_cli.cli.terminal import complain

_BAR_CELLS = 24
_REDRAW_SECONDS = 0.2


@dataclass(slots=True)
class Plan:
    """The runs to come, and the time for them.

    A run is taken to last as long as the last one did, for each of its streams: batching makes it
    shorter than that where there are more of them.
    """

    pending: list[int]  # how many streams each run has that has not ended, warm-ups included
    seconds: float | None  # that all runs may take; None is no limit
    doing: str = ""  # for people
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
        needed = runs * streams * (self._seconds_per_stream or 0.0)
        return self.seconds is None or self.elapsed + needed < self.seconds

    def start_run(self, doing: str) -> None:
        """Note that a run starts now."""
        self.doing, self._run_started = doing, time.perf_counter()

    def end_run(self, streams: int) -> None:
        """Note that the run has ended, and with it how long a run takes."""
        self.pending.remove(streams)
        ended = time.perf_counter()
        self._seconds_per_stream, self._run_started = (ended - self._run_started) / streams, ended


@contextlib.asynccontextmanager
async def shown(plan: Plan) -> AsyncIterator[None]:
    """Draw a line on standard error again and again as long as the block runs, if it is a terminal.

    Afterwards the line is empty, with the cursor at its beginning.
    """
    if sys.stderr is None or not sys.stderr.isatty():
        yield
        return

    async def redraw() -> None:
        while True:
            complain(f"\r\x1b[K{progress_line(plan)}")
            await asyncio.sleep(_REDRAW_SECONDS)

    task = asyncio.create_task(redraw())
    try:
        yield
    finally:
        task.cancel()
        complain("\r\x1b[K")


def progress_line(plan: Plan) -> str:
    """Return a bar, the time that is left, and what is being done."""
    left, elapsed = plan.left, plan.elapsed
    if left is None:
        return plan.doing
    cells = round(_BAR_CELLS * elapsed / (elapsed + left)) if left else _BAR_CELLS
    return f"[{'#' * cells:-<{_BAR_CELLS}}] {left:.0f} s left, {plan.doing}"
