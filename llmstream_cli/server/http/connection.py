"""One connection: requests from a socket to the application, one after the other.

One task does it all: it reads a request's head and calls the application, which reads the rest. An
ASGI application asks for the next message while it answers, and is told there that its client has
left. Every wait has a limit.
"""

import asyncio
import contextlib
import json
import logging
import socket
import struct
from email.utils import formatdate
from typing import Any
from urllib.parse import unquote

import h11

from llmstream_cli.errors import EngineError, LLMStreamError, RequestError, one_line
from llmstream_cli.server.http.failure import error_body
from llmstream_cli.server.http.http1 import StrictConnection
from llmstream_cli.server.settings import ServerSettings

_log = logging.getLogger(__name__)

_MAX_READ = 64 * 1024
_MAX_PIPELINED = 64 * 1024  # bytes of later requests, while one is answered
_WRITE_BUFFER = 64 * 1024  # bytes; beyond them a response waits for its reader
_LINGER_SECONDS = 5.0  # for a client to see that it need not send the rest
_REFUSED_SECONDS = 1.0  # the same, for one that is one too many
_GOODBYE_SECONDS = 2.0  # for a TLS client to answer the goodbye of a server that stops
_RESET = struct.pack("ii", 1, 0)  # linger for no time: the connection ends with a reset
_MAX_REASON_CHARS = 200

_NO_CONTENT, _NOT_MODIFIED = 204, 304


