"""A command on a terminal whose screen can be read: a pty, and pyte at its other end."""

import os
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pexpect
import pyte

TIMEOUT = 300  # seconds; the machines that run this are slow at times
SCROLLBACK = 10_000

ENTER, ALT_ENTER, CTRL_C, CTRL_D = "\r", "\x1b\r", "\x03", "\x04"


class Terminal:
    """A terminal with a command on it.

    Attributes:
        child: the command.
        screen: what the terminal shows, and what it has scrolled out.
        received: all bytes that came.
    """

    def __init__(self, child: "pexpect.spawn[bytes]", columns: int, lines: int) -> None:
        self.child = child
        self.screen = pyte.HistoryScreen(columns, lines, history=SCROLLBACK, ratio=0.5)
        self._stream = pyte.ByteStream(self.screen)
        self.received = bytearray()

    @property
    def text(self) -> str:
        """All that was shown, scrollback and screen, without spaces at the ends of lines."""
        above = ["".join(cell.data for _, cell in sorted(row.items())) for row in self._above()]
        lines = [line.rstrip() for line in (*above, *self.screen.display)]
        return "\n".join(lines).rstrip()

    def _above(self) -> list[dict[int, pyte.screens.Char]]:
        return list(self.screen.history.top)

    def send(self, keys: str) -> None:
        self.child.send(keys)

    def paste(self, text: str) -> None:
        """Paste as terminals do that have been asked to mark it."""
        self.send(f"\x1b[200~{text}\x1b[201~")

    def wait_for(self, text: str, times: int = 1) -> None:
        """Wait until the text has been shown."""
        self.wait_until(lambda: self.text.count(text) >= times, f"{text!r} to show")

    def wait_until_cooked(self) -> None:
        """Wait until no line is being edited: then Ctrl-C is a signal, and no key."""
        self.wait_until(
            lambda: bool(termios.tcgetattr(self.child.child_fd)[3] & termios.ICANON), "an answer"
        )

    def wait_until_edited(self) -> None:
        """Wait until a line is being edited."""
        self.wait_until(
            lambda: not termios.tcgetattr(self.child.child_fd)[3] & termios.ICANON, "an editor"
        )

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + TIMEOUT
        while not condition():
            assert time.monotonic() < deadline, f"waited for {what} in vain:\n{self.text}"
            try:
                self._receive(timeout=0.1)
            except pexpect.EOF:
                assert condition(), f"the command ended before {what}:\n{self.text}"

    def resize(self, columns: int, lines: int) -> None:
        self.screen.resize(lines, columns)
        self.child.setwinsize(lines, columns)

    def end(self) -> int:
        """Wait until the command has ended; return its exit code."""
        try:
            while True:
                self._receive(timeout=TIMEOUT)
        except pexpect.EOF:
            self.child.close()
        assert isinstance(self.child.exitstatus, int), self.child.signalstatus
        return self.child.exitstatus

    def _receive(self, timeout: float) -> None:
        try:
            data = self.child.read_nonblocking(65536, timeout)
        except pexpect.TIMEOUT:
            return
        self.received += data
        self._stream.feed(data)


@contextmanager
def terminal(
    *arguments: str, columns: int = 80, lines: int = 24, shell: str = "", **environment: str
) -> Iterator[Terminal]:
    """Run the command on a terminal, on one thread.

    Args:
        arguments: of the command.
        columns: of the terminal.
        lines: of the terminal.
        shell: what a shell runs, `"$@"` being the command.
        environment: what is to be different in it.
    """
    command = [sys.executable, "-m", "llmstream_cli", *arguments, "--threads", "1"]
    if shell:
        command = ["/bin/sh", "-c", shell, "sh", *command]
    child: pexpect.spawn[bytes] = pexpect.spawn(
        command[0],
        command[1:],
        timeout=TIMEOUT,
        dimensions=(lines, columns),
        env={**os.environ, "TERM": "xterm-256color", **environment},
    )
    child.delaybeforesend = None
    try:
        yield Terminal(child, columns, lines)
    finally:
        child.close(force=True)
