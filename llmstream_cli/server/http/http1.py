"""HTTP/1.1 as Hypercorn speaks it, without what it forgives.

h11 takes several shapes of request that a proxy in front may read in another way, and one request
that is two for somebody is how requests are smuggled (RFC 9112, section 11.2). Each of them is
refused here, and the connection closed: bare line feeds, folded headers, a body that is framed
twice, absolute targets, versions other than 1.0 and 1.1. Upgrade headers are ignored: over HTTP/2,
a stream that fails in the middle would leave its client waiting.

The rest of a connection's bytes never parks its reader. Hypercorn stops to read when a second
request comes before the first is answered, and would not see the client go.
"""

import json
import logging
import re
from dataclasses import replace
from typing import Any

import h11
from h11._receivebuffer import ReceiveBuffer
from hypercorn.config import Config
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.events import Response
from hypercorn.protocol.h11 import H11Protocol

from llmstream_cli.errors import RequestError, one_line
from llmstream_cli.server.http.failure import error_body

_log = logging.getLogger(__name__)

MAX_HEAD_BYTES = 32 * 1024

_VERSIONS = {b"1.0", b"1.1"}
# A line that ends in another way than CRLF, or goes on in the next one.
_BAD_LINE_END = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|\n[ \t]")
_BLANK_LINES = re.compile(rb"(?:\r\n)+")
_MAX_REASON_CHARS = 200


class _StrictBuffer(ReceiveBuffer):
    """Finds the lines of heads, chunk sizes and trailers; refuses what others read otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[bytearray] = []  # of the last head or trailers
        self.before_head = True  # what comes next is a request's first line

    def skip_blank_lines(self) -> None:
        """Skip what some clients send behind a body (RFC 9112, section 2.2)."""
        if match := _BLANK_LINES.match(self._data):
            self._extract(match.end())

    def is_next_line_obviously_invalid_request_line(self) -> bool:
        return self._data != b"\r" and super().is_next_line_obviously_invalid_request_line()

    def maybe_extract_next_line(self) -> bytearray | None:
        """Return the line of a chunk's size once it is there."""
        start = max(0, self._next_line_search - 1)
        end = self._data.find(b"\r\n", start)
        size = len(self._data) if end < 0 else end + 2
        if size > MAX_HEAD_BYTES or _BAD_LINE_END.search(self._data, start, size):
            raise h11.LocalProtocolError("the line of a chunk is too long, or has a bare line end")
        if end < 0:
            self._next_line_search = size
            return None
        return self._extract(size)

    def maybe_extract_lines(self) -> list[bytearray] | None:
        """Return the lines of a head, or of trailers, once all of them are there."""
        if self._data.startswith(b"\r\n"):
            self._extract(2)
            return []
        start = self._multiple_lines_search
        end = self._data.find(b"\r\n\r\n", start)
        size = len(self._data) if end < 0 else end + 4
        if _BAD_LINE_END.search(self._data, start, size):
            raise h11.LocalProtocolError("a header has a bare or a folded line end")
        if size > MAX_HEAD_BYTES:
            long_target = self.before_head and b"\r\n" not in self._data[:MAX_HEAD_BYTES]
            what, status = ("target", 414) if long_target else ("head", 431)
            raise h11.LocalProtocolError(
                f"the {what} is longer than {MAX_HEAD_BYTES} bytes", status
            )
        if end < 0:
            self._multiple_lines_search = max(0, size - 3)
            return None
        self.lines = self._extract(size).split(b"\r\n")[:-2]
        return self.lines


class StrictConnection(h11.Connection):
    """h11's state machine for a server, with the rules above."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._receive_buffer: _StrictBuffer = _StrictBuffer()
        self.reason = ""  # why the client is refused

    def next_event(self) -> Any:
        """Return the next event; a request only if it keeps the rules.

        Raises:
            h11.RemoteProtocolError: it does not.
        """
        self._receive_buffer.before_head = self.their_state is h11.IDLE
        if self._receive_buffer.before_head:
            self._receive_buffer.skip_blank_lines()
        try:
            event = super().next_event()
            if isinstance(event, h11.Request):
                _check(event, self._receive_buffer.lines)
                return _without_upgrade(event)
        except h11.RemoteProtocolError as error:
            self.reason = one_line(error, _MAX_REASON_CHARS)
            raise
        # Whatever waits behind this request waits in the buffer, and the reader reads on.
        return h11.NEED_DATA if event is h11.PAUSED else event

    @property
    def buffered(self) -> int:
        """Bytes that were received and belong to no event yet."""
        return len(self._receive_buffer)

    @property
    def ends_by_close(self) -> bool:
        """Whether the client would take the end of the connection for that of the response."""
        return self.our_state is h11.SEND_BODY and self.their_http_version == b"1.0"


def _check(request: h11.Request, lines: list[bytearray]) -> None:
    if request.http_version not in _VERSIONS:
        raise h11.RemoteProtocolError("the version is not 1.0 or 1.1", error_status_hint=505)
    is_asterisk = (request.method, request.target) == (b"OPTIONS", b"*")
    if not (request.target.startswith(b"/") or is_asterisk):
        raise h11.RemoteProtocolError("the target is not a path")
    # Counted in the head itself: h11 merges equal lengths into one.
    headers = [line.partition(b":") for line in lines[1:]]
    lengths = [value.strip() for name, _, value in headers if name.lower() == b"content-length"]
    encodings = sum(name.lower() == b"transfer-encoding" for name, _, _ in headers)
    if len(lengths) + encodings > 1 or not all(length.isdigit() for length in lengths):
        raise h11.RemoteProtocolError("the body is not framed in one clear way")
    if encodings and request.http_version == b"1.0":
        raise h11.RemoteProtocolError("HTTP/1.0 has no chunked bodies")


def _without_upgrade(request: h11.Request) -> h11.Request:
    headers = [(name, value) for name, value in request.headers if name != b"upgrade"]
    if len(headers) == len(request.headers):
        return request
    return h11.Request(
        method=request.method,
        target=request.target,
        headers=headers,
        http_version=request.http_version,
    )


class Http1Protocol(H11Protocol):
    """Hypercorn's protocol over a `StrictConnection`. The arguments are Hypercorn's."""

    def __init__(self, app: Any, config: Config, *arguments: Any) -> None:
        super().__init__(app, config, *arguments)
        self.connection: StrictConnection = StrictConnection()

    async def stream_send(self, event: StreamEvent) -> None:
        """Send a part of a response; one that comes before its request has ended is the last."""
        if isinstance(event, Response) and self.connection.their_state is h11.SEND_BODY:
            event = replace(event, headers=[*event.headers, (b"connection", b"close")])
        await super().stream_send(event)

    async def resume(self) -> None:
        """Handle a request that came before the last one was answered."""
        if self.connection.buffered:
            await self._handle_events()

    async def _send_error_response(self, status_code: int) -> None:
        _log.warning("refused a malformed request of %s", self.client and self.client[0])
        error = RequestError(f"the request is not understood: {self.connection.reason}")
        body = json.dumps(error_body(error)).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        await self._send_h11_event(h11.Response(status_code=status_code, headers=headers))
        await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())
