"""HTTP/1.1 as Hypercorn speaks it, without what it forgives.

h11 takes several shapes of request that a proxy in front may read in another way, and one request
that is two for somebody is how requests are smuggled (RFC 9112, section 11.2). Each of them is
refused here, and the connection closed: bare line feeds, folded headers, a body that is framed
twice, absolute targets, versions other than 1.0 and 1.1. A wish to upgrade is not heard: over
HTTP/2, a stream that fails in the middle would leave its client waiting.

The rest of a connection's bytes never parks its reader. Hypercorn stops to read when a second
request comes before the first is answered, and would not see the client go.
"""

import logging
import re
from dataclasses import replace
from typing import Any

import h11
from hypercorn.config import Config
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.events import Response
from hypercorn.protocol.h11 import H11Protocol

_log = logging.getLogger(__name__)

_VERSIONS = {b"1.0", b"1.1"}
_BARE_LINE_END = re.compile(rb"(?<!\r)\n|\r(?!\n)")
_FOLDED = re.compile(rb"\n[ \t]")


class StrictConnection(h11.Connection):
    """h11's state machine for a server, with the rules above."""

    def next_event(self) -> Any:
        """Return the next event; a request only if it keeps the rules.

        Raises:
            h11.RemoteProtocolError: it does not.
        """
        if self.their_state is not h11.IDLE:
            event = super().next_event()
            # Whatever waits behind this request waits in the buffer, and the reader reads on.
            return h11.NEED_DATA if event is h11.PAUSED else event
        received = self.trailing_data[0]
        event = super().next_event()
        if isinstance(event, h11.Request):
            _check(event, received[: len(received) - len(self.trailing_data[0])])
            event = _without_upgrade(event)
        return event

    @property
    def buffered(self) -> int:
        """Bytes that were received and belong to no event yet."""
        return len(self.trailing_data[0])


def _check(request: h11.Request, head: bytes) -> None:
    if request.http_version not in _VERSIONS:
        raise h11.RemoteProtocolError("the version is not 1.0 or 1.1", error_status_hint=505)
    if _BARE_LINE_END.search(head) or _FOLDED.search(head):
        raise h11.RemoteProtocolError("a header has a bare or a folded line end")
    if not request.target.startswith(b"/") and (request.method, request.target) != (
        b"OPTIONS",
        b"*",
    ):
        raise h11.RemoteProtocolError("the target is not a path")
    # Counted in the head itself: h11 merges equal lengths into one.
    lines = [line.partition(b":") for line in head.split(b"\r\n")[1:]]
    lengths = [value.strip() for name, _, value in lines if name.lower() == b"content-length"]
    encodings = sum(name.lower() == b"transfer-encoding" for name, _, _ in lines)
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
        self.connection: StrictConnection = StrictConnection(
            h11.SERVER, max_incomplete_event_size=config.h11_max_incomplete_size
        )

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
        await super()._send_error_response(status_code)
