"""One connection: bytes between a socket and the protocol, with a limit on every wait.

It stands where Hypercorn has its `TCPServer`, which waits for a slow reader without end.
"""

import asyncio
import contextlib
import logging
import ssl
from typing import Any

from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.typing import ConnectionState

from llmstream_cli.server.http1 import Http1Protocol
from llmstream_cli.server.settings import ServerSettings

_log = logging.getLogger(__name__)

_MAX_READ = 64 * 1024
_MAX_PIPELINED = 64 * 1024  # bytes of later requests, while one is answered
_WRITE_BUFFER = 64 * 1024  # bytes; beyond them a response waits for its reader


class Connection:
    """Serves the requests of one connection, one after the other.

    Args:
        app: the application, as Hypercorn wraps it.
        config: Hypercorn's, for its protocol.
        context: Hypercorn's, shared by all connections.
        settings: the server's.
        reader: of the socket.
        writer: of the socket.

    Attributes:
        idle: no request is being answered.
    """

    def __init__(
        self,
        app: Any,
        config: Config,
        context: WorkerContext,
        settings: ServerSettings,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._app = app
        self._config = config
        self._context = context
        self._settings = settings
        self._reader = reader
        self._writer = writer
        self._lock = asyncio.Lock()  # of the protocol's events
        self._timer: asyncio.TimerHandle | None = None
        self.idle = True

    async def run(self) -> None:
        """Serve until either side closes."""
        self._writer.transport.set_write_buffer_limits(high=_WRITE_BUFFER)
        try:
            async with TaskGroup(asyncio.get_running_loop()) as tasks:
                self._tasks = tasks
                self._protocol = self._new_protocol(tasks)
                self._become_idle(True)
                await self._read()
        finally:
            self._stop_timer()
            await self._close()

    def close(self) -> None:
        """Close once what is written has been sent; whoever answers a request is cancelled."""
        self._writer.close()

    def abort(self) -> None:
        """Close at once."""
        self._writer.transport.abort()

    def _new_protocol(self, tasks: TaskGroup) -> Http1Protocol:
        return Http1Protocol(
            self._app,
            self._config,
            self._context,
            tasks,
            ConnectionState({}),
            self._writer.get_extra_info("ssl_object") is not None,
            self._address("peername"),
            self._address("sockname"),
            self._send,
        )

    def _address(self, whose: str) -> tuple[str, int] | None:
        address = self._writer.get_extra_info(whose)
        return (address[0], address[1]) if address else None

    async def _read(self) -> None:
        with contextlib.suppress(OSError, ssl.SSLError):  # reset by the client
            while data := await self._reader.read(_MAX_READ):
                async with self._lock:
                    await self._protocol.handle(RawData(data))
                if self._protocol.connection.buffered > _MAX_PIPELINED:
                    self.abort()
                    break
        await self._protocol.handle(Closed())  # cancels whoever answers a request

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
        self.idle = idle
        if idle:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._settings.header_seconds, self.close)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _close(self) -> None:
        self._writer.close()
        try:
            async with asyncio.timeout(self._settings.stall_seconds):
                await self._writer.wait_closed()
        except TimeoutError:
            self.abort()
        except (OSError, ssl.SSLError):
            pass  # the client closed first
