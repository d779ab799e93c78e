"""The engine's process, a `worker`, and the connection to it, for one event loop."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from llmstream_cli.api import EngineConfig
from llmstream_cli.engines import ipc
from llmstream_cli.errors import EngineError, one_line

WORKER_MODULE = "llmstream_cli.engines.worker"

_LEAVE_SECONDS = 1.0  # from the end of the connection until the process is killed
_REAP_SECONDS = 5.0  # from there until it is given up: the kernel may still write its memory out
_POLL_SECONDS = 0.01
_MAX_REASON_CHARS = 300
_READ_BYTES = 64 * 1024

# Variables that the process may see, by their names or how these begin: where libraries and
# temporary files are, how text is written, and what the compute libraries read.
_INHERITED = re.compile(
    "(PATH|HOME|LANG|LANGUAGE|TZ|TMPDIR|TEMP|TMP|VIRTUAL_ENV|SYSTEMROOT)$|"
    "(LC|LD|DYLD|MALLOC|OMP|GOMP|KMP|OPENBLAS|MKL|BLIS|VECLIB|GGML|LLAMA|CUDA|NVIDIA|HIP|HSA|ROCR|"
    "GPU|VK|MTL|METAL|SYCL|ONEAPI|ZE|GLIBC|COV|COVERAGE)_"
)


class Child:
    """The engine's process, which begins to load the model at once, and the connection to it.

    On Linux it dies with the thread that made this object. An event loop has to run. `receive`
    takes the process's reports, `log` what it writes to standard error, line by line.

    Raises:
        EngineError: no process can be started.
    """

    def __init__(
        self,
        config: EngineConfig,
        receive: Callable[[ipc.Report], object],
        log: Callable[[str], object] | None = None,
    ) -> None:
        self.exit_reason = ""  # why it ended, where that is known better than its exit code tells
        self._receive = receive
        self._log = log
        self._last_line = ""
        self._writer: asyncio.StreamWriter | None = None
        self._hung_up = False
        try:
            self._process, self._socket = ipc.spawn(
                WORKER_MODULE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=_environment(),
            )
        except OSError as error:
            raise EngineError(f"cannot start the engine's process: {error}") from error
        self._observed = psutil.Process(self._process.pid)
        with contextlib.suppress(OSError):  # it has died already
            self._socket.sendall(ipc.pack_command(ipc.Load(config, log is not None)))
        self._reports = asyncio.create_task(self._read_reports())
        self._lines = asyncio.create_task(self._read_lines())

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def rss_bytes(self) -> int:
        """Resident memory of the process; 0 where the system does not tell, or it has ended."""
        with contextlib.suppress(psutil.Error, OSError):  # the second without file descriptors
            return self._observed.memory_info().rss
        return 0

    def activity(self) -> object:
        """Return what changes while the process computes or reads; None where it is not known."""
        with contextlib.suppress(psutil.Error, OSError):  # the second without file descriptors
            return self._observed.cpu_times(), self._observed.memory_info().rss
        return None

    def send(self, command: ipc.Command) -> None:
        """Send a command; it is dropped when the process is gone. See `ipc.pack_command`."""
        frame = ipc.pack_command(command)
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(frame)

    def hang_up(self) -> None:
        """End the connection, upon which the process leaves; it is not heard any more."""
        self._hung_up = True
        self._reports.cancel()

    def kill(self, exit_reason: str) -> None:
        """Kill the process for the reason that `exit_reason` tells, unless it has ended already."""
        if self._process.poll() is None:
            self.exit_reason = self.exit_reason or exit_reason
            self._process.kill()

    async def ended(self) -> str:
        """Wait until connection and process are gone; return why, in a line."""
        await asyncio.wait([self._reports])
        self._socket.close()  # where it was not yet listened to
        if not await self._exited(_LEAVE_SECONDS):
            self.kill("the engine's process hung up")
            await self._exited(_REAP_SECONDS)
        # Its last line may be on its way. The pipe ends with it, unless another process holds it.
        await asyncio.wait([self._lines], timeout=_LEAVE_SECONDS)
        self._lines.cancel()
        return self._reason()

    async def _exited(self, seconds: float) -> bool:
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
        if code == -signal.SIGKILL:  # it could not leave a word
            return "the engine's process was killed, which the system does when memory runs out"
        if code is not None and code < 0:
            reason = f"the engine's process was ended by {_signal_name(-code)}"
        else:
            reason = f"the engine's process ended with code {code}"
        return f"{reason}: {self._last_line}" if self._last_line else reason

    async def _read_reports(self) -> None:
        reader, self._writer = await asyncio.open_unix_connection(sock=self._socket)
        try:
            while not self._hung_up:  # a cancelled task still gets what has been read
                length = int.from_bytes(await reader.readexactly(ipc.HEADER_BYTES), "big")
                if length > ipc.MAX_REPORT_BYTES:
                    raise ipc.WireError(f"a frame of {length} bytes")
                self._receive(ipc.parse_report(await reader.readexactly(length)))
        except ipc.WireError as error:
            self.kill(one_line(f"the engine's process sent {error}", _MAX_REASON_CHARS))
        except (EOFError, OSError):  # it is gone
            pass
        finally:
            self._writer.transport.abort()

    async def _read_lines(self) -> None:
        assert self._process.stdout is not None
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), self._process.stdout
        )
        part = b""
        try:
            while data := await reader.read(_READ_BYTES):
                *lines, part = (part + data).split(b"\n")
                part = part[-8 * _MAX_REASON_CHARS :]
                for line in lines:
                    self._note_line(line)
            self._note_line(part)
        finally:
            transport.close()

    def _note_line(self, line: bytes) -> None:
        decoded = line.decode("utf-8", "replace")
        text = "".join(character for character in decoded if character.isprintable()).strip()
        if text:
            self._last_line = text[:_MAX_REASON_CHARS]
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
