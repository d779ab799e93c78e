"""The engine's process: `python -m llmstream_cli.engines.worker`.

Its standard input is a socket to its parent, a `SupervisedEngine`. The main thread loads the model
and steps; one thread reads commands, and what the processes of `engines.encoding` make of them; one
writes reports, all that have gathered meanwhile at once. Only that one waits for the parent.

Only the parent decides when the process ends: by closing the socket, if only because it died. A bug
in any thread ends it as well, and the parent starts it anew.
"""

import contextlib
import os
import queue
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Sequence
from multiprocessing.connection import wait
from types import TracebackType
from typing import NoReturn

from llmstream_cli.api import Chunk, GenerationRequest, ModelInfo
from llmstream_cli.core.llama import set_log_sink
from llmstream_cli.core.model import EncodedRequest
from llmstream_cli.core.step_loop import Result, StepLoop
from llmstream_cli.engines.encoder import die_with_parent
from llmstream_cli.engines.encoding import EncodingPool
from llmstream_cli.engines.ipc import (
    Cancel,
    Command,
    Ended,
    FrameReader,
    Load,
    Loaded,
    Ping,
    Pong,
    Report,
    Results,
    Submit,
    pack,
)
from llmstream_cli.errors import LLMStreamError

_READY = -1  # the request id under which the model's info comes; the parent's begin with 0
_CHECK_SECONDS = 0.5
_RECEIVE_BYTES = 64 * 1024


class Outbox:
    """Sends reports on a thread of its own, so that a slow parent never stops a step.

    What waits is bounded by the requests that the parent has asked for.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._queue: queue.SimpleQueue[Report | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self._thread.start()

    def post(self, report: Report) -> None:
        """Send a report soon; from any thread."""
        self._queue.put(report)

    def close(self) -> None:
        """Wait until everything is sent."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            reports = [self._queue.get()]
            while not self._queue.empty():  # only this thread takes
                reports.append(self._queue.get())
            self._send(reports)
            if None in reports:
                return

    def _send(self, reports: Sequence[Report | None]) -> None:
        frames = b"".join(pack(report) for report in reports if report is not None)
        try:
            self._connection.sendall(frames)
        except OSError:  # the parent is gone
            os._exit(0)


class Worker:
    """What the process does.

    Args:
        connection: to the parent.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._outbox = Outbox(connection)
        self._info: ModelInfo | None = None

    def run(self) -> NoReturn:
        """Serve the parent until it hangs up, or until the engine fails."""
        reader = FrameReader(Command)
        first: list[Command] = []
        while not first:
            first = list(reader.feed(self._receive()))
        (load,) = first  # the parent sends no more before the model is loaded
        assert isinstance(load, Load)
        if load.log:
            set_log_sink(sys.stderr.write)
        self._encodings = EncodingPool(load.config, self._submit)
        self._steps = StepLoop(load.config, self._report)
        self._steps.tell_ready(_READY)
        threading.Thread(target=self._obey, args=(reader,), name="inbox", daemon=True).start()
        self._steps.run()
        assert self._steps.end is not None
        self._outbox.post(Ended(self._steps.end))
        self._outbox.close()
        os._exit(1)

    def _report(self, results: Sequence[tuple[int, Result]]) -> None:
        """Send what a step produced; on the main thread."""
        answers: list[tuple[int, Chunk | LLMStreamError]] = []
        for request_id, result in results:
            if isinstance(result, ModelInfo):
                self._info = result
                self._outbox.post(Loaded(result))
            elif request_id != _READY:  # a load that failed is told with `Ended`
                answers.append((request_id, result))
        self._outbox.post(Results(tuple(answers), self._steps.metrics))

    def _obey(self, reader: FrameReader) -> None:
        while True:
            encodings = self._encodings.connections
            ready = wait([self._connection, *encodings], _CHECK_SECONDS if encodings else None)
            if self._connection in ready:
                for command in reader.feed(self._receive()):
                    self._execute(command)
            self._encodings.receive(ready)

    def _receive(self) -> bytes:
        data = self._connection.recv(_RECEIVE_BYTES)
        if not data:
            os._exit(0)
        return data

    def _execute(self, command: Command) -> None:
        match command:
            case Submit(request_id, request):
                assert self._info is not None  # else the parent would not have sent it
                self._encodings.submit(request_id, request, self._info)
            case Cancel(request_id):
                self._encodings.cancel(request_id)
                with contextlib.suppress(LLMStreamError):  # the engine has just failed
                    self._steps.cancel(request_id)
            case Ping():
                self._outbox.post(Pong())

    def _submit(
        self, request_id: int, request: GenerationRequest, outcome: EncodedRequest | LLMStreamError
    ) -> None:
        if isinstance(outcome, EncodedRequest):
            with contextlib.suppress(LLMStreamError):  # the engine has just failed
                self._steps.submit(request_id, outcome, request.sampling)
        else:
            self._outbox.post(Results(((request_id, outcome),), self._steps.metrics))


def _leave_on_bug(
    kind: type[BaseException], error: BaseException | None, trace: TracebackType | None
) -> None:
    if not issubclass(kind, SystemExit):  # which ends a single thread
        traceback.print_exception(kind, error, trace)
        os._exit(1)


def main() -> NoReturn:
    """Run the process."""
    die_with_parent()
    sys.excepthook = _leave_on_bug
    threading.excepthook = lambda bug: _leave_on_bug(*bug[:3])
    # A service manager may signal every process of a service: the parent still has to drain.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # The thread that steps wants the GIL after each call into llama.cpp.
    sys.setswitchinterval(0.001)
    Worker(socket.socket(fileno=0)).run()


if __name__ == "__main__":
    main()
