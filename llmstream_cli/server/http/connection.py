"""One connection: bytes between a socket and the protocol, with a limit on every wait.

It stands where Hypercorn has its `TCPServer`, which waits for a slow reader without end.
"""

import asyncio
import contextlib
import logging
import socket
import struct
from collections.abc import Callable
from typing import Any

import h11
from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.typing import ConnectionState

from llmstream_cli.server.http.http1 import Http1Protocol
from llmstream_cli.server.settings import ServerSettings

_log = logging.getLogger(__name__)

_UNFINISHED = {h11.SEND_BODY, h11.ERROR}  # states of a client whose request has not come to its end

_MAX_READ = 64 * 1024
_MAX_PIPELINED = 64 * 1024  # bytes of later requests, while one is answered
_WRITE_BUFFER = 64 * 1024  # bytes; beyond them a response waits for its reader
_LINGER_SECONDS = 5.0  # for a client to see that it need not send the rest
_REFUSED_SECONDS = 1.0  # the same, for one that is one too many
_GOODBYE_SECONDS = 2.0  # for a TLS client to answer the goodbye of a server that stops
_RESET = struct.pack("ii", 1, 0)  # linger for no time: the connection ends with a reset


class Connection:
    """Serves the requests of one client, one after the other; app, config, context: Hypercorn's."""

    def __init__(
        self,
        app: Any,
        config: Config,
        context: WorkerContext,
        settings: ServerSettings,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._context = context
        self._settings = settings
        self._reader = reader
        self._writer = writer
        self._lock = asyncio.Lock()  # of the protocol's events
        self._timer: asyncio.TimerHandle | None = None
        self._lingers = False  # what still comes is dropped
        self._tasks = TaskGroup(asyncio.get_running_loop())
        self._protocol = Http1Protocol(
            app,
            config,
            context,
            self._tasks,
            ConnectionState({}),
            writer.get_extra_info("ssl_object") is not None,
            self._address("peername"),
            self._address("sockname"),
            self._send,
        )
        self._is_idle = True  # no request is being answered

    async def serve(self) -> None:
        """Answer requests until either side closes."""
        self._writer.transport.set_write_buffer_limits(high=_WRITE_BUFFER)
        try:
            async with self._tasks:
                self._become_idle(True)
                await self._read()
        finally:
            await self._end()

    async def refuse(self, response: bytes) -> None:
        """Send a response to whatever the client may ask, and close."""
        self._writer.write(response)
        self._linger(_REFUSED_SECONDS)
        try:
            await self._drop()
        finally:
            await self._end()

    def stop(self) -> None:
        """Close after the request that is being answered, at once if there is none."""
        if self._is_idle:
            self.close()

    def close(self) -> None:
        """Close once what is written has been sent; whoever answers a request is cancelled.

        While the client still sends, say a body of which nobody wants the rest, this would reset
        the connection and take the response with it. Then only this side is closed, and the other
        one read for a while (RFC 9112, section 9.6); another call closes that, too.
        """
        if self._protocol.connection.ends_by_close:
            self.abort()
        elif self._lingers or self._protocol.connection.their_state not in _UNFINISHED:
            self._finish()
        else:
            self._linger(_LINGER_SECONDS)

    def abort(self) -> None:
        """Close at once; with a reset, where the client would take what it has for a whole."""
        if self._protocol.connection.ends_by_close and not self._writer.is_closing():
            sock = self._writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._writer.transport.abort()

    def _address(self, whose: str) -> tuple[str, int] | None:
        address = self._writer.get_extra_info(whose)
        return (address[0], address[1]) if address else None

    async def _read(self) -> None:
        with contextlib.suppress(OSError):  # reset by the client
            while not self._lingers and (data := await self._reader.read(_MAX_READ)):
                async with self._lock:
                    await self._protocol.handle(RawData(data))
                if self._protocol.connection.buffered > _MAX_PIPELINED:
                    self.abort()
                    break
        await self._protocol.handle(Closed())  # cancels whoever answers a request
        if self._lingers:
            await self._drop()

    async def _drop(self) -> None:
        with contextlib.suppress(OSError):
            while await self._reader.read(_MAX_READ):
                pass

    async def _send(self, event: Event) -> None:
        """Do what the protocol says."""
        if isinstance(event, RawData):
            await self._write(event.data)
        elif isinstance(event, Closed):
            self.close()
        elif isinstance(event, Updated):
            self._become_idle(event.idle)
            if event.idle and self._protocol.connection.buffered:
                self._tasks.spawn(self._resume)

    async def _resume(self) -> None:
        async with self._lock:
            await self._protocol.resume()

    async def _write(self, data: bytes) -> None:
        if self._lingers:  # the response has ended, or been cut
            return
        transport = self._writer.transport
        self._writer.write(data)
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

    def _become_idle(self, idle: bool) -> None:
        self._stop_timer()
        self._is_idle = idle
        if idle:
            self._start_timer(self._settings.header_seconds, self.close)

    def _linger(self, seconds: float) -> None:
        self._lingers = True
        if self._writer.can_write_eof():  # TLS knows no half of a connection
            with contextlib.suppress(OSError):  # the client has reset it
                self._writer.write_eof()
        self._start_timer(seconds, self._finish)

    def _finish(self) -> None:
        """Close; a client that does not take the rest, or its goodbye, is cut off."""
        waits = self._writer.transport.get_write_buffer_size() > 0
        self._writer.close()
        stops = self._context.terminated.is_set() and not waits
        self._start_timer(_GOODBYE_SECONDS if stops else self._settings.stall_seconds, self.abort)

    def _start_timer(self, seconds: float, callback: Callable[[], None]) -> None:
        self._stop_timer()
        self._timer = asyncio.get_running_loop().call_later(seconds, callback)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _end(self) -> None:
        self._finish()
        with contextlib.suppress(OSError):  # the client closed first, or was cut off
            await self._writer.wait_closed()
        self._stop_timer()
