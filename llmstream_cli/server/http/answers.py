"""Answers that survive their connection: `/answers/{id}`.

A closed connection stops its answer, unless its client said beforehand for how many seconds it may
come back (`Resume: 60`). Then a task of its own generates the answer and keeps its bytes, whoever
reads them. Any number of readers follow it, each from the byte it wants. Once nobody has read for
so many seconds, the task is cancelled and the bytes are forgotten.
"""

import asyncio
import logging
import re
import secrets
from collections.abc import AsyncGenerator, Callable
from contextvars import Context
from typing import Any

from quart import Blueprint, Response, request

from llmstream_cli.errors import (
    GoneError,
    InvalidValueError,
    NotFoundError,
    QueueFullError,
    RangeError,
    SlowReaderError,
)
from llmstream_cli.server.http.exchange import CutError, current_exchange
from llmstream_cli.server.pages import Operation, Reply

MAX_RESUME_SECONDS = 600
MAX_ANSWER_BYTES = 16 * 1024 * 1024
MAX_BYTES = 128 * 1024 * 1024  # of all answers that are kept
MAX_ANSWERS = 1024

_log = logging.getLogger(__name__)

# The last byte of a range whose end nobody knows yet, as RFC 8673 writes it.
_OPEN_END = 2**53 - 1
_READ_BYTES = 64 * 1024


class StoredAnswer:
    """The bytes of one answer, as far as they have come."""

    def __init__(self, id_: str, key: str, seconds: int, content_type: str) -> None:
        self.id = id_
        self.key = key  # of whoever asked; nobody else reads it
        self.seconds = seconds  # that it is kept without a reader
        self.content_type = content_type
        self.data = bytearray()
        self.ended = False
        self.cut = False  # it failed, and its format cannot tell
        self.task: asyncio.Task[None] | None = None  # that generates it
        self.num_readers = 0
        self.timer: asyncio.TimerHandle | None = None
        self._grown = asyncio.Event()

    @property
    def is_complete(self) -> bool:
        return self.ended and not self.cut

    def add(self, data: bytes) -> None:
        self.data += data
        self._wake()

    def end(self, *, cut: bool) -> None:
        self.ended, self.cut = True, cut
        self._wake()

    def _wake(self) -> None:
        self._grown.set()
        self._grown = asyncio.Event()

    async def read(self, start: int) -> AsyncGenerator[bytes]:
        """Follow the answer from a byte on.

        Raises:
            CutError: it was cut, behind all its bytes.
        """
        while True:
            grown = self._grown
            while start < len(self.data):
                part = bytes(self.data[start : start + _READ_BYTES])
                start += len(part)
                yield part
            if self.ended:
                break
            await grown.wait()
        if self.cut:
            current_exchange().ended = "cut"
            raise CutError("the answer was cut")


class Answers:
    """The answers of one server that may be resumed."""

    def __init__(self) -> None:
        self._by_id: dict[str, StoredAnswer] = {}  # the oldest first
        self._num_bytes = 0  # of all of them

    async def wait_ended(self) -> None:
        """Wait for the end of all answers, also those that nobody reads at the moment."""
        tasks = [one.task for one in self._by_id.values() if one.task is not None]
        await asyncio.gather(*map(asyncio.shield, tasks), return_exceptions=True)

    async def begin(
        self, seconds: int, content_type: str, body: AsyncGenerator[bytes]
    ) -> StoredAnswer:
        """Keep an answer that `body` generates from now on; return when its first part has come.

        Raises:
            QueueFullError: too many are kept, and none of them can be dropped.
            LLMStreamError: it failed before that, and there is no answer.
        """
        id_ = secrets.token_urlsafe(24)
        answer = StoredAnswer(id_, current_exchange().key, seconds, content_type)
        self._drop(lambda: len(self._by_id) >= MAX_ANSWERS)
        if len(self._by_id) >= MAX_ANSWERS:
            raise QueueFullError("too many answers are kept; ask without Resume, or later")
        self._by_id[id_] = answer
        begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        answer.task = asyncio.create_task(self._fill(answer, body, begun))
        try:
            await begun
        except BaseException:
            self.forget(answer)
            raise
        self._keep(answer)
        return answer

    def find(self, id_: str) -> StoredAnswer:
        """Return an answer to whoever asked for it.

        Raises:
            NotFoundError: there is none, no longer, or it is another key's.
        """
        answer = self._by_id.get(id_)
        if answer is None or answer.key != current_exchange().key:
            raise NotFoundError("there is no such answer, or it is no longer kept")
        return answer

    def forget(self, answer: StoredAnswer) -> None:
        """Stop an answer, and drop its bytes; readers get to an end that is no good one."""
        if self._by_id.pop(answer.id, None) is not None:
            self._num_bytes -= len(answer.data)
        if answer.timer is not None:
            answer.timer.cancel()
        if answer.task is not None:
            answer.task.cancel()

    async def close(self) -> None:
        """Stop all answers, also those that nobody reads at the moment."""
        answers = [*self._by_id.values()]
        for answer in answers:
            self.forget(answer)
        tasks = [answer.task for answer in answers if answer.task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)

    async def follow(self, answer: StoredAnswer, start: int = 0) -> AsyncGenerator[bytes]:
        """Read an answer, which is kept as long as somebody does."""
        answer.num_readers += 1
        if answer.timer is not None:
            answer.timer.cancel()
        try:
            async for part in answer.read(start):
                yield part
        finally:
            answer.num_readers -= 1
            self._keep(answer)

    def _keep(self, answer: StoredAnswer) -> None:
        """Forget an answer in its time, if nobody reads it until then."""
        if not answer.num_readers and answer.id in self._by_id:
            # Without the context of the request, whose body a timer would keep.
            answer.timer = asyncio.get_running_loop().call_later(
                answer.seconds, self.forget, answer, context=Context()
            )

    async def _fill(
        self, answer: StoredAnswer, body: AsyncGenerator[bytes], begun: "asyncio.Future[None]"
    ) -> None:
        cut = True
        try:
            async for data in body:
                if not begun.done():
                    begun.set_result(None)
                try:
                    self._make_room(answer, len(data))
                except SlowReaderError as error:
                    self._add(answer, await body.athrow(error))
                    break
                self._add(answer, data)
            else:
                cut = False
        except Exception as error:  # noqa: BLE001  (whoever waits for the beginning raises it)
            if not begun.done():
                begun.set_exception(error)
            elif not isinstance(error, CutError):
                _log.exception("a response failed")
        finally:
            begun.cancel()
            answer.end(cut=cut)
            answer.task = None  # it has the request, and its body
            await body.aclose()

    def _add(self, answer: StoredAnswer, data: bytes) -> None:
        if answer.id in self._by_id:
            self._num_bytes += len(data)
        answer.add(data)

    def _make_room(self, answer: StoredAnswer, num_bytes: int) -> None:
        """Have the bytes for more of an answer.

        Raises:
            SlowReaderError: it is too long to be kept, alone or beside the others.
        """
        self._drop(lambda: self._num_bytes + num_bytes > MAX_BYTES)
        is_full = self._num_bytes + num_bytes > MAX_BYTES
        if is_full or len(answer.data) + num_bytes > MAX_ANSWER_BYTES:
            raise SlowReaderError("the answer is too long to be kept")

    def _drop(self, too_much: Callable[[], bool]) -> None:
        """Forget answers that have ended and nobody reads, the oldest first, while it is so."""
        if too_much():
            for one in [*self._by_id.values()]:
                if one.ended and not one.num_readers and too_much():
                    self.forget(one)


