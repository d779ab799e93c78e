"""The line that tells what is waited for."""

import io
import threading
import time
from collections.abc import Iterator

import pytest

from llmstream_cli.api import Progress
from llmstream_cli.cli.ask import waiting as waiting_module
from llmstream_cli.cli.ask.waiting import Wait, WaitingLine
from tests.core.fakes import FakeClock

TIMEOUT = 60  # seconds; the machines that run this are slow at times


class Tty(io.StringIO):
    """A terminal, or not."""

    def __init__(self, *, tty: bool = True) -> None:
        super().__init__()
        self._tty = tty

    def isatty(self) -> bool:
        return self._tty

    @property
    def shown(self) -> str:
        """What the line reads now."""
        return (
            self.getvalue().rpartition("\r\x1b[K")[2].replace("\x1b[2m", "").replace("\x1b[m", "")
        )


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(waiting_module, "_PATIENCE_SECONDS", 0.01)
    monkeypatch.setattr(waiting_module, "_TICK_SECONDS", 0.01)
    yield
    assert not [thread for thread in threading.enumerate() if thread.name == "waiting"]


def until_shown(stream: Tty, text: str) -> None:
    deadline = time.monotonic() + TIMEOUT
    while text not in stream.shown:
        assert time.monotonic() < deadline, stream.getvalue()
        time.sleep(0.005)


def ended(waiting: WaitingLine) -> None:
    waiting.end()
    for thread in threading.enumerate():
        if thread.name == "waiting":
            thread.join(TIMEOUT)


def test_a_wait_tells_its_time_or_its_place_in_the_queue() -> None:
    wait = Wait("loading the model", 100.0)
    assert wait.line(103.24) == "loading the model… 3.2 s"
    for position, place in ((3, "3 before you"), (0, "next")):
        wait.follow(Progress(position, 0, 50), 100.0)
        assert wait.line(105.0) == f"waiting in the queue: {place}"


def test_a_prompt_tells_how_much_is_read_and_when_the_rest_will_be() -> None:
    wait = Wait("starting", 100.0)
    wait.follow(Progress(1, 0, 1000), 100.0)
    wait.follow(Progress(None, 200, 1000), 110.0)  # taken from the cache
    assert wait.line(110.5) == "reading the prompt 20 %"
    wait.follow(Progress(None, 400, 1000), 114.0)
    assert wait.line(114.0) == "reading the prompt 40 % (about 12 s left)"


def test_the_line_is_shown_kept_moving_and_erased() -> None:
    stream, clock = Tty(), FakeClock()
    waiting = WaitingLine(stream, clock)
    waiting.begin("loading the model")
    until_shown(stream, "loading the model… 0.0 s")
    clock.now += 2
    until_shown(stream, "loading the model… 2.0 s")
    waiting.begin("thinking")
    until_shown(stream, "thinking… 0.0 s")
    waiting.follow(Progress(None, 5, 10))
    until_shown(stream, "reading the prompt 50 %")
    ended(waiting)
    assert stream.shown == ""
    waiting.end()
    waiting.begin("loading another")  # it can wait again
    until_shown(stream, "loading another")
    ended(waiting)
    assert "\n" not in stream.getvalue()


def test_nothing_is_shown_of_a_short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_module, "_PATIENCE_SECONDS", 600)
    stream = Tty()
    waiting = WaitingLine(stream)
    waiting.begin("loading the model")
    waiting.begin("thinking")
    ended(waiting)
    assert stream.getvalue() == ""


@pytest.mark.parametrize("stream", [None, Tty(tty=False)])
def test_without_a_terminal_there_is_no_line_and_no_thread(stream: Tty | None) -> None:
    waiting = WaitingLine(stream)
    waiting.begin("loading the model")
    waiting.follow(Progress(None, 5, 10))
    assert not [thread for thread in threading.enumerate() if thread.name == "waiting"]
    waiting.end()
    assert stream is None or stream.getvalue() == ""


def test_a_terminal_that_is_gone_is_no_reason_to_fail() -> None:
    stream = Tty()
    waiting = WaitingLine(stream)
    waiting.begin("x" * 500)
    until_shown(stream, "x")
    assert len(stream.shown) == 79  # never longer than the screen is wide
    stream.close()
    ended(waiting)
