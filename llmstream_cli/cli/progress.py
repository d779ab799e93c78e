"""How far a download is: a bar on a terminal, a few plain lines anywhere else."""

import os
import sys
import time
from typing import TYPE_CHECKING, TextIO

from llmstream_cli.cli.terminal import write_stderr
from llmstream_cli.errors import one_line
from llmstream_cli.models.progress import Progress
from llmstream_cli.models.sizes import human_size

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

_STEP_PERCENT = 10  # between two plain lines
_FIGURES_WIDTH = 45  # columns of a terminal for the figures, and the shortest bar
_MIN_NAME_WIDTH = 12


def make_progress() -> Progress:
    """Return what suits standard error: a bar on a terminal that can show one, else lines."""
    stream = sys.stderr
    if stream is not None and stream.isatty() and os.environ.get("TERM") not in {"dumb", "unknown"}:
        return BarProgress(stream)
    return LineProgress()


class LineProgress(Progress):
    """Writes a line at the beginning, at each tenth, and at the end; implements `Progress`."""

    def __init__(self) -> None:
        self._what = ""
        self._total = self._done = self._began_at = self._next_percent = 0
        self._started = 0.0

    def begin(self, what: str, total_bytes: int, done_bytes: int = 0) -> None:
        self._what, self._total = what, total_bytes
        self._done = self._began_at = done_bytes
        self._next_percent = (self._percent() // _STEP_PERCENT + 1) * _STEP_PERCENT
        self._started = time.monotonic()
        there = f", {human_size(done_bytes)} of them are here" if done_bytes else ""
        self.note(f"{what}: {human_size(total_bytes)}{there}")

    def advance(self, num_bytes: int) -> None:
        self._done += num_bytes
        percent = self._percent()
        if percent < self._next_percent or self._done >= self._total:
            return  # the end has a line of its own
        self._next_percent = (percent // _STEP_PERCENT + 1) * _STEP_PERCENT
        self.note(f"{self._what}: {percent // _STEP_PERCENT * _STEP_PERCENT} %, {self._speed()}")

    def end(self) -> None:
        if self._done >= self._total:
            self.note(f"{self._what}: done, {self._speed()}")
        else:
            self.note(f"{self._what}: stopped at {self._percent()} %")

    def note(self, line: str) -> None:
        write_stderr(one_line(line) + "\n")

    def _percent(self) -> int:
        return 100 * self._done // self._total if self._total else 100

    def _speed(self) -> str:
        seconds = max(time.monotonic() - self._started, 1e-3)
        return f"{human_size((self._done - self._began_at) / seconds)}/s"


class BarProgress(Progress):
    """Draws a bar with bytes, speed and the time that is left; implements `Progress`."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bar: Bar | None = None
        self._task: TaskID | None = None

    def begin(self, what: str, total_bytes: int, done_bytes: int = 0) -> None:
        self.end()
        self._bar = _make_bar(self._stream)
        width = max(self._bar.console.width - _FIGURES_WIDTH, _MIN_NAME_WIDTH)
        # An unknown total has no end; Rich then shows that something moves.
        self._task = self._bar.add_task(
            one_line(what, width),
            total=total_bytes or None,
            completed=done_bytes,
        )
        self._bar.start()

    def advance(self, num_bytes: int) -> None:
        """Move the bar; Rich draws it ten times a second."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, advance=num_bytes)

    def end(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None

    def note(self, line: str) -> None:
        if self._bar is None:
            write_stderr(one_line(line) + "\n")
        else:
            self._bar.console.print(one_line(line), markup=False, highlight=False, soft_wrap=True)


def _make_bar(stream: TextIO) -> "Bar":
    from rich import progress
    from rich.console import Console
    from rich.table import Column

    class VisibleCursor(Console):
        """Never hides the cursor: Ctrl-C leaves at once, and nobody would show it again."""

        def show_cursor(self, show: bool = True) -> bool:
            return False

    console: Console = VisibleCursor(file=stream)
    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),  # gives way first where the terminal is narrow
        progress.DownloadColumn(table_column=Column(no_wrap=True)),
        progress.TransferSpeedColumn(table_column=Column(no_wrap=True)),
        progress.TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
        console=console,
        redirect_stdout=False,  # it carries the answer, and is none of the bar's business
        redirect_stderr=False,
    )
