"""A process of `engines.worker`, and the connection to it, for one event loop."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

from llmstream_cli.api import EngineConfig
from llmstream_cli.engines.ipc import Command, FrameReader, Load, Report, WireError, pack
from llmstream_cli.errors import EngineError

WORKER_MODULE = "llmstream_cli.engines.worker"

_LEAVE_SECONDS = 1.0  # from the end of the connection until the process is killed
_REAP_SECONDS = 5.0  # from there until it is given up: the kernel may still write its memory out
_POLL_SECONDS = 0.01
_MAX_REASON_CHARS = 300

# Variables that the process may see, by their names or how these begin: where libraries and
# temporary files are, how text is written, and what the compute libraries read.
_INHERITED = re.compile(
    "(PATH|HOME|LANG|LANGUAGE|TZ|TMPDIR|TEMP|TMP|VIRTUAL_ENV|SYSTEMROOT)$|"
    "(LC|LD|DYLD|MALLOC|OMP|GOMP|KMP|OPENBLAS|MKL|BLIS|VECLIB|GGML|LLAMA|CUDA|NVIDIA|HIP|HSA|ROCR|"
    "GPU|VK|MTL|METAL|SYCL|ONEAPI|ZE|GLIBC|COV|COVERAGE)_"
)


class Child(asyncio.Protocol):
    """A worker process, and the connection to it.

    It starts to load the model at once; an event loop is needed from `connect` on. On Linux it dies
    with the thread that made this object.

    Args:
        config: the model and the sizes.
        receive: takes the process's reports, in the loop.
        log: takes what the process writes to standard error, with llama.cpp's log, line by line.

    Attributes:
        exit_reason: why the process ended, where that is known better than its exit code tells.

    Raises:
        EngineError: there is no process to be had.
    """

    def __init__(
        self,
        config: EngineConfig,
        receive: Callable[[Report], object],
        log: Callable[[str], object] | None = None,
    ) -> None:
        self._receive = receive
        self._reader = FrameReader(Report)
        self._transport: asyncio.Transport | None = None
        self._hung_up = False  # what it still says is not heard
        self._disconnected = asyncio.Event()
        self.exit_reason = ""
        self._errors = _Lines(log)
        try:
            self._socket, theirs = socket.socketpair()
        except OSError as error:
            raise EngineError(f"cannot start the engine's process: {error}") from error
        with theirs:
            try:
                self._process = subprocess.Popen(  # noqa: S603
                    [sys.executable, "-P", "-m", WORKER_MODULE],
                    stdin=theirs.fileno(),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    env=_environment(),
                    process_group=0,  # Ctrl-C in the terminal is for this process alone
                )
            except OSError as error:
                self._socket.close()
                raise EngineError(f"cannot start the engine's process: {error}") from error
        with contextlib.suppress(OSError):  # it has died already
            self._socket.sendall(pack(Load(config, log is not None)))

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def rss_bytes(self) -> int:
        """Resident memory of the process; 0 where the system does not tell, or it has ended."""
        try:
            statm = Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii")
        except OSError:
            return 0
        page_size: int = os.sysconf("SC_PAGE_SIZE")
        return int(statm.split()[1]) * page_size

    def activity(self) -> object:
        """Return what changes while the process computes or reads; None where it is not known."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
        fields = stat.rpartition(")")[2].split()
        # Page faults, CPU time of user and system, resident pages; see proc(5).
        return fields[7], fields[9], fields[11], fields[12], fields[21]

    async def connect(self) -> None:
        """Listen to the process in the running loop."""
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: self, sock=self._socket)
        assert self._process.stdout is not None
        await loop.connect_read_pipe(lambda: self._errors, self._process.stdout)

    def send(self, command: Command) -> None:
        """Send a command; it is dropped when the process is gone.

        Raises:
            InvalidValueError: it is too long.
        """
        frame = pack(command)
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame)

    def hang_up(self) -> None:
        """End the connection, upon which the process leaves."""
        if self._transport is not None:
            self._hung_up = True
            self._transport.abort()

    def kill(self, exit_reason: str) -> None:
        """Kill the process for the reason that `exit_reason` tells, unless it has ended already."""
        if self._process.poll() is None:
            self.exit_reason = self.exit_reason or exit_reason
            self._process.kill()

    async def ended(self) -> str:
        """Wait until connection and process are gone; return why, in a line."""
        await self._disconnected.wait()
        if not await self._wait(_LEAVE_SECONDS):
            self.kill("the engine's process hung up")
            await self._wait(_REAP_SECONDS)
        # Its last words may be on their way. They end with it, unless another process holds them.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LEAVE_SECONDS):
                await self._errors.closed.wait()
        self._errors.close()
        return self._reason()

    async def _wait(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self._process.poll() is None:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(_POLL_SECONDS)
        return True

    def _reason(self) -> str:
        code = self._process.returncode
        if self.exit_reason:
            return self.exit_reason
        if code == -signal.SIGKILL:  # it has not seen that coming, and has left no word
            return "the engine's process was killed, which the system does when memory runs out"
        if code is not None and code < 0:
            reason = f"the engine's process was ended by {_signal_name(-code)}"
        else:
            reason = f"the engine's process ended with code {code}"
        last = self._errors.last[:_MAX_REASON_CHARS]
        return f"{reason}: {last}" if last else reason

    # The callbacks of `asyncio.Protocol`.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Hand over the reports that have come."""
        try:
            for report in self._reader.feed(data):
                if not self._hung_up:
                    self._receive(report)
        except WireError as error:
            self.kill(f"the engine's process sent {error}")
            self.hang_up()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end."""
        self._disconnected.set()


class _Lines(asyncio.Protocol):
    """The lines that a process writes; only the last one is kept.

    Attributes:
        last: the last line with anything on it, fit to be printed.
        closed: set when there will be no more.
    """

    def __init__(self, log: Callable[[str], object] | None) -> None:
        self._log = log
        self._transport: asyncio.BaseTransport | None = None
        self._part = b""
        self.last = ""
        self.closed = asyncio.Event()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *lines, part = (self._part + data).split(b"\n")
        self._part = part[-8 * _MAX_REASON_CHARS :]
        for line in lines:
            self._take(line)

    def connection_lost(self, exc: Exception | None) -> None:
        self._take(self._part)
        self.closed.set()

    def _take(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace").strip()
        text = "".join(character for character in text if character.isprintable())
        if text:
            self.last = text
            if self._log is not None:
                self._log(text)


def _environment() -> dict[str, str]:
    """Return the variables of the process, which parses files from strangers: what it needs.

    It finds the same modules as this one, and no others.
    """
    inherited = {name: value for name, value in os.environ.items() if _INHERITED.match(name)}
    search_path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    # Without the last, each failed assertion in ggml starts a debugger to print its stack.
    return {**inherited, "PYTHONPATH": search_path, "PYTHONUTF8": "1", "GGML_NO_BACKTRACE": "1"}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
