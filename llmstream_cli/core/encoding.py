"""Prompts encoded on threads of their own, each within a time limit.

A chat template is a program from the model file. Its sandbox bounds what it writes and repeats; one
made for the purpose can still compute for ever without writing. Here that costs its own request,
and nobody else: the request is answered with an error, and the thread is stopped.
"""

import contextlib
import ctypes
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from llmstream_cli.core.api import GenerationRequest
from llmstream_cli.errors import EngineError, LLMStreamError, PromptError

T = TypeVar("T")


class EncodingStuckError(Exception):
    """A thread does not stop, and cannot be made to: the process is beyond help."""


class _Stop(SystemExit):
    """Raised inside a thread that is to stop. No `except Exception` catches it."""


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    thread: threading.Thread
    deadline: float


class EncodingPool(Generic[T]):
    """Encodes a few prompts at once, in the order in which they come.

    A request's outcome is delivered at most once: whoever takes its job out of the books, under the
    lock, is the one to deliver. So a thread that is stopped has nothing left to say.

    Args:
        encode: makes of a request what the engine takes; see `LoadedModel.encode`.
        deliver: takes a request's id, the request, and what was made of it or why there is nothing.
            Called on any thread; it must not block.
        places: how many are encoded at once.
        seconds: the time limit of each.
    """

    def __init__(
        self,
        encode: Callable[[GenerationRequest], T],
        deliver: Callable[[int, GenerationRequest, T | LLMStreamError], object],
        *,
        places: int = 4,
        seconds: float = 10.0,
    ) -> None:
        self._encode = encode
        self._deliver = deliver
        self._places = places
        self._seconds = seconds
        self._lock = threading.Lock()
        self._waiting: dict[int, GenerationRequest] = {}
        self._running: dict[int, tuple[_Job, GenerationRequest]] = {}
        self._stopping: list[_Job] = []

    @property
    def busy(self) -> bool:
        """Whether `check` may have something to do."""
        return bool(self._running or self._stopping)

    def submit(self, request_id: int, request: GenerationRequest) -> None:
        """Encode a request as soon as there is a place."""
        with self._lock:
            self._waiting[request_id] = request
            self._fill()

    def cancel(self, request_id: int) -> None:
        """Forget a request; once this returns it is not delivered any more."""
        with self._lock:
            self._waiting.pop(request_id, None)
            if request_id in self._running:
                self._stop(request_id)
            self._fill()

    def check(self) -> None:
        """Enforce the time limit; call it every second or so.

        Raises:
            EncodingStuckError: a thread that was stopped has gone on for as long again.
        """
        now = time.monotonic()
        with self._lock:
            overdue = [i for i, (job, _) in self._running.items() if job.deadline < now]
            for request_id in overdue:
                request = self._stop(request_id)
                limit = f"in {self._seconds:g} seconds"
                error = PromptError(f"the chat template made no prompt {limit}")
                self._deliver(request_id, request, error)
            self._fill()
            self._stopping = [job for job in self._stopping if job.thread.is_alive()]
            if any(job.deadline < now for job in self._stopping):
                raise EncodingStuckError

    # Called with the lock held.

    def _fill(self) -> None:
        while self._waiting and len(self._running) < self._places:
            request_id = next(iter(self._waiting))
            request = self._waiting.pop(request_id)
            thread = threading.Thread(target=self._run, args=(request_id, request), daemon=True)
            self._running[request_id] = _Job(thread, time.monotonic() + self._seconds), request
            thread.start()

    def _stop(self, request_id: int) -> GenerationRequest:
        job, request = self._running.pop(request_id)
        # Python delivers it between two bytecodes; a call that is inside C has to return first.
        ident = ctypes.c_ulong(job.thread.ident or 0)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(_Stop))
        self._stopping.append(_Job(job.thread, time.monotonic() + self._seconds))
        return request

    # Runs on a thread for each request.

    def _run(self, request_id: int, request: GenerationRequest) -> None:
        with contextlib.suppress(_Stop):  # then the job is out of the books already
            self._finish(request_id, request)

    def _finish(self, request_id: int, request: GenerationRequest) -> None:
        outcome: T | LLMStreamError
        try:
            outcome = self._encode(request)
        except LLMStreamError as error:
            outcome = error
        except Exception as error:  # noqa: BLE001  (a bug; the request must hear of it)
            outcome = EngineError(f"the prompt could not be encoded: {error!r}")
        with self._lock:
            if self._running.pop(request_id, None) is not None:
                self._deliver(request_id, request, outcome)
            self._fill()
