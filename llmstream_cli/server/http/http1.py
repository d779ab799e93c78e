"""HTTP/1.1 as h11 parses it, without what it forgives. Pure: bytes in, events out.

h11 takes several shapes of request that a proxy in front may read in another way, and one request
that is two for somebody is how requests are smuggled (RFC 9112, section 11.2). Each of them is
refused here, and the connection closed: bare line feeds, folded headers, a body that is framed
twice, absolute targets, versions other than 1.0 and 1.1. Upgrade headers are ignored: over HTTP/2,
a stream that fails in the middle would leave its client waiting.
"""

import re
from typing import Any

import h11
from h11._receivebuffer import ReceiveBuffer

MAX_HEAD_BYTES = 32 * 1024

_VERSIONS = {b"1.0", b"1.1"}
# A line that ends in another way than CRLF, or goes on in the next one.
_BAD_LINE_END = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|\n[ \t]")
_BLANK_LINES = re.compile(rb"(?:\r\n)+")


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

    def next_event(self) -> Any:
        """Return the next event; a request only if it keeps the rules.

        Raises:
            h11.RemoteProtocolError: it does not.
        """
        self._receive_buffer.before_head = self.their_state is h11.IDLE
        if self._receive_buffer.before_head:
            self._receive_buffer.skip_blank_lines()
        event = super().next_event()
        if isinstance(event, h11.Request):
            _check(event, self._receive_buffer.lines)
        return event

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