class Connection:
    """Serves one client: `app` is an ASGI application."""

    def __init__(
        self,
        app: Any,
        settings: ServerSettings,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._app = app
        self._settings = settings
        self._reader = reader
        self._writer = writer
        self._http = StrictConnection()
        self._is_stopping = False  # no more requests are taken
        self._has_left = False  # nobody reads what is sent
        self._bodiless = False  # the response has a head alone
        self._head_timeout: asyncio.Timeout | None = None  # while no request is answered

    async def serve(self) -> None:
        """Answer requests until either side closes."""
        self._writer.transport.set_write_buffer_limits(high=_WRITE_BUFFER)
        try:
            while not self._is_stopping and (request := await self._read_request()) is not None:
                self._bodiless = request.method == b"HEAD"
                await self._app(self._scope(request), self._receive, self._send)
                if self._http.our_state is h11.SEND_RESPONSE and not self._has_left:
                    await self._respond(500, EngineError("the server failed; its log says more"))
                if {self._http.our_state, self._http.their_state} != {h11.DONE}:
                    break
                self._http.start_next_cycle()
        finally:
            await self._close()

    async def refuse(self, response: bytes) -> None:
        """Send a response to whatever the client may ask, and close."""
        self._writer.write(response)
        await self._linger(_REFUSED_SECONDS)
        await self._close()

    def stop(self) -> None:
        """Close after the request that is being answered, at once if there is none."""
        self._is_stopping = True
        if self._head_timeout is not None and not self._head_timeout.expired():
            self._head_timeout.reschedule(0)

    def abort(self) -> None:
        """Close at once; with a reset, where the client would take what it has for a whole."""
        if self._http.ends_by_close and not self._writer.is_closing():
            sock = self._writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._writer.transport.abort()

    # ---- reading ----------------------------------------------------------------------------

    async def _read_request(self) -> h11.Request | None:
        """Return the next request without its body; None where there will be none."""
        seconds = self._settings.header_seconds
        try:
            async with asyncio.timeout(seconds) as self._head_timeout:
                while (event := self._http.next_event()) is h11.NEED_DATA:
                    if not await self._fill():
                        return None
        except TimeoutError:
            return None
        except h11.RemoteProtocolError as error:
            await self._respond_malformed(error)
            return None
        finally:
            self._head_timeout = None
        assert isinstance(event, h11.Request)
        return event

    async def _receive(self) -> dict[str, Any]:
        """Return a part of the body, or later that the client has left, as ASGI has it.

        What comes behind this request waits in the buffer, so that its client is seen to leave;
        what comes behind the response waits in the socket.
        """
        if self._http.they_are_waiting_for_100_continue:
            await self._send_event(h11.InformationalResponse(status_code=100, headers=[]))
        while not self._has_left:
            event = None
            if self._http.their_state is h11.SEND_BODY:
                try:
                    event = self._http.next_event()
                except h11.RemoteProtocolError as error:
                    self._has_left = True
                    await self._respond_malformed(error)
                    break
            if isinstance(event, h11.Data):
                return {"type": "http.request", "body": bytes(event.data), "more_body": True}
            if isinstance(event, h11.EndOfMessage):
                return {"type": "http.request", "body": b"", "more_body": False}
            if self._http.our_state in {h11.DONE, h11.MUST_CLOSE}:
                await asyncio.get_running_loop().create_future()  # the application ends this
            if self._http.buffered > _MAX_PIPELINED:
                self.abort()
                break
            if not await self._fill():
                break
        self._has_left = True
        return {"type": "http.disconnect"}

    async def _fill(self) -> bool:
        """Read on; return whether there was anything."""
        try:
            data = await self._reader.read(_MAX_READ)
        except OSError:  # reset by the client
            data = b""
        if data:
            self._http.receive_data(data)
        else:
            self._has_left = True
        return bool(data)

    def _scope(self, request: h11.Request) -> dict[str, Any]:
        path, _, query = request.target.partition(b"?")
        is_tls = self._writer.get_extra_info("ssl_object") is not None
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.1"},
            "http_version": request.http_version.decode(),
            "method": request.method.decode(),
            "scheme": "https" if is_tls else "http",
            "path": unquote(path.decode()),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": list(request.headers),
            "client": self._writer.get_extra_info("peername", ("unknown", 0))[:2],
            "server": self._writer.get_extra_info("sockname", ("unknown", 0))[:2],
            "extensions": {},
        }

    # ---- writing ----------------------------------------------------------------------------

    async def _send(self, message: dict[str, Any]) -> None:
        """Send a part of the response, as ASGI has it."""
        if self._has_left:
            return
        if message["type"] == "http.response.start":
            self._bodiless |= message["status"] in {_NO_CONTENT, _NOT_MODIFIED}
            await self._send_head(message["status"], message["headers"])
        else:
            if message["body"] and not self._bodiless:
                await self._send_event(h11.Data(data=message["body"]))
            if not message.get("more_body", False):
                await self._send_event(h11.EndOfMessage())

    async def _respond_malformed(self, error: h11.RemoteProtocolError) -> None:
        if self._http.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            return
        peer = self._writer.get_extra_info("peername", ("unknown",))
        _log.warning("refused a malformed request of %s", peer[0])
        reason = one_line(error, _MAX_REASON_CHARS)
        told = RequestError(f"the request is not understood: {reason}")
        await self._respond(error.error_status_hint, told)

    async def _respond(self, status: int, error: LLMStreamError) -> None:
        """Send an error that does not come from the application."""
        body = json.dumps(error_body(error)).encode()
        length = b"%d" % len(body)
        headers = [(b"content-type", b"application/json"), (b"content-length", length)]
        await self._send_head(status, headers)
        await self._send_event(h11.Data(data=body))
        await self._send_event(h11.EndOfMessage())

    async def _send_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Send the head of a response; one that comes before its request has ended is the last."""
        headers = [*headers, (b"date", formatdate(usegmt=True).encode())]
        if self._is_stopping or self._http.their_state is not h11.DONE:
            headers.append((b"connection", b"close"))
        await self._send_event(h11.Response(status_code=status, headers=headers))

    async def _send_event(self, event: Any) -> None:
        transport = self._writer.transport
        self._writer.write(self._http.send(event) or b"")
        while (waiting := transport.get_write_buffer_size()) > _WRITE_BUFFER:
            try:
                async with asyncio.timeout(self._settings.stall_seconds):
                    await self._writer.drain()
            except ConnectionError:
                return  # the reading side sees it, too
            except TimeoutError:
                if transport.get_write_buffer_size() >= waiting:
                    _log.warning("cut off a client that does not read")
                    self.abort()
                    return

    # ---- closing ----------------------------------------------------------------------------

    async def _close(self) -> None:
        """Close once what is written has been sent; a client that does not take it is cut off."""
        if self._http.ends_by_close:
            self.abort()
        elif self._http.their_state in {h11.SEND_BODY, h11.ERROR}:
            await self._linger(_LINGER_SECONDS)
        is_sent = not self._writer.transport.get_write_buffer_size()
        stall_seconds = self._settings.stall_seconds
        seconds = _GOODBYE_SECONDS if self._is_stopping and is_sent else stall_seconds
        self._writer.close()
        with contextlib.suppress(OSError):  # closed by the client, or too late
            async with asyncio.timeout(seconds):
                await self._writer.wait_closed()
        self._writer.transport.abort()

    async def _linger(self, seconds: float) -> None:
        """Close this side, and read the other for a while (RFC 9112, section 9.6).

        While the client still sends, say a body of which nobody wants the rest, to close would
        reset the connection and take the response with it.
        """
        with contextlib.suppress(OSError):  # reset by the client, or too late
            if self._writer.can_write_eof():  # TLS knows no half of a connection
                self._writer.write_eof()
            async with asyncio.timeout(seconds):
                while await self._reader.read(_MAX_READ):
                    pass
