"""The engine's process: `python -m llmstream_cli.engines.worker`.

Its standard input is a socket to its parent, a `SupervisedEngine`. The main thread loads the model
and steps; one thread reads commands, and what the processes of `engines.encoding` make of them; one
writes reports. Only that one waits for the parent, so a slow parent never stops a step; what it has
to write is bounded by the requests that the parent has made.

Only the parent decides when the process ends: by closing the socket, if only because it died. A bug
in any thread ends it as well, and the parent starts it anew.
"""

import contextlib
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from typing import NoReturn

from llmstream_cli.api import Chunk, Embeddings, GenerationRequest, ModelInfo, Tokens
from llmstream_cli.core.llama import set_log_sink
from llmstream_cli.core.model import EncodedRequest, EncodedTexts
from llmstream_cli.core.step_loop import Result, StepLoop
from llmstream_cli.engines import ipc
from llmstream_cli.engines.encoder import die_with_parent
from llmstream_cli.engines.encoding import EncodingPool, Outcome, counting
from llmstream_cli.errors import LLMStreamError

_READY = -1  # the request id under which the model's info comes; the parent's begin with 0
_CHECK_SECONDS = 0.5


class Worker:
    """What the process does."""

    def __init__(self, parent: Connection) -> None:
        self._parent = parent
        self._info: ModelInfo | None = None
        self._counts: set[int] = set()  # requests whose prompt is only counted
        self._outbox: queue.SimpleQueue[ipc.Report] = queue.SimpleQueue()
        threading.Thread(target=self._write_reports, name="outbox", daemon=True).start()

    def run(self) -> NoReturn:
        """Serve the parent until it hangs up, or until the engine fails."""
        load = self._receive()
        assert isinstance(load, ipc.Load)
        if load.log:
            set_log_sink(sys.stderr.write)
        self._encodings = EncodingPool(load.config, self._submit)
        self._steps = StepLoop(load.config, self._report)
        self._steps.tell_ready(_READY)
        threading.Thread(target=self._read_commands, name="inbox", daemon=True).start()
        self._steps.run()
        assert self._steps.end is not None
        self._outbox.put(ipc.Ended(ipc.Failure.of(self._steps.end)))
        while True:
            signal.pause()  # the thread that writes it ends the process

    def _write_reports(self) -> None:
        import pydantic_core  # noqa: F401  (now, while the model is being loaded)

        with contextlib.suppress(OSError):  # the parent is gone
            while True:
                report = self._outbox.get()
                self._parent.send_bytes(ipc.dump_report(report))
                if isinstance(report, ipc.Ended):
                    os._exit(1)
        os._exit(0)

    def _report(self, results: Sequence[tuple[int, Result]]) -> None:
        """Send what a step produced; on the main thread."""
        answers: list[tuple[int, Chunk | Embeddings | ipc.Failure]] = []
        for request_id, result in results:
            if isinstance(result, ModelInfo):
                self._info = replace(result, name=ipc.encodable(result.name))
                self._outbox.put(ipc.Loaded(self._info))
            elif isinstance(result, Chunk | Embeddings):
                answers.append((request_id, result))
            elif request_id != _READY:  # a load that failed is told with `Ended`
                answers.append((request_id, ipc.Failure.of(result)))
        self._outbox.put(ipc.Results(tuple(answers), self._steps.metrics))

    def _read_commands(self) -> None:
        while True:
            encodings = self._encodings.connections
            ready = wait([self._parent, *encodings], _CHECK_SECONDS if encodings else None)
            if self._parent in ready:
                self._execute(self._receive())
            self._encodings.receive(ready)

    def _receive(self) -> ipc.Command:
        try:
            command: ipc.Command = self._parent.recv()
        except (EOFError, OSError):  # the parent is gone
            os._exit(0)
        return command

    def _execute(self, command: ipc.Command) -> None:
        match command:
            case ipc.Submit(request_id, request):
                assert self._info is not None  # else the parent would not have sent it
                self._encodings.submit(request_id, request, self._info)
            case ipc.Count(request_id, request):
                assert self._info is not None
                self._counts.add(request_id)
                self._encodings.submit(request_id, *counting(request, self._info))
            case ipc.Cancel(request_id):
                self._counts.discard(request_id)
                self._encodings.cancel(request_id)
                with contextlib.suppress(LLMStreamError):  # the engine has just failed
                    self._steps.cancel(request_id)
            case ipc.Ping():
                self._outbox.put(ipc.Pong())

    def _submit(self, request_id: int, request: ipc.Request, outcome: Outcome) -> None:
        counts = request_id in self._counts
        self._counts.discard(request_id)
        if isinstance(outcome, EncodedRequest) and counts:
            self._outbox.put(ipc.Counted(request_id, len(outcome.prompt)))
        elif isinstance(outcome, Tokens):
            self._outbox.put(ipc.Results(((request_id, outcome),), self._steps.metrics))
        elif isinstance(outcome, EncodedTexts):
            with contextlib.suppress(LLMStreamError):
                self._steps.embed(request_id, outcome)
        elif isinstance(outcome, EncodedRequest):
            assert isinstance(request, GenerationRequest)
            with contextlib.suppress(LLMStreamError):  # the engine has just failed
                self._steps.submit(request_id, outcome, request.sampling)
        else:
            failure = ipc.Failure.of(outcome)
            self._outbox.put(ipc.Results(((request_id, failure),), self._steps.metrics))


def _leave_on_bug(error: BaseException | None) -> None:
    if not isinstance(error, SystemExit):  # which ends a single thread
        traceback.print_exception(error)
        os._exit(1)


def main() -> NoReturn:
    """Run the process."""
    die_with_parent()
    sys.excepthook = lambda _, error, __: _leave_on_bug(error)
    threading.excepthook = lambda bug: _leave_on_bug(bug.exc_value)
    # A service manager may signal every process of a service: the parent still has to drain.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # The thread that steps wants the GIL after each call into llama.cpp.
    sys.setswitchinterval(0.001)
    Worker(Connection(os.dup(0))).run()


if __name__ == "__main__":
    main()