def resume_seconds(in_body: int | None = None) -> int:
    """Return for how long the client of the current request may come back; 0 for not at all.

    Raises:
        InvalidValueError: the header `Resume` says what is no such number.
    """
    header = request.headers.get("Resume")
    if header is None or in_body is not None:
        return in_body or 0
    if not re.fullmatch("[0-9]{1,3}", header) or int(header) > MAX_RESUME_SECONDS:
        raise InvalidValueError(
            f"Resume must be seconds from 0 to {MAX_RESUME_SECONDS}, not {header[:20]!r}", "Resume"
        )
    return int(header)


def answer_routes(answers: Answers) -> Blueprint:
    routes = Blueprint("answers", __name__)

    @routes.get("/answers/<id>")
    async def resume(id: str) -> Response:  # noqa: A002
        answer = answers.find(id)
        start = _range_start(request.headers.get("Range"), answer)
        response = Response(
            b"" if request.method == "HEAD" else answers.follow(answer, start or 0),
            200 if start is None else 206,
            content_type=answer.content_type,
        )
        response.headers.pop("Content-Length", None)
        response.headers.update(_headers(answer, start))
        response.timeout = None
        return response

    @routes.delete("/answers/<id>")
    async def stop(id: str) -> Response:  # noqa: A002
        answers.forget(answers.find(id))
        return Response(b"", 204)

    return routes


def _range_start(header: str | None, answer: StoredAnswer) -> int | None:
    """Return the byte from which a client wants an answer; None for all of it.

    A header that is not `bytes=N-` is ignored, as RFC 9110 allows.

    Raises:
        RangeError: the answer has not come so far, or ended there.
        GoneError: it was cut there.
    """
    unit, _, wanted = (header or "").partition("=")
    first, dash, last = wanted.partition("-")
    if unit.strip() != "bytes" or not dash or last or not (first.isascii() and first.isdecimal()):
        return None
    start, length = int(first[:20]), len(answer.data)
    if answer.cut and start == length:
        raise GoneError(f"the answer was cut after {length} bytes")
    if start > length or (answer.is_complete and start == length):
        raise RangeError(f"the answer has {length} bytes{' in all' * answer.is_complete}", length)
    return start


def _headers(answer: StoredAnswer, start: int | None) -> dict[str, str]:
    headers = {"Accept-Ranges": "bytes", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    length: Any = len(answer.data) if answer.is_complete else "*"
    if start is not None:
        last = len(answer.data) - 1 if answer.is_complete else _OPEN_END
        headers["Content-Range"] = f"bytes {start}-{last}/{length}"
    if answer.is_complete:
        headers["Content-Length"] = str(len(answer.data) - (start or 0))
    return headers


OPERATIONS = [
    Operation(
        "get",
        "/answers/{id}",
        "Go on reading an answer",
        "The bytes of an answer that was asked for with the header `Resume`, from the byte that "
        "`Range: bytes=N-` names, and those to come. DELETE stops it.",
        replies=(
            Reply(200, "The answer from its beginning.", content_type="*/*"),
            Reply(206, "The answer from the byte asked for.", content_type="*/*"),
        ),
    )
]
